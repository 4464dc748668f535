"""Decisions as JSON lines: what could be done, what was done and why, and what came of it.

Off unless asked for. It feeds ``slimsched why``, replay and learning, so a line holds all that a policy saw:
candidates, the queue as slacks from now, the random numbers (``lots``) and the turn. A sampled decision is written
when its batch has ended, with the outcome.

Bounded: a file is begun anew at its size limit, and one older file a router is kept; at the start the oldest files of
former routers go. Each router, and so each worker process, has files of its own, named by the part of a decision's id
that differs between routers: so an id leads to its file. A request that was refused for load has no decision, unless a
policy gave it up; of those the same part is written, a short line each (``SHED``). A log that can't be written is given
up with a warning, for it must not cost an answer. The rotation is the standard library's.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from itertools import chain
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Any

import numpy as np

from orchestrator.config import DecisionLogSettings
from orchestrator.decision import Candidate, Decision, Dispatch
from orchestrator.errors import ConfigError
from orchestrator.files import stamp_of
from orchestrator.policies.circuit_breaker import Fault
from orchestrator.policies.protocol import Situation
from orchestrator.router.dispatch.batch import Batch
from orchestrator.snapshot import QueueState

log = logging.getLogger(__name__)

Record = dict[str, Any]

REJECTED = "rejected"
"""The error in the outcome of a request that the policy gave up."""
SHED = "shed"
"""The key of a line about a refused request: the reason. Its time, family, items, age and deadline stand beside it."""
_SHED_KEYS = {SHED, "at", "family", "items", "age_s", "deadline_s"}
_MIB = 2**20
_NEWEST_FILES = 8
_END_BYTES = 2**18
"""Of each file: a decision among 4 servers takes 5 kB."""
_NO_RECORDS = 2  # lines at an end that may be none: the one that is just being written, and what a killed process cut


class _File(RotatingFileHandler):
    """Lines of text as they are; errors are the caller's."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 – the standard library's name
        raise


class DecisionLog:
    """Writes a sample of decisions, with the time, in seconds since 1970.

    Raises:
        ConfigError: when the directory can't be written to.
    """

    def __init__(self, settings: DecisionLogSettings, run_id: str) -> None:
        self._ratio = settings.sample_ratio
        self._uniforms = random.Random(run_id)
        try:
            settings.directory.mkdir(parents=True, exist_ok=True)
            files = sorted(files_in(settings.directory), key=_changed_ns)
            for path in files[: max(0, len(files) + 1 - settings.files)]:
                path.unlink(missing_ok=True)
            self._file: _File | None = _File(
                _file_of(settings.directory, run_id),
                maxBytes=int(settings.max_mib * _MIB),
                backupCount=1,
                encoding="utf-8",
                delay=True,
            )
        except OSError as exc:
            raise ConfigError(
                f"can't write to router.decision_log.directory = {settings.directory} ({exc.strerror}); give another"
            ) from exc

    def is_sampled(self) -> bool:
        """Return whether to write the decision at hand."""
        return self._file is not None and self._uniforms.random() < self._ratio

    def write(self, record: Record, decision_id: str, outcome: Record) -> None:
        """Write a decision with its outcome; never raises."""
        if self._file is None:
            return
        try:
            line = json.dumps({"id": decision_id, **record, "outcome": outcome}, separators=(",", ":"), default=_plain)
        except (ValueError, TypeError) as exc:  # what a policy said of itself; the next one may be in order
            log.warning("decision %s is not written: %s", decision_id, exc)
            return
        self._emit(line)

    def write_shed(self, reason: str, family: str | None, *, items: int, age_s: float, deadline_s: float) -> None:
        """Write a request that was refused, if it is sampled: its age, and its deadline from when it came on."""
        if self.is_sampled():
            told = {SHED: reason, "at": time.time(), "family": family, "items": items}
            self._emit(json.dumps({**told, "age_s": age_s, "deadline_s": deadline_s}, separators=(",", ":")))

    def _emit(self, line: str) -> None:
        if self._file is None:
            return
        try:
            self._file.emit(logging.LogRecord("", logging.INFO, "", 0, line, None, None))
        except (OSError, ValueError) as exc:
            log.warning("decisions are written no more to %s: %s", self._file.baseFilename, exc)
            self.close()

    def describe(
        self,
        candidates: Sequence[Candidate],
        situation: Situation,
        decision: Decision,
        *,
        family: str,
        policy: str,
        fault: Fault | None,
        shadow: Record | None = None,
    ) -> Record:
        """Return all that a decision rested on, as JSON values; times are in seconds from the decision."""
        queue = _record(situation.queue)
        for name in ("head", "tail"):
            queue[f"{name}_slack_s"] = queue.pop(f"{name}_deadline_s") - situation.now_s
        arrived_s = queue.pop("head_arrived_s")
        queue["head_age_s"] = None if arrived_s is None else situation.now_s - arrived_s
        chosen = decision.candidate if isinstance(decision, Dispatch) else None
        return {
            "at": time.time(),
            "family": family,
            "policy": policy,
            "fault": fault,
            "reason": decision.reason,
            "choice": chosen and {"server": chosen.server, "width": chosen.width, "items": chosen.items},
            **({} if shadow is None else {"shadow": shadow}),
            "queue": queue,
            "turn": situation.turn,
            "lots": situation.uniforms,
            "slack_margin": situation.slack_margin,
            "candidates": [
                {**_record(c), "energy_j": c.energy_j, "in_time": situation.is_in_time(c)} for c in candidates
            ],
        }

    def close(self) -> None:
        """Write no more, and close the file."""
        file, self._file = self._file, None
        if file is not None:
            with contextlib.suppress(OSError, ValueError):  # what could not be written is tried once more
                file.close()


_JSON_NAMES = {
    "per_item_s": "item_s",
    "fixed_s": "group_s",
    "per_item_j": "item_j",
    "fixed_j": "group_j",
    "max_per_item_j": "max_item_j",
    "batch_limit": "group_limit",
}


def _record(value: Candidate | QueueState) -> Record:
    return asdict(value, dict_factory=lambda fields: {_JSON_NAMES.get(name, name): field for name, field in fields})


def _plain(value: object) -> object:
    """Return a NumPy scalar, as candidates from tables hold them, as JSON's kind of value."""
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{type(value).__name__} is no JSON value")


def _changed_ns(path: Path) -> int:
    """Return when a file was last written to; of one that another router has just removed, or rotated, long ago."""
    stamp = stamp_of(path)
    return 0 if stamp is None else stamp[0]


def _file_of(directory: Path, run_id: str) -> Path:
    return directory / f"decisions-{run_id}.jsonl"


def outcome_of(batch: Batch, *, now_s: float, error: str | None) -> Record:
    """Return what came of a batch that has ended."""
    return {
        "error": error,
        "items": batch.sent.items,
        "service_s": now_s - batch.sent.sent_s,
        "requests": [
            {
                "items": request.items,
                "queue_s": batch.sent.sent_s - request.arrived_s,
                "latency_s": now_s - request.arrived_s,
                "deadline_s": request.deadline_s - request.arrived_s,
                "in_time": error is None and now_s <= request.deadline_s,
            }
            for request in batch.requests
        ],
    }


def arrivals_of(record: Record) -> list[float]:
    """Return when each request of a batch arrived, in seconds since 1970; of a rejected one when that did.

    The record is one that was written, and the order is that of its outcome. Of requests that were bound early only the
    first one's decision is in it, yet all of them are in its outcome.
    """
    age_s, requests = record["queue"].get("head_age_s"), record["outcome"].get("requests")
    if requests is None:
        return [float(record["at"] - (age_s or 0.0))]
    # The head had waited for so long when it was decided on; it is sent then, or later where it was bound early.
    sent_unix_s = record["at"] + (0.0 if age_s is None else max(0.0, requests[0]["queue_s"] - age_s))
    return [float(sent_unix_s - request["queue_s"]) for request in requests]


def find_decision(directory: Path, decision_id: str) -> Record:
    """Return what was written of a decision; raises ConfigError when nothing was."""
    run_id = decision_id.rpartition("-")[0]
    if not run_id or not run_id.isalnum():
        raise ConfigError(f"{decision_id!r} is no decision's id; answers tell it, such as a93a3a-17")
    path = _file_of(directory, run_id)
    for line in chain(_lines(path.with_name(f"{path.name}.1")), _lines(path)):
        record = _parse(line) if f'"id":"{decision_id}"' in line else None
        if record is not None and record["id"] == decision_id:
            return record
    raise ConfigError(
        f"no decision {decision_id} in {path}; it was not sampled (router.decision_log.sample_ratio), has been rotated "
        "away, or its batch has not ended"
    )


def read_all(directory: Path) -> Iterator[Record]:
    """Yield all that routers have written there, file by file; lines that are no record are left out.

    Raises:
        ConfigError: The directory or a file can't be read.
    """
    files = files_in(directory)
    if not files:
        raise ConfigError(f"no decisions are in router.decision_log.directory = {directory}")
    for _, record in (found for file in files for found in read_file(file)):
        if record is not None and (is_shed(record) or {"id", "at", "family", "outcome"} <= record.keys()):
            yield record


def is_shed(record: Record) -> bool:
    """Return whether a record is of a request that was refused, and not of a decision."""
    return record.keys() >= _SHED_KEYS


def files_in(directory: Path) -> list[Path]:
    """Return the files that routers have written there, of a router the older one first.

    Raises:
        ConfigError: This user may not look there, where a search would find nothing.
    """
    try:
        os.scandir(directory).close()
    except PermissionError as exc:
        raise ConfigError(f"can't read {directory} ({exc.strerror}); let this user read it") from exc
    except OSError:  # what is not there has none
        return []
    return sorted(directory.glob("decisions-*.jsonl*"), reverse=True)


def read_file(path: Path) -> Iterator[tuple[int, Record | None]]:
    """Yield the decisions in a file with the numbers of their lines; None for a line that is none, as one that was cut.

    Raises:
        ConfigError: The file can't be read.
    """
    return ((number, _parse(line)) for number, line in enumerate(_lines(path), start=1))


def read_newest(directory: Path, count: int) -> list[Record]:
    """Return up to ``count`` of the decisions that all routers wrote there last, the newest first.

    Only the ends of the newest files are read, so where many candidates make long lines there may be fewer. A line that
    is no record, because it is just being written, is left out; a directory that can't be read has none.
    """
    found: list[Record] = []
    try:
        files = sorted(directory.glob("decisions-*.jsonl"), key=lambda path: path.stat().st_mtime)[-_NEWEST_FILES:]
        ends = [_read_end(path) for path in files]
    except OSError:  # or one was just rotated away; it is asked again soon
        return []
    lines = [[line for line in end.splitlines() if not line.startswith(f'{{"{SHED}"')] for end in ends]
    for line in (line for own in lines for line in own[-count - _NO_RECORDS :]):
        record = _parse(line)
        if record is not None and {"id", "at", "outcome"} <= record.keys() and isinstance(record["at"], int | float):
            found.append(record)
    return sorted(found, key=lambda record: -record["at"])[:count]


def _read_end(path: Path) -> str:
    with path.open("rb") as file:
        file.seek(max(0, file.seek(0, 2) - _END_BYTES))
        return file.read(_END_BYTES).decode(errors="replace")


def _parse(line: str) -> Record | None:
    """Return the record in a line; None when there is none, because it was cut off when a process was killed."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):  # cut off, or nested without end
        return None
    return record if isinstance(record, dict) else None


def _lines(path: Path) -> Iterator[str]:
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            yield from file
    except FileNotFoundError:
        return
    except OSError as exc:
        raise ConfigError(f"can't read {path} ({exc.strerror})") from exc
