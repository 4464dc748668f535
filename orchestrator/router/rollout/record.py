"""The files of a rollout, beside the policy's: where it stands, and a copy of the policy in force.

A router that can't write them goes on, and begins anew after a restart. Several processes share them, see ``reconcile``
of ``stages``.
"""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path
from typing import Final

from pydantic import TypeAdapter

from orchestrator.files import read_file, write_atomically
from orchestrator.router.rollout.stages import Rollout, Source, resume

_RECORD: Final = TypeAdapter(Rollout)
_MOST_BYTES: Final = 2**20
_LATEST_UNIX_S: Final = 1e11  # a time that can be written as a date
MOST_POLICY_BYTES: Final = 64 * 2**20


def kept_path(policy_file: Path) -> Path:
    """Return where the copy of the policy in force is."""
    return policy_file.with_name(f"{policy_file.name}.in-force")


def record_path(policy_file: Path) -> Path:
    """Return where it is written how a rollout stands."""
    return policy_file.with_name(f"{policy_file.name}.rollout.json")


def digest(data: bytes) -> str:
    """Return the sha256 of a file's bytes."""
    return sha256(data).hexdigest()


def read_digest(path: Path) -> str | None:
    """Return the digest of a policy's file; None when it can't be read."""
    try:
        return digest(read_file(path, most_bytes=MOST_POLICY_BYTES))
    except OSError:
        return None


def read_record(policy_file: Path) -> Rollout | None:
    """Return how a rollout stands; None when nothing is written, or nothing that can be read."""
    try:
        found = _RECORD.validate_json(read_file(record_path(policy_file), most_bytes=_MOST_BYTES))
    except (OSError, ValueError):
        return None
    times_are_sound = all(0 <= unix_s <= _LATEST_UNIX_S for unix_s in (found.since_unix_s, found.before_since_unix_s))
    return found if found.stage >= 0 and times_are_sound else None


def write_record(policy_file: Path, rollout: Rollout) -> None:
    """Write how a rollout stands; raises OSError when it can't be written."""
    write_atomically(record_path(policy_file), _RECORD.dump_json(rollout, indent=1))


def in_force_path(policy_file: Path) -> Path:
    """Return the file of the policy in force: the copy, while the policy's file is on trial or was given up."""
    found, kept = read_digest(policy_file), kept_path(policy_file)
    if found is None:
        return policy_file
    source, _ = resume(found, read_digest(kept), read_record(policy_file), unix_s=0.0)
    return kept if source is Source.KEPT else policy_file
