"""Checks of a repository that is already there; needs neither PyTorch nor, for most of it, the onnx package.

What is found is graded. An *error* means that the model is not what its files claim, or that a server would
refuse it or answer wrongly: ``slimsched verify`` fails. A *note* is for a person to judge: a tuning value changed
by hand, which an operator may do, a check that could not be made here, or a folder that is not one of ours.

How edits are found: the configuration's header repeats the tuning it was exported with and a fingerprint of the
values that describe the weights. The file is parsed into typed values, the configuration is generated again from
these values and the header's tuning, and the two are compared field by field.
"""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from google.protobuf import json_format
from tritonclient.grpc import model_config_pb2

from export.errors import RepositoryError, one_line
from export.repository.model_config import (
    INPUT_NAME,
    LABELS_FILE,
    OUTPUT_NAME,
    Identity,
    parse_config,
    read_header,
    read_identity,
    read_tuning,
    to_protobuf,
)
from export.repository.model_files import CONFIG_FILE, MODEL_FILE, leftovers, read_model

MAX_IR = 10
MAX_OPSET = 20
_TUNING_FIELDS = (
    "max_batch_size",
    "instance_group",
    "dynamic_batching",
    "model_warmup",
    "optimization",
    "parameters.intra_op_thread_count",
    "parameters.cudnn_conv_algo_search",
    "parameters.arena_extend_strategy",
    "parameters.gpu_mem_limit",
)
"""An operator may change these; all other fields say what the model is."""
_HARMFUL_FIELDS = ("dynamic_batching.default_queue_policy", "dynamic_batching.priority")
"""Tuning all the same, but each of them switches Triton's prefetching off and degrades throughput."""
_FORMAT_FIELD = "input[0].format"


class Severity(StrEnum):
    """How bad a finding is."""

    NOTE = "note"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is not as exported, in one line with what to do; ``model`` is the name of the model's folder."""

    model: str
    severity: Severity
    message: str


@dataclass(frozen=True, slots=True)
class VerifiedModel:
    """A model folder and, where its configuration could be read, what it says it is."""

    name: str
    identity: Identity | None  # None when it is not one of ours or can't be read


@dataclass(frozen=True, slots=True)
class Verification:
    """What a look at a repository brought: its models, by name, and what was found."""

    models: tuple[VerifiedModel, ...]
    findings: tuple[Finding, ...]


def verify_repository(repository: Path) -> Verification:
    """Check every model against its own files; raises RepositoryError when there is no repository to check."""
    try:
        folders = sorted(path for path in repository.iterdir() if path.is_dir() and path not in leftovers(repository))
    except OSError as exc:
        raise RepositoryError(f"can't read {repository} ({exc.strerror}); give a model repository") from exc
    models: list[VerifiedModel] = []
    findings = [
        Finding(path.name, Severity.NOTE, "left by a crashed export; the next export removes it")
        for path in leftovers(repository)
    ]
    for folder in folders:
        try:
            identity, found = _verify_model(folder)
        except RepositoryError as exc:
            identity, found = None, [Finding(folder.name, Severity.ERROR, str(exc))]
        models.append(VerifiedModel(folder.name, identity))
        findings += found
    if not any(model.identity for model in models) and not findings:
        raise RepositoryError(f"{repository} holds no models; 'slimsched export' writes them")
    findings += _verify_families([model.identity for model in models if model.identity])
    return Verification(tuple(models), tuple(findings))


def _verify_model(folder: Path) -> tuple[Identity | None, list[Finding]]:
    text = _read(folder / CONFIG_FILE).decode(errors="replace")
    try:
        config = parse_config(text)
    except RepositoryError as exc:
        raise RepositoryError(f"{CONFIG_FILE}: {exc}") from exc
    if not any(key.startswith("slim.") for key in config.parameters):
        return None, [Finding(folder.name, Severity.NOTE, "is not a slimmable model; not checked")]
    try:
        identity = read_identity(config)
        errors, notes = _compare_config(config, identity, text)
    except RepositoryError as exc:
        raise RepositoryError(f"{CONFIG_FILE}: {exc}") from exc
    if config.name != folder.name:
        errors.append(f"{CONFIG_FILE} names the model {config.name!r}; Triton refuses it in this folder")
    errors += _compare_labels(folder, identity) + _find_foreign(folder)
    model = _read(folder / MODEL_FILE)
    sha256 = hashlib.sha256(model).hexdigest()
    if sha256 != identity.sha256:
        errors.append(
            f"{MODEL_FILE} has sha256 {sha256[:12]}…, {CONFIG_FILE} says {identity.sha256[:12]}…; export it anew"
        )
    errors += list(_run_model(model, identity))
    limit = _check_versions(model)
    if limit is None:
        notes.append("IR and opset were not checked: needs the export extra")
    errors += limit or []
    found = [Finding(folder.name, Severity.ERROR, message) for message in errors]
    return identity, found + [Finding(folder.name, Severity.NOTE, message) for message in notes]


def _compare_config(config: model_config_pb2.ModelConfig, identity: Identity, text: str) -> tuple[list[str], list[str]]:
    """Return errors and notes of what differs from the configuration that the file's own values would give."""
    header = read_header(text)
    notes: list[str] = []
    errors: list[str] = []
    if header is None:
        errors.append(f"{CONFIG_FILE} lost its header, so what was changed by hand can't be told; export it anew")
        tuning = read_tuning(config)
    else:
        tuning, fingerprint = header
        read_tuning(config)
        if fingerprint != identity.fingerprint():
            errors.append(
                f"{CONFIG_FILE} was edited by hand: a slim.* parameter or the input is not what was exported; "
                "export it anew"
            )
    wanted = _flatten(to_protobuf(identity, tuning))
    found = _flatten(config)
    differing = [field for field in sorted(wanted.keys() | found.keys()) if wanted.get(field) != found.get(field)]
    for field in differing:
        if any(other.startswith(f"{field}.") for other in differing):
            continue  # its parts say more
        message = (
            f"{CONFIG_FILE} was edited by hand: {field} is {_show(found.get(field))}, "
            f"exported was {_show(wanted.get(field))}"
        )
        if field == _FORMAT_FIELD and field not in found:
            notes.append(
                f"{CONFIG_FILE} lacks {field}, as exports once did; clients for images refuse it: export it anew"
            )
        elif field.startswith(_HARMFUL_FIELDS):
            notes.append(f"{message}; this switches Triton's prefetching off, leave deadlines to the router")
        elif field.startswith(_TUNING_FIELDS):
            notes.append(message)
        else:
            errors.append(f"{message}; export it anew")
    return errors, notes


def _flatten(message: model_config_pb2.ModelConfig) -> dict[str, Any]:
    """Return the set fields by path, ``instance_group[0].count``; a message that is present is ``{}``."""
    flat: dict[str, Any] = {}

    def walk(path: str, value: Any) -> None:
        match value:
            case dict():
                flat[path] = {}
                for key, item in value.items():
                    walk(f"{path}.{key}" if path else key, item)
            case list():
                for index, item in enumerate(value):
                    walk(f"{path}[{index}]", item)
            case _:
                flat[path.removesuffix(".string_value")] = value

    walk("", json_format.MessageToDict(message, preserving_proto_field_name=True))
    return flat


def _show(value: object) -> str:
    return "absent" if value is None else repr(value)


def _find_foreign(folder: Path) -> list[str]:
    """Report what no export writes; a second version above all, because Triton serves the highest."""
    files = sorted(read_model(folder).keys() - {CONFIG_FILE, LABELS_FILE, MODEL_FILE})
    versions = sorted(path.name for path in folder.iterdir() if path.is_dir() and path.name != "1")
    found = files or versions
    return [f"holds {found[0]}, which no export wrote and Triton may serve; move it away"] if found else []


def _compare_labels(folder: Path, identity: Identity) -> list[str]:
    lines = _read(folder / LABELS_FILE).decode(errors="replace").splitlines()
    wanted = [" ".join(label.split()) for label in identity.labels]
    if len(lines) != len(wanted):
        return [f"{LABELS_FILE} has {len(lines)} lines for {len(wanted)} classes; export it anew"]
    return [
        f"{LABELS_FILE} line {index} is {found!r}, {CONFIG_FILE} says {label!r}; export it anew"
        for index, (found, label) in enumerate(zip(lines, wanted, strict=True), start=1)
        if found != label
    ][:1]


def _run_model(model: bytes, identity: Identity) -> Iterator[str]:
    """Yield what keeps the graph from being served under this configuration; it is run, not only read."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as exc:  # ONNX Runtime's exceptions share no base of their own
        yield f"{MODEL_FILE} can't be loaded by ONNX Runtime ({one_line(exc)}); export it anew"
        return
    declared = {
        INPUT_NAME: ("tensor(float)", list(identity.shape)),
        OUTPUT_NAME: ("tensor(float)", [len(identity.labels)]),
    }
    actual = {t.name: (t.type, list(t.shape[1:])) for t in (*session.get_inputs(), *session.get_outputs())}
    if actual != declared:
        yield f"{MODEL_FILE} takes and gives {actual}, {CONFIG_FILE} says {declared}; export it anew"
        return
    for batch in (1, 3):
        pixels = np.zeros((batch, *identity.shape), dtype=np.float32)
        try:
            logits = session.run([OUTPUT_NAME], {INPUT_NAME: pixels})[0]
        except Exception as exc:
            yield f"{MODEL_FILE} can't run a batch of {batch} ({one_line(exc)}); export it anew"
            return
        if logits.shape != (batch, len(identity.labels)) or not np.isfinite(logits).all():
            yield f"{MODEL_FILE} gives {logits.shape} logits, or infinite ones, for {batch} images; export it anew"
            return


def _check_versions(model: bytes) -> list[str] | None:
    """Return what is above the limits of old Triton images; None when the onnx package is missing."""
    if importlib.util.find_spec("onnx") is None:
        return None
    import onnx  # only here: the base install does without

    try:
        proto = onnx.load_model_from_string(model)
    except Exception:
        return []  # ONNX Runtime has said so already
    opset = max((entry.version for entry in proto.opset_import if not entry.domain), default=0)
    if proto.ir_version > MAX_IR or opset > MAX_OPSET:
        return [
            f"{MODEL_FILE} has IR {proto.ir_version} and opset {opset}, above {MAX_IR} and {MAX_OPSET}; "
            "older Triton images can't read it"
        ]
    return []


def _verify_families(identities: list[Identity]) -> list[Finding]:
    """Report widths that do not belong to their siblings: same family, other images or classes."""
    findings = []
    for identity in identities:
        widest = max((i for i in identities if i.family == identity.family), key=lambda i: i.width)
        if (identity.shape, identity.labels) != (widest.shape, widest.labels):
            message = (
                f"is an orphan: it has other images or labels than {widest.name}; export the family anew or remove it"
            )
            findings.append(Finding(identity.name, Severity.ERROR, message))
    return findings


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as exc:
        raise RepositoryError(f"can't read {path.parent.name}/{path.name} ({exc.strerror}); export it anew") from exc
