"""Checks of a repository that is already there; needs neither PyTorch nor, for most of it, the onnx package.

What is found is graded. An *error* means that the model is not what its files claim, or that a server would
refuse it or answer wrongly: ``slimsched verify`` fails. A *note* is for a person to judge: a tuning value changed
by hand, which an operator may do, a check that could not be made here, or a folder that is not one of ours.

A model is judged by where it came from. Of one that was exported or imported here everything is known, so everything
is compared (``export.repository.edits`` finds edits by hand). One that somebody else described with ``slim.*``
parameters is held against what it says. All are read as a router reads them, and beside each other judged as it judges
them (``export.repository.routing``).
"""

from __future__ import annotations

import hashlib
import importlib.util
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from pathlib import Path, PurePosixPath

from tritonclient.grpc.model_config_pb2 import ModelConfig

from export.errors import RepositoryError
from export.repository import imported_config
from export.repository.described import Origin, judge_origin, verify_described
from export.repository.edits import find_edits
from export.repository.graph_check import run_model
from export.repository.imported_config import ImportedIdentity, read_imported
from export.repository.model_config import Identity, Tuning, parse_config, read_identity, to_protobuf
from export.repository.model_files import CONFIG_FILE, LABELS_FILE, MODEL_FILE, is_being_written, leftovers, read_model
from export.repository.routing import DescribedFleet, DescribedModel, Routed, judge_siblings, read_routed
from export.width import Width, useless_widths

MAX_IR = 10
MAX_OPSET = 20
ONNX_DOMAINS = ("", "ai.onnx")
"""Both name ONNX's own operators."""
_EXPORT_ANEW = "export it anew"
_IMPORT_ANEW = "import it anew"


_NO_FLEET = DescribedFleet()
AnyIdentity = Identity | ImportedIdentity | DescribedModel


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
    """A model folder and, where its configuration could be read, what it says it is.

    All but the name are None for a model that is of no family or can't be read.

    Attributes:
        routed: What a router makes of its configuration.
    """

    name: str
    identity: AnyIdentity | None = None
    origin: Origin | None = None
    routed: Routed | None = None


@dataclass(frozen=True, slots=True)
class Verification:
    """What a look at a repository brought: its models, by name, and what was found."""

    models: tuple[VerifiedModel, ...]
    findings: tuple[Finding, ...]


def verify_repository(repository: Path, fleet: DescribedFleet = _NO_FLEET) -> Verification:
    """Check every model against its own files, and what a fleet file says of them.

    Raises RepositoryError when there is no repository to check.
    """
    try:
        left = leftovers(repository)
        staging = {path.name for path in left}
        folders = sorted(path for path in repository.iterdir() if path.is_dir() and path.name not in staging)
    except OSError as exc:
        raise RepositoryError(f"can't read {repository} ({exc.strerror}); give a model repository") from exc
    models: list[VerifiedModel] = []
    is_running = bool(left) and is_being_written(repository)
    why = "an export is running" if is_running else "left by a crashed export; the next export removes it"
    findings = [Finding(path.name, Severity.NOTE, why) for path in left]
    for name, missing in fleet.missing(repository).items():
        message = f"is not here, and the fleet file describes it as width {missing.width} of family {missing.family}"
        findings.append(Finding(name, Severity.ERROR, f"{message}; add it, or correct 'families' there"))
    for folder in folders:
        try:
            model, found = _verify_model(folder, fleet.models.get(folder.name))
        except RepositoryError as exc:
            model, found = VerifiedModel(folder.name), [Finding(folder.name, Severity.ERROR, str(exc))]
        except OSError as exc:  # another user's, say
            message = f"can't read {exc.filename or folder} ({exc.strerror or exc}); let this user read it"
            model, found = VerifiedModel(folder.name), [Finding(folder.name, Severity.ERROR, message)]
        models.append(model)
        findings += found
    if not any(model.identity for model in models) and not findings:
        raise RepositoryError(f"{repository} holds no models; 'slimsched export' writes them")
    findings += _verify_families(models)
    return Verification(tuple(models), tuple(findings))


def _verify_model(folder: Path, described: DescribedModel | None) -> tuple[VerifiedModel, list[Finding]]:
    if described is not None and not (folder / CONFIG_FILE).exists():
        note = Finding(folder.name, Severity.NOTE, f"has no {CONFIG_FILE}, which Triton makes up; it was not checked")
        return VerifiedModel(folder.name, described, Origin.DESCRIBED), [note]
    text = _read(folder / CONFIG_FILE).decode(errors="replace")
    try:
        config = parse_config(text)
        origin = judge_origin(config, text) if described is None else Origin.DESCRIBED
        if origin is None:
            note = Finding(folder.name, Severity.NOTE, "is not a slimmable model; not checked")
            return VerifiedModel(folder.name), [note]
        routed = read_routed(folder.name, config, described)
        identity, errors, notes = _verify_by_origin(origin, routed, folder, config, text)
    except RepositoryError as exc:
        raise RepositoryError(f"{CONFIG_FILE}: {exc}") from exc
    if config.name != folder.name and (config.name or origin is not Origin.DESCRIBED):  # Triton takes the folder's
        errors.append(f"{CONFIG_FILE} names the model {config.name!r}; Triton refuses it in this folder")
    findings = [Finding(folder.name, Severity.ERROR, message) for message in errors]
    findings += [Finding(folder.name, Severity.NOTE, message) for message in notes]
    return VerifiedModel(folder.name, identity, origin, routed), findings


def _verify_by_origin(
    origin: Origin, routed: Routed, folder: Path, config: ModelConfig, text: str
) -> tuple[AnyIdentity, list[str], list[str]]:
    """Return what a model is, errors and notes; raises RepositoryError when the first is not known."""
    problems = [f"{CONFIG_FILE}: {routed.problem}"] if routed.problem else []
    identity: AnyIdentity
    if origin is Origin.DESCRIBED:
        if routed.identity is None or routed.problem:
            raise RepositoryError(routed.problem)
        identity = routed.identity
        errors, notes = verify_described(folder, config, identity)
    else:
        try:
            identity, errors, notes = _verify_written(origin, folder, config, text)
        except RepositoryError as exc:
            raise RepositoryError(routed.problem or str(exc)) from exc
    return identity, problems + errors, notes


def _verify_written(
    origin: Origin, folder: Path, config: ModelConfig, text: str
) -> tuple[Identity | ImportedIdentity, list[str], list[str]]:
    """Return what a model that was exported or imported here is, and errors and notes of configuration and files."""
    identity: Identity | ImportedIdentity
    build: Callable[[Tuning], ModelConfig]
    if origin is Origin.EXPORTED:
        identity = exported = read_identity(config)
        build, least_batch, remedy = partial(to_protobuf, exported), 1, _EXPORT_ANEW
    else:
        identity = imported = read_imported(config)
        build, least_batch, remedy = partial(imported_config.to_protobuf, imported), 0, _IMPORT_ANEW
    fingerprint = identity.fingerprint()
    errors, notes = find_edits(config, text, fingerprint=fingerprint, build=build, least_batch=least_batch, made=origin)
    more_errors, more_notes = _verify_files(folder, config, identity, remedy)
    return identity, errors + more_errors, notes + more_notes


def _verify_files(
    folder: Path, config: ModelConfig, identity: Identity | ImportedIdentity, remedy: str
) -> tuple[list[str], list[str]]:
    """Return errors and notes about the files of a model that was written here."""
    imported = identity if isinstance(identity, ImportedIdentity) else None
    warmups = dict(imported.warmup_files().values()) if imported else {}
    try:
        errors, notes = _compare_labels(folder, identity.labels, remedy) + _find_foreign(folder, warmups), []
        errors += [
            f"{path} is not the item that {CONFIG_FILE} says; {remedy}"
            for path, raw in warmups.items()
            if _read(folder / path) != raw
        ]
        model = _read(folder / MODEL_FILE)
    except RepositoryError as exc:
        return [str(exc)], []
    sha256 = hashlib.sha256(model).hexdigest()
    if sha256 != identity.sha256:
        errors.append(f"{MODEL_FILE} has sha256 {sha256[:12]}…, {CONFIG_FILE} says {identity.sha256[:12]}…; {remedy}")
    items, fills = (imported.items, imported.fills) if imported else ({}, {})
    errors += run_model(model, config, items, fills, remedy=remedy, is_finite=imported is None)
    limit = _check_versions(model)
    if limit is None:
        notes.append("IR and opset were not checked: needs the export extra")
    return errors + (limit or []), notes


def _find_foreign(folder: Path, warmups: Collection[str]) -> list[str]:
    """Report what no export writes; a second version above all, because Triton serves the highest."""
    files = sorted(read_model(folder).keys() - {CONFIG_FILE, LABELS_FILE, MODEL_FILE, *warmups})
    known = {"1", *(PurePosixPath(path).parts[0] for path in warmups)}
    versions = sorted(path.name for path in folder.iterdir() if path.is_dir() and path.name not in known)
    found = files or versions
    return [f"holds {found[0]}, which no export wrote and Triton may serve; move it away"] if found else []


def _compare_labels(folder: Path, labels: tuple[str, ...], remedy: str) -> list[str]:
    if not labels:
        is_there = (folder / LABELS_FILE).exists()
        return [f"holds {LABELS_FILE}, and {CONFIG_FILE} has no labels; move it away"] if is_there else []
    lines = _read(folder / LABELS_FILE).decode(errors="replace").splitlines()
    wanted = [" ".join(label.split()) for label in labels]
    if len(lines) != len(wanted):
        return [f"{LABELS_FILE} has {len(lines)} lines for {len(wanted)} classes; {remedy}"]
    return [
        f"{LABELS_FILE} line {index} is {found!r}, {CONFIG_FILE} says {label!r}; {remedy}"
        for index, (found, label) in enumerate(zip(lines, wanted, strict=True), start=1)
        if found != label
    ][:1]


def _check_versions(model: bytes) -> list[str] | None:
    """Return what is above the limits of old Triton images; None when the onnx package is missing."""
    if importlib.util.find_spec("onnx") is None:
        return None
    import onnx  # only here: the base install does without

    try:
        proto = onnx.load_model_from_string(model)
    except Exception:
        return []  # ONNX Runtime has said so already
    opset = max((entry.version for entry in proto.opset_import if entry.domain in ONNX_DOMAINS), default=0)
    if proto.ir_version > MAX_IR or opset > MAX_OPSET:
        return [
            f"{MODEL_FILE} has IR {proto.ir_version} and opset {opset}, above {MAX_IR} and {MAX_OPSET}; "
            "older Triton images can't read it"
        ]
    return []


def _verify_families(models: Sequence[VerifiedModel]) -> list[Finding]:
    """Report models that a router takes for none of their families, and what is wrong between those that it takes."""
    known = [(model, model.identity) for model in models if model.identity]
    known.sort(key=lambda found: found[1].width)
    problems = judge_siblings(
        (model.name, identity.family, identity.width, model.routed.served)
        for model, identity in known
        if model.routed and model.routed.served
    )
    findings = [Finding(name, Severity.ERROR, problem) for name, problem in problems.items()]
    families: dict[str, dict[str, AnyIdentity]] = {}
    for model, identity in known:
        if model.name not in problems:
            families.setdefault(identity.family, {})[model.name] = identity
    for siblings in families.values():
        findings += [*_verify_labels(siblings), *_find_useless(siblings)]
    return findings


def _verify_labels(siblings: Mapping[str, AnyIdentity]) -> Iterator[Finding]:
    """Report those of other classes than most of a family; among equals the narrowest is right."""
    counts = Counter(identity.labels for identity in siblings.values())
    usual = max(counts, key=counts.__getitem__)
    for name, identity in siblings.items():
        if identity.labels != usual:
            message = f"its labels are not those of most of family {identity.family}; make the family anew"
            yield Finding(name, Severity.ERROR, message)


def _find_useless(siblings: Mapping[str, AnyIdentity]) -> Iterator[Finding]:
    """Note those of a family that are no better than a narrower one."""
    quality = {Width(identity.width): identity.accuracy for identity in siblings.values()}
    useless = useless_widths(quality)
    for name, identity in siblings.items():
        better = useless.get(Width(identity.width))
        if better is not None:
            message = (
                f"its quality {identity.accuracy:g} is no better than the {quality[better]:g} of width {better}: it "
                "costs memory for nothing; remove it"
            )
            yield Finding(name, Severity.NOTE, message)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as exc:
        raise RepositoryError(f"can't read {path.parent.name}/{path.name} ({exc.strerror}); export it anew") from exc
