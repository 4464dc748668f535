"""Models of a family that were neither exported nor imported here: somebody wrote ``slim.*`` parameters by hand.

What they say is read as a router reads it (``export.repository.routing``); whatever they say must be so.
"""

from __future__ import annotations

import hashlib
from enum import StrEnum
from pathlib import Path

from tritonclient.grpc import model_config_pb2

from export.repository.graph_check import run_model
from export.repository.imported_config import is_imported
from export.repository.model_config import read_header
from export.repository.model_files import CONFIG_FILE, MODEL_FILE
from export.repository.routing import DescribedModel

_WRITTEN_HERE = ("slim.labels", "slim.flops", "slim.sha256")
_REMEDY = "correct the configuration or the file"


class Origin(StrEnum):
    """Where a model of a family came from."""

    EXPORTED = "exported"
    IMPORTED = "imported"
    DESCRIBED = "described"


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
    folder: Path, config: model_config_pb2.ModelConfig, identity: DescribedModel
) -> tuple[list[str], list[str]]:
    """Return errors and notes about a model that a router would take for one of its family."""
    if config.backend != "onnxruntime":
        return [], [f"backend {config.backend or config.platform!r} is not run here; only its parameters are checked"]
    if not config.input or not config.output:
        return [], ["declares no inputs or outputs, which Triton completes; the model was not run"]
    try:
        content = (folder / MODEL_FILE).read_bytes()
    except OSError as exc:
        return [], [f"has no {MODEL_FILE} that can be read here ({exc.strerror}); it was not run"]
    errors = list(run_model(content, config, identity.usual_item, identity.fills, remedy=_REMEDY))
    sha256 = identity.sha256
    if sha256 and hashlib.sha256(content).hexdigest() != sha256:
        errors.append(f"{MODEL_FILE} has not the sha256 {sha256[:12]}… that {CONFIG_FILE} says; {_REMEDY}")
    return errors, []
