"""What arrived, as it was recorded: a file of timestamps, a decision log, or a gateway's access log.

The decision log of a router that wrote down every decision knows when each request arrived that was sent or shed, and
which servers there are. The access log of a gateway, as JSON, has a line for each request that ended, with when, and
how long it took; it says nothing of servers.
"""

from __future__ import annotations

import math
import os
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from orchestrator.errors import ConfigError
from orchestrator.router.dispatch.decision_log import REJECTED, arrivals_of, files_in, is_shed, read_file
from orchestrator.simulation.scenario.trace import Floats
from orchestrator.simulation.scenario.workloads import read_times

_LEAST_LOGGED: Final = 0.9
_LONGEST_GAP_S: Final = 1e6
_LONGEST_S: Final = 1e10
_ACCESS: Final = "request"
"""The message of a line of an access log."""


@dataclass(frozen=True, slots=True)
class Recorded:
    """Arrivals that were recorded.

    Attributes:
        times_s: Ascending.
        servers: All that were decided about, where it is known.
        together: Of these the most that one decision was about.
        items: Of a request.
        families: Whose requests they are, where it is known.
    """

    times_s: Floats
    source: str
    servers: frozenset[str] = frozenset()
    together: frozenset[str] = frozenset()
    items: int = 1
    families: frozenset[str] = frozenset()


def read_arrivals(path: Path, *, family: str | None = None) -> Recorded:
    """Return what a file of timestamps, a decision log or an access log has recorded; of a folder its decision logs.

    ``family`` says whose requests count; None: all, but of an access log only where it has one family.

    Raises:
        ConfigError: when it can't be used.
    """
    if not os.path.isfile(path) and not os.path.isdir(path):
        raise ConfigError(f"{path} is no file or folder; give timestamps, an access log or a decision log")
    if path.is_file() and _is_access_log(path):
        return _checked(_read_access_log(path, family))
    if not path.is_dir() and ".jsonl" not in path.name:
        return _checked(Recorded(np.asarray(read_times(path)), str(path)))
    files = files_in(path) if path.is_dir() else [path]
    if not files:
        raise ConfigError(f"{path} holds no decisions-*.jsonl; set router.decision_log, or give a file of timestamps")
    logs = [_read_log(file, family) for file in files]
    families = frozenset().union(*(log.families for log in logs))
    if family is not None:
        _check_family(path, family, families)
        families = frozenset({family})
    times_s = np.sort(np.concatenate([log.times_s for log in logs]))
    if len(times_s) < 2 or times_s[0] == times_s[-1]:
        raise ConfigError(f"{path} has {len(times_s)} arrivals; two different ones at least make a rate")
    servers = frozenset().union(*(log.servers for log in logs))
    together = max((log.together for log in logs), key=len)
    return _checked(Recorded(times_s, str(path), servers, together, max(log.items for log in logs), families))


def _check_family(path: Path, family: str | None, families: Collection[str]) -> None:
    if family is None and len(families) > 1:
        raise ConfigError(f"{path} holds requests of {', '.join(sorted(families))}; name one with --family")
    if family is not None and family not in families:
        raise ConfigError(f"{path} holds no request of {family}, but of {', '.join(sorted(families)) or 'none'}")


def _checked(recorded: Recorded) -> Recorded:
    """Return arrivals that can be replayed; raises ConfigError for others."""
    times_s = recorded.times_s
    if max(abs(times_s[0]), abs(times_s[-1])) > _LONGEST_S:
        raise ConfigError(
            f"{recorded.source} goes from {times_s[0]:g} to {times_s[-1]:g} s; give seconds of at most {_LONGEST_S:g}"
        )
    gaps_s = np.diff(times_s)
    at = int(gaps_s.argmax())
    if gaps_s[at] > _LONGEST_GAP_S:
        raise ConfigError(
            f"{recorded.source}: nothing came from {times_s[at]:.6f} to {times_s[at + 1]:.6f} s, of at most "
            f"{_LONGEST_GAP_S:g} s; leave out what lies on one side"
        )
    return recorded


def _read_log(path: Path, family: str | None) -> Recorded:
    """Return what a file of a decision log has recorded of a family or of all, and whose requests are in it."""
    families: set[str] = set()
    times_s: list[float] = []
    numbers: set[int] = set()
    servers: set[str] = set()
    together: frozenset[str] = frozenset()
    items: list[int] = []
    unread: int | None = None
    for line, record in read_file(path):
        if unread is not None:  # the last line alone may be cut
            raise ConfigError(f"{path}, line {unread}: no JSON object; give the decision log as it was written")
        if record is None:
            unread = line
            continue
        try:
            families.add(str(record["family"]))
            if is_shed(record):
                if family in (None, record["family"]):
                    times_s.append(_finite(record["at"] - record["age_s"]))
                    items.append(int(record["items"]))
                continue
            numbers.add(int(record["id"].rpartition("-")[2]))
            if family is not None and record["family"] != family:
                continue
            seen = frozenset(str(candidate["server"]) for candidate in record["candidates"])
            servers |= seen
            together = max(together, seen, key=len)
            if record["outcome"]["error"] in (None, REJECTED):  # what failed was sent again, and is there again
                arrived_s = [_finite(came_s) for came_s in arrivals_of(record)]
                times_s += arrived_s
                items += [max(1, int(record["queue"]["head_items"]))] * len(arrived_s)
        except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as exc:
            raise ConfigError(f"{path}, line {line}: no decision ({type(exc).__name__} {exc})") from exc
    if not times_s or not numbers:
        return Recorded(np.array(times_s), str(path), frozenset(servers), together, families=frozenset(families))
    part = len(numbers) / (max(numbers) - min(numbers) + 1)
    if part < _LEAST_LOGGED:
        raise ConfigError(
            f"{path} holds {part:.0%} of the decisions, so arrivals are missing; record with "
            "router.decision_log.sample_ratio: 1, or give a file of timestamps"
        )
    of = int(np.median(items))
    return Recorded(np.array(times_s), str(path), frozenset(servers), together, of, frozenset(families))


def _finite(time_s: float) -> float:
    if not math.isfinite(time_s):
        raise ValueError("a time that is not finite")
    return float(time_s)


def _is_access_log(path: Path) -> bool:
    """Return whether a file has a line of a gateway's log before any decision."""
    first = next((record for _, record in read_file(path) if record is not None), {})
    return "message" in first and "unix_s" in first


def _read_access_log(path: Path, family: str | None) -> Recorded:
    """Return when requests of a family came, the only one by default; other lines of the log are left out."""
    arrived_s: dict[str, list[float]] = {}
    for line, record in read_file(path):
        if record is None or record.get("message") != _ACCESS or "latency_s" not in record:
            continue
        try:
            came_s = _finite(record["unix_s"] - record["latency_s"])
            arrived_s.setdefault(str(record["model"]), []).append(came_s)
        except (KeyError, TypeError, ValueError, ArithmeticError) as exc:
            raise ConfigError(f"{path}, line {line}: no request ({type(exc).__name__} {exc})") from exc
    if arrived_s:
        _check_family(path, family, arrived_s)
    times_s = np.sort(np.array(arrived_s.get(family or next(iter(arrived_s), ""), [])))
    if len(times_s) < 2 or times_s[0] == times_s[-1]:
        raise ConfigError(
            f"{path} has {len(times_s)} requests; two at different times at least make a rate. Record with "
            "gateway.access_log: true and --log-format json"
        )
    return Recorded(times_s, str(path))
