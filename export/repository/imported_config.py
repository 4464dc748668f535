"""Triton's ModelConfig of an imported variant: any inputs and outputs, and a quality by whatever metric.

``slim.source`` tells it from what was trained and exported here, ``slim.metric`` says what ``slim.accuracy`` is. Where
an input has free dims besides the batch, ``slim.item`` has the shapes of the item that ``slim.flops`` was counted for
and that warm-up runs. What that item has instead of zeros, where the network can't run these, is ``slim.fill``. Nothing
is assumed of layout, so the inputs have no ``format``.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import PurePosixPath

from tritonclient.grpc import model_config_pb2

from export.errors import RepositoryError
from export.repository.model_config import (
    Tuning,
    add_warmup,
    model_name,
    new_config,
    render_text,
)
from export.repository.model_files import LABELS_FILE
from export.repository.signature import FREE, Signature, Tensor, config_signature, fill
from export.repository.trial_item import Fills, read_fills, render_fills, warmup_files
from export.width import Width

SOURCE = "slim.source"
IMPORTED = "imported"
GIVEN = "given"
"""Name of the metric when the qualities were given and not measured."""


@dataclass(frozen=True, slots=True)
class ImportedIdentity:
    """What an imported variant is; changing any of it makes another model.

    Attributes:
        family: The name of the family; all its variants have the same.
        signature: Inputs and outputs as served, without the batch dimension where it batches.
        items: An item's shape for each input that has free dims, by name.
        fills: What an item has instead of zeros, by input.
        labels: Class names; the index is the class. Empty where there are no classes.
        scored: The output that the labels belong to; None without labels.
        accuracy: The quality by the metric, of any scale, larger is better; rounded to six digits.
        metric: What was measured, such as ``top-1``, or ``given``.
        flops: The work of one item; a multiply-add counts as two.
        sha256: The digest of ``model.onnx``, hexadecimal.
        preprocessing: What an image file goes through, as JSON; empty when nothing is said of it.
    """

    family: str
    width: Width
    signature: Signature
    accuracy: float
    metric: str
    flops: int
    sha256: str
    items: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    fills: Fills = field(default_factory=dict)
    labels: tuple[str, ...] = ()
    scored: str | None = None
    preprocessing: str = ""

    @property
    def name(self) -> str:
        """The model's name in Triton, ``plates_w030``."""
        return model_name(self.family, self.width)

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """The shape of an item for each input."""
        return {tensor.name: fill(tensor, self.items.get(tensor.name)) for tensor in self.signature.inputs}

    def warmup_files(self) -> Mapping[str, tuple[str, bytes]]:
        """Return path and content of the warm-up file of each input that is filled, by input.

        Raises ValueError for a fill that its input does not take.
        """
        return warmup_files(self.signature.inputs, self.shapes, self.fills)

    def fingerprint(self) -> str:
        """Return a hash over all values, hexadecimal."""
        values = asdict(self) | {"accuracy": render_quality(self.accuracy)}
        for later in ("preprocessing", "fills"):
            if not values[later]:
                del values[later]  # so that configs without it stay what they were
        for tensor in (*values["signature"]["inputs"], *values["signature"]["outputs"]):
            if not tensor["is_reshaped"]:
                del tensor["is_reshaped"]
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def render_quality(quality: float) -> str:
    """Return a quality as it is written down."""
    return f"{quality:.6g}"


def is_imported(config: model_config_pb2.ModelConfig) -> bool:
    """Return whether a configuration says that it was imported."""
    return SOURCE in config.parameters and config.parameters[SOURCE].string_value == IMPORTED


def to_protobuf(identity: ImportedIdentity, tuning: Tuning) -> model_config_pb2.ModelConfig:
    """Return Triton's message for a variant; raises RepositoryError when a tuning value is out of range."""
    config = new_config(identity.name, tuning, least_batch=0)
    for declared, tensors in ((config.input, identity.signature.inputs), (config.output, identity.signature.outputs)):
        for tensor in tensors:
            message = declared.add(
                name=tensor.name, data_type=model_config_pb2.DataType.Value(tensor.data_type), dims=tensor.dims
            )
            if tensor.is_reshaped:
                message.reshape.SetInParent()  # to no dim at all
            if tensor.name == identity.scored and declared is config.output:
                message.label_filename = LABELS_FILE
    add_warmup(
        config, identity.shapes, {name: PurePosixPath(path).name for name, (path, _) in identity.warmup_files().items()}
    )
    for key, value in _parameters(identity).items():
        config.parameters[key].string_value = value
    return config


def render_imported(identity: ImportedIdentity, tuning: Tuning) -> str:
    """Return the text of ``config.pbtxt``; equal values give equal text."""
    return render_text(to_protobuf(identity, tuning), tuning, identity.fingerprint(), command="import")


def _parameters(identity: ImportedIdentity) -> dict[str, str]:
    values = {
        SOURCE: IMPORTED,
        "slim.family": identity.family,
        "slim.width": str(identity.width),
        "slim.accuracy": render_quality(identity.accuracy),
        "slim.metric": identity.metric,
        "slim.flops": str(identity.flops),
        "slim.sha256": identity.sha256,
    }
    if identity.items:
        values["slim.item"] = json.dumps({name: list(shape) for name, shape in sorted(identity.items.items())})
    if identity.fills:
        values["slim.fill"] = render_fills(identity.fills)
    if identity.labels:
        values["slim.labels"] = json.dumps(identity.labels, ensure_ascii=True)
    if identity.preprocessing:
        values["slim.preprocessing"] = identity.preprocessing
    return values


def read_imported(config: model_config_pb2.ModelConfig) -> ImportedIdentity:
    """Return what a configuration says the variant is.

    Raises RepositoryError when it lacks a ``slim.*`` parameter or one makes no sense.
    """
    values = {key: value.string_value for key, value in config.parameters.items()}
    try:
        items = {name: tuple(map(int, shape)) for name, shape in json.loads(values.get("slim.item", "{}")).items()}
        signature = config_signature(config)
        _require_items(signature.inputs, items)
        identity = ImportedIdentity(
            family=values["slim.family"],
            width=Width(int(values["slim.width"])),
            signature=signature,
            accuracy=float(values["slim.accuracy"]),
            metric=values["slim.metric"],
            flops=int(values["slim.flops"]),
            sha256=values["slim.sha256"],
            items=items,
            fills=read_fills(values.get("slim.fill", "{}")),
            labels=tuple(json.loads(values.get("slim.labels", "[]"))),
            scored=next((output.name for output in config.output if output.label_filename), None),
            preprocessing=values.get("slim.preprocessing", ""),
        )
        identity.warmup_files()  # whether every input takes its fill
        return identity
    except KeyError as exc:
        raise RepositoryError(f"the parameter {exc.args[0]} is missing; import it anew") from exc
    except (ValueError, TypeError, AttributeError, OverflowError, RecursionError) as exc:
        raise RepositoryError(f"a slim.* parameter makes no sense ({exc}); import it anew") from exc


def _require_items(inputs: tuple[Tensor, ...], items: Mapping[str, tuple[int, ...]]) -> None:
    for tensor in inputs:
        if tensor.name in items and len(items[tensor.name]) != len(tensor.dims):
            raise ValueError(f"slim.item has {list(items[tensor.name])} for {tensor}")
        if FREE in tensor.dims and tensor.name not in items:
            raise ValueError(f"slim.item has no shape for {tensor}")
