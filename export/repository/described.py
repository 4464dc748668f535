"""Models of a family that were neither exported nor imported here: somebody wrote ``slim.*`` parameters by hand.

Only what a router reads is asked for: family, width and quality. Whatever else is said must be so.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from tritonclient.grpc import model_config_pb2

from export.errors import RepositoryError, WidthError
from export.repository.graph_check import run_model
from export.repository.imported_config import is_imported
from export.repository.model_config import read_header
from export.repository.model_files import CONFIG_FILE, MODEL_FILE
from export.width import Width, parse_percent

_WRITTEN_HERE = ("slim.labels", "slim.flops", "slim.sha256")
_REMEDY = "correct the configuration or the file"


class Origin(StrEnum):
    """Where a model of a family came from."""

    EXPORTED = "exported"
    IMPORTED = "imported"
    DESCRIBED = "described"


@dataclass(frozen=True, slots=True)
class DescribedModel:
    """What a configuration written by hand says of its model.

    Attributes:
        accuracy: The quality, of any scale, larger is better.
        labels: Class names; empty where none are given.
        flops: The work of an item; None where it is not said.
    """

    family: str
    width: Width
    accuracy: float
    labels: tuple[str, ...]
    flops: int | None


def judge_origin(config: model_config_pb2.ModelConfig, text: str) -> Origin | None:
    """Return where a model came from, None for one that is not described at all.

    What has the header of an export, or all parameters of one, was exported: a lost header must not make less of it.
    """
    if not any(key.startswith("slim.") for key in config.parameters):
        return None
    if is_imported(config):
        return Origin.IMPORTED
    if read_header(text) is not None or all(key in config.parameters for key in _WRITTEN_HERE):
        return Origin.EXPORTED
    return Origin.DESCRIBED


def verify_described(
    folder: Path, config: model_config_pb2.ModelConfig, text: str
) -> tuple[DescribedModel, list[str], list[str]]:
    """Return what a model says of itself, and errors and notes about it.

    Raises RepositoryError when a router would take it for no model of a family.
    """
    model = _read_described(config)
    if config.model_transaction_policy.decoupled:
        raise RepositoryError("it is decoupled, and a router takes models that answer each request once")
    if config.HasField("sequence_batching"):
        raise RepositoryError("it batches sequences, whose requests belong to one server; a router gives each its own")
    if config.backend != "onnxruntime":
        return (
            model,
            [],
            [f"backend {config.backend or config.platform!r} is not run here; only its parameters are checked"],
        )
    if not config.input or not config.output:
        return model, [], ["declares no inputs or outputs, which Triton completes; the model was not run"]
    try:
        content = (folder / MODEL_FILE).read_bytes()
    except OSError as exc:
        return model, [], [f"has no {MODEL_FILE} that can be read here ({exc.strerror}); it was not run"]
    errors = list(run_model(content, config, {}, {}, remedy=_REMEDY))
    sha256 = config.parameters["slim.sha256"].string_value if "slim.sha256" in config.parameters else ""
    if sha256 and hashlib.sha256(content).hexdigest() != sha256:
        errors.append(f"{MODEL_FILE} has not the sha256 {sha256[:12]}… that {CONFIG_FILE} says; {_REMEDY}")
    return model, errors, []


def _read_described(config: model_config_pb2.ModelConfig) -> DescribedModel:
    values = {key: value.string_value for key, value in config.parameters.items()}
    missing = [key for key in ("slim.family", "slim.width", "slim.accuracy") if not values.get(key)]
    if missing:
        raise RepositoryError(f"the parameter {missing[0]} is missing; give it, or remove all slim.* parameters")
    try:
        width = parse_percent(values["slim.width"])
    except WidthError as exc:
        raise RepositoryError(f"slim.width: {exc}") from exc
    try:
        accuracy = float(values["slim.accuracy"])
        flops = int(values["slim.flops"]) if "slim.flops" in values else None
        labels = json.loads(values.get("slim.labels", "[]"))
    except ValueError as exc:
        raise RepositoryError(f"a slim.* parameter makes no sense ({exc}); {_REMEDY}") from exc
    if not math.isfinite(accuracy):
        raise RepositoryError(f"slim.accuracy is {accuracy}, which is no quality; give a number, larger is better")
    if not isinstance(labels, list):
        raise RepositoryError("slim.labels is no JSON list of class names; give one or leave it out")
    return DescribedModel(values["slim.family"], width, accuracy, tuple(map(str, labels)), flops)
