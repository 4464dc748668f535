"""What Triton says of the models it has, held against what the files say.

``judge_versions`` reads the repository index; ``describe_running`` reads the config that a model runs with. Triton
fills defaults into that (names, version policy, preferred batch, pinned memory, ``runtime``), so a model counts as
canonical when all that its file sets is found again, not when the two are equal. Two lists must be of one length,
though, and ``parameters`` have the same keys: more than the file has came from elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import Any

from orchestrator.planner.host import LoadedModel, ModelStatus
from orchestrator.triton.client import IndexEntry
from orchestrator.triton.messages import ModelConfig
from orchestrator.triton.repository import NONCE, RepositoryEntry, encode_config, parse_batching

UNLOADED = "unloaded"
PYTHON_RUNTIME = "model.py"

# One answering version is enough, and a version that comes or goes is more than one that failed.
_PRECEDENCE = (
    ("READY", ModelStatus.READY),
    ("LOADING", ModelStatus.LOADING),
    ("UNLOADING", ModelStatus.UNLOADING),
)


def group_versions(index: Iterable[IndexEntry]) -> dict[str, tuple[IndexEntry, ...]]:
    """Return the versions of each model of a repository index that is ordered by name."""
    return {name: tuple(versions) for name, versions in groupby(index, key=lambda entry: entry.name)}


def judge_versions(versions: Sequence[IndexEntry]) -> tuple[ModelStatus, str]:
    """Return where a model stands by what the index says of its versions, and why when it failed."""
    states = {version.state for version in versions}
    for state, status in _PRECEDENCE:
        if state in states:
            return status, ""
    failed = [v.reason for v in versions if v.state == "UNAVAILABLE" and v.reason not in ("", UNLOADED)]
    return (ModelStatus.FAILED, " ".join("; ".join(failed).split())) if failed else (ModelStatus.ABSENT, "")


def describe_running(entry: RepositoryEntry, running: ModelConfig) -> LoadedModel:
    """Return a READY model by the config it runs with."""
    found = encode_config(running)
    return LoadedModel(
        name=entry.model.name,
        status=ModelStatus.READY,
        instances=sum(group.count for group in running.instance_group),
        batching=parse_batching(found.get("dynamic_batching", {}), running.max_batch_size),
        nonce=running.parameters[NONCE].string_value if NONCE in running.parameters else "",
        is_canonical=is_canonical(found, entry.config),
        is_python_based=running.runtime == PYTHON_RUNTIME,
    )


def is_canonical(running: Mapping[str, Any], canonical: Mapping[str, Any]) -> bool:
    """Return whether a running config has all that the canonical one sets; both as JSON.

    The canonical one has no instance count, no batching parameters and no nonce, see RepositoryEntry.
    """
    keys = running.get("parameters", {}).keys() - {NONCE}
    return keys == canonical.get("parameters", {}).keys() and _contains(running, canonical)


def _contains(found: Any, wanted: Any) -> bool:
    if isinstance(wanted, Mapping):
        return isinstance(found, Mapping) and all(
            key in found and _contains(found[key], value) for key, value in wanted.items()
        )
    if isinstance(wanted, list):
        return (
            isinstance(found, list)
            and len(found) == len(wanted)
            and all(_contains(*pair) for pair in zip(found, wanted, strict=True))
        )
    return bool(found == wanted)
