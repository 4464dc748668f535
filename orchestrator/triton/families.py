"""Which models are widths of a family: by their own configs, or by what the fleet file says of them.

The exporter writes ``slim.*`` parameters into every config.pbtxt, so that a router needs no file beside the servers'
addresses. Models whose configs nobody may touch are described in the fleet file instead (``families``), in any backend:
what the router needs beside that (inputs, outputs, largest batch, instances) every Triton says of every model.

A model that looks meant for a family and is none is a misfit: it is passed through like any other model, and its
reason is told, because otherwise it would look as if it were not there. A family's widths take the same inputs and give
outputs of the same names and types, else a caller's request would be right for one width and wrong for another; those
that differ from most are misfits too, and so is one whose width another model of its server has.
"""

from __future__ import annotations

import json
import logging
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any

from pydantic import ValidationError

from orchestrator.config.families import FamilySettings, PreprocessingSettings
from orchestrator.snapshot import Family, Fill, ModelName, Preprocessing, ServedModel, TensorSpec, Width
from orchestrator.triton.infer_wire import NUMPY_TYPES
from orchestrator.triton.messages import ModelConfig, data_type_name
from orchestrator.triton.trial_items import blank_batch, read_fills
from orchestrator.validation import describe_problems, join_problems

log = logging.getLogger(__name__)

REMEDY = "correct its config.pbtxt, export it again, or describe it under 'families' in the fleet file"

DESCRIBED_REMEDY = "correct what 'families' in the fleet file says of it, or take it out there"


@dataclass(frozen=True, slots=True)
class Identity:
    """What of a model no Triton knows, as in ``ServedModel``; of its usual item what is known, by input."""

    family: Family
    width: Width
    accuracy: float
    flops: int | None = None
    sha256: str | None = None
    labels: tuple[str, ...] = ()
    preprocessing: Preprocessing | None = None
    usual_item: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    fills: Mapping[str, Fill] = field(default_factory=dict)


Described = Mapping[str, Identity]
"""What the fleet file says of models, by their names."""


@dataclass(frozen=True, slots=True)
class Misfit:
    """A model that looks meant for a family and is none, with the reason in one line."""

    model: str
    reason: str


@dataclass(frozen=True, slots=True)
class Interface:
    """What all widths of a family have in common: inputs, names and types of outputs, and a batch dimension or none."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[tuple[str, str], ...]
    is_batching: bool

    def __str__(self) -> str:
        taken = ", ".join(f"{spec.name} {spec.datatype} {list(spec.shape)}" for spec in self.inputs)
        given = ", ".join(f"{name} {datatype}" for name, datatype in self.outputs)
        return f"takes {taken} and gives {given}, {'with' if self.is_batching else 'without'} a batch dimension"


def describe_models(families: Iterable[FamilySettings]) -> Described:
    """Return what the fleet file says of each model that it describes, without variants that are useless."""
    described: dict[str, Identity] = {}
    for family in families:
        described |= describe_family(family)
        for variant, warning in zip(family.useless, family.warnings, strict=True):
            del described[variant.model]
            log.warning("%s", warning)
    return described


def describe_family(family: FamilySettings) -> dict[str, Identity]:
    """Return what the fleet file says of each model of a family."""
    prepared = None if family.preprocessing is None else family.preprocessing.value()
    about: dict[str, Any] = {"labels": family.labels, "preprocessing": prepared}
    about |= {"usual_item": family.item, "fills": family.fill}
    return {
        variant.model: Identity(Family(family.name), Width(variant.width), variant.quality, **about)
        for variant in family.variants
    }


def read_width(config: ModelConfig, described: Described) -> ServedModel | Misfit | None:
    """Return the width that a model is, None when it is not meant for any family; the fleet file goes first."""
    parameters = {key: value.string_value for key, value in config.parameters.items()}
    known = described.get(config.name)
    try:
        identity = known or read_identity(parameters)
        return None if identity is None else as_served(config, identity)
    except ValueError as exc:
        return Misfit(config.name, f"{exc}; {DESCRIBED_REMEDY if known else REMEDY}")


def read_identity(parameters: Mapping[str, str]) -> Identity | None:
    """Return what a config says of itself, None when nothing; raises ValueError when that makes no sense."""
    if "slim.family" not in parameters:
        return None
    if not parameters["slim.family"]:
        raise ValueError("slim.family is empty")
    for key in ("slim.width", "slim.accuracy"):
        if key not in parameters:
            raise ValueError(f"it has slim.family and lacks {key}")
    width = parameters["slim.width"]
    if not (width.isascii() and width.isdigit() and 1 <= int(width) <= 100):
        raise ValueError(f"slim.width {width!r} is no whole percentage from 1 to 100")
    accuracy = _read_number(parameters, "slim.accuracy", float)
    if not math.isfinite(accuracy):
        raise ValueError(f"slim.accuracy {parameters['slim.accuracy']!r} is not finite")
    return Identity(
        family=Family(parameters["slim.family"]),
        width=Width(int(width)),
        accuracy=accuracy,
        flops=_read_number(parameters, "slim.flops", int) or None if "slim.flops" in parameters else None,
        sha256=parameters.get("slim.sha256"),
        labels=read_labels(parameters.get("slim.labels", "[]")),
        preprocessing=read_preprocessing(parameters.get("slim.preprocessing")),
        usual_item=read_shapes(parameters.get("slim.item", "{}")),
        fills=read_fills(parameters.get("slim.fill", "{}")),
    )


def _read_number(parameters: Mapping[str, str], key: str, kind: Any) -> Any:
    try:
        return kind(parameters[key])
    except ValueError:
        raise ValueError(f"{key} {parameters[key]!r} is no number") from None


def read_labels(text: str) -> tuple[str, ...]:
    """Return what ``slim.labels`` says; raises ValueError when that makes no sense."""
    try:
        labels = json.loads(text)
    except (ValueError, RecursionError):
        labels = None
    if not isinstance(labels, list):
        raise ValueError("slim.labels is no JSON list")
    return tuple(map(str, labels))


def read_shapes(text: str) -> Mapping[str, tuple[int, ...]]:
    """Return what ``slim.item`` says; raises ValueError when that makes no sense."""
    try:
        return {name: tuple(map(int, shape)) for name, shape in json.loads(text).items()}
    except (ValueError, TypeError, AttributeError, OverflowError, RecursionError):
        raise ValueError(f"slim.item {text[:80]!r} is no JSON object of shapes by input") from None


def read_preprocessing(text: str | None) -> Preprocessing | None:
    """Return what ``slim.preprocessing`` says, None when nothing; raises ValueError when that makes no sense."""
    if text is None:
        return None
    try:
        return PreprocessingSettings.model_validate_json(text).value()
    except ValidationError as exc:
        problems = [problem.text for problem in describe_problems(exc, PreprocessingSettings)]
        raise ValueError(join_problems("slim.preprocessing", problems)) from exc


def as_served(config: ModelConfig, identity: Identity) -> ServedModel:
    """Return a width as a Triton serves it; raises ValueError when the router can't group its requests."""
    if config.model_transaction_policy.decoupled:
        raise ValueError("it is decoupled, and the router takes models that answer each request once")
    if config.HasField("sequence_batching"):
        raise ValueError("it batches sequences, whose requests belong to one server; the router gives each its own")
    if not config.input or not config.output:
        raise ValueError(f"it has {len(config.input)} inputs and {len(config.output)} outputs, and needs one of each")
    inputs = tuple(map(read_spec, config.input))
    for key, about in (("slim.item", identity.usual_item), ("slim.fill", identity.fills)):
        if unknown := sorted(about.keys() - {spec.name for spec in inputs}):
            raise ValueError(f"{key} is about {unknown[0]!r}, and the inputs are {', '.join(t.name for t in inputs)}")
    served = ServedModel(
        name=ModelName(config.name),
        family=identity.family,
        width=identity.width,
        accuracy=identity.accuracy,
        flops=identity.flops,
        max_batch_size=max(1, config.max_batch_size),
        instances=sum(group.count for group in config.instance_group) or 1,
        sha256=identity.sha256,
        inputs=inputs,
        outputs=tuple(map(read_spec, config.output)),
        labels=identity.labels,
        preprocessing=identity.preprocessing,
        is_batching=config.max_batch_size > 0,
        usual_item=_shapes_of(inputs, identity.usual_item),
        fills=tuple(identity.fills.get(spec.name) for spec in inputs) if identity.fills else (),
    )
    if served.fills:
        blank_batch(served, 1)  # whether each input takes what it is filled with
    return served


def read_spec(tensor: Any) -> TensorSpec:
    """Return an input or output of a config; raises ValueError for a type that no array can hold."""
    datatype = data_type_name(tensor.data_type)
    if datatype not in NUMPY_TYPES:
        raise ValueError(f"{tensor.name!r} is of type {datatype}, which is none of {', '.join(NUMPY_TYPES)}")
    return TensorSpec(tensor.name, datatype, tuple(tensor.dims))


def _shapes_of(inputs: Sequence[TensorSpec], known: Mapping[str, tuple[int, ...]]) -> tuple[tuple[int, ...], ...]:
    """Return a usual item's shapes, none when none is known; raises ValueError for one that its input does not take."""
    for spec in inputs:
        shape = known.get(spec.name, spec.shape)
        if not spec.takes(shape):
            raise ValueError(f"slim.item has {list(shape)} for {spec.name!r}, which takes {list(spec.shape)}")
    return tuple(known.get(spec.name, spec.shape) for spec in inputs) if known else ()


def interface_of(model: ServedModel) -> Interface:
    """Return what a width has in common with its siblings."""
    return Interface(model.inputs, tuple((spec.name, spec.datatype) for spec in model.outputs), model.is_batching)


def choose_interfaces(
    found: Iterable[tuple[Family, Width, Interface]], before: Mapping[Family, Interface]
) -> dict[Family, Interface]:
    """Return what most models of each family have; among equals what was chosen before, else the narrowest width's."""
    counts: dict[Family, Counter[Interface]] = {}
    for family, _, interface in sorted(found, key=lambda entry: entry[1]):
        counts.setdefault(family, Counter())[interface] += 1
    return {
        family: max(count, key=lambda interface: (count[interface], interface == before.get(family)))
        for family, count in counts.items()
    }


def interfaces_of(models: Iterable[ServedModel]) -> list[tuple[Family, Width, Interface]]:
    """Return what ``choose_interfaces`` takes of models."""
    return [(model.family, model.width, interface_of(model)) for model in models]


def find_misfits(models: Iterable[ServedModel], chosen: Mapping[Family, Interface]) -> dict[str, str]:
    """Return why models of one server are none of their family, by name."""
    return misfits_among(((model.name, model.family, model.width, interface_of(model)) for model in models), chosen)


def misfits_among(
    models: Iterable[tuple[ModelName, Family, Width, Interface]], chosen: Mapping[Family, Interface]
) -> dict[str, str]:
    """Return the same of models of one server that are known by so much: they differ from most, or have a twin.

    Of several of one width the first by name counts.
    """
    misfits: dict[str, str] = {}
    first: dict[tuple[Family, Width], ModelName] = {}
    for name, family, width, interface in sorted(models, key=itemgetter(0)):
        if interface != chosen[family]:
            misfits[name] = f"it {interface}, while family {family} {chosen[family]}; {REMEDY}"
        elif (twin := first.setdefault((family, width), name)) != name:
            misfits[name] = f"it is width {width} of family {family}, as {twin} is; {REMEDY}"
    return misfits
