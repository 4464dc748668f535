"""The files of a rollout, beside the policy's: where it stands, and a copy of the policy in force.

A router that can't write them goes on, and begins anew after a restart. Several processes share them, see ``reconcile``
of ``stages``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

from orchestrator.files import read_file, write_atomically
from orchestrator.router.rollout.stages import Rollout, Source, Verdict, resume

_MOST_BYTES: Final = 2**20
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
        found = json.loads(read_file(record_path(policy_file), most_bytes=_MOST_BYTES))
        return _parse(found)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _parse(found: Mapping[str, Any]) -> Rollout:
    return Rollout(
        candidate=str(found["candidate"]),
        since_unix_s=float(found["since_unix_s"]),
        why=str(found["why"]),
        stage=max(0, int(found["stage"])),
        verdict=Verdict(found["verdict"]),
        before_since_unix_s=float(found["before_since_unix_s"]),
        before_why=str(found["before_why"]),
    )


def write_record(policy_file: Path, rollout: Rollout) -> None:
    """Write how a rollout stands; raises OSError when it can't be written."""
    write_atomically(record_path(policy_file), json.dumps(asdict(rollout), indent=1) + "\n")


def in_force_path(policy_file: Path) -> Path:
    """Return the file of the policy in force: the copy, while the policy's file is on trial or was given up."""
    found, kept = read_digest(policy_file), kept_path(policy_file)
    if found is None:
        return policy_file
    source, _ = resume(found, read_digest(kept), read_record(policy_file), unix_s=0.0)
    return kept if source is Source.KEPT else policy_file
