"""The requests of a decision log, as arrays, and their figures; pure.

A batch is written with all of its requests, so a log of one in a hundred decisions has the requests of one in a hundred
batches, and of one in a hundred refused ones. A batch that failed counts as such, and its requests where they were
sent again. A refused request was not in time, and counts with those that came.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from orchestrator.errors import ConfigError
from orchestrator.router.dispatch.decision_log import REJECTED, SHED, Record, arrivals_of, is_shed

Floats = NDArray[np.float64]
_LATEST_UNIX_S: Final = 1e11


@dataclass(frozen=True, slots=True, eq=False)
class Refused:
    """The requests of one family that were refused for load, or given up by a policy.

    Attributes:
        arrived_unix_s: When each came.
        deadline_s: From then on.
        counts: By reason.
    """

    arrived_unix_s: Floats
    items: Floats
    deadline_s: Floats
    counts: Mapping[str, int]


@dataclass(frozen=True, slots=True, eq=False)
class Recorded:
    """The requests of one family that were answered, by arrival, and those that were refused.

    Attributes:
        arrived_unix_s: When each came.
        deadline_s: From then on; NaN where an older router did not say.
        accuracy: Expected, of the width that ran it.
        energy_j: Expected, its part of its batch; NaN where unknown.
        batches: Of how many batches they are; ``failed_batches`` were sent besides.
        counts: Answered requests by width, server, policy and reason, each by what it is called; decisions by fault.
    """

    family: str
    arrived_unix_s: Floats
    items: Floats
    latency_s: Floats
    deadline_s: Floats
    is_in_time: NDArray[np.bool_]
    accuracy: Floats
    energy_j: Floats
    batches: int
    failed_batches: int
    refused: Refused
    counts: Mapping[str, Mapping[str, int]]

    @property
    def duration_s(self) -> float:
        """From the first arrival to the last one."""
        return float(self.arrived_unix_s[-1] - self.arrived_unix_s[0])


def read_traffic(records: Iterable[Record], family: str | None = None) -> Recorded:
    """Return the requests of a family; None: of the one that has most.

    Raises:
        ConfigError: There are none, or none of that family, or a record is damaged.
    """
    records = list(records)
    for record in records:
        _check(record)
    sent = [record for record in records if not is_shed(record) and _is_sent(record)]
    families = Counter(record["family"] for record in sent)
    if not sent or (family is not None and family not in families):
        known = f"; there are decisions about {', '.join(sorted(families))}" if sent else ""
        raise ConfigError(f"the decision log has nothing that was sent{f' of {family!r}' if family else ''}{known}")
    chosen = family or families.most_common(1)[0][0]
    own = [record for record in sent if record["family"] == chosen]
    answered = [record for record in own if record["outcome"]["error"] is None]
    if not answered:
        raise ConfigError(f"the decision log has no batch of {chosen!r} that was answered")
    rows = sorted((row for record in answered for row in _requests(record)), key=lambda row: row[0])
    arrived, items, latency, deadline, in_time, accuracy, energy = np.array(rows, float).T
    kinds: dict[str, Callable[[Record], str | None]] = {
        "width": lambda record: f"{record['choice']['width']} %",
        "server": lambda record: str(record["choice"]["server"]),
        "policy": lambda record: str(record["policy"]),
        "reason": lambda record: str(record["reason"]),
        "fault": lambda record: record["fault"],
    }
    counts = {kind: _count(answered, name) for kind, name in kinds.items()}
    return Recorded(
        chosen, arrived, items, latency, deadline, in_time > 0, accuracy, energy,
        len(answered), len(own) - len(answered), _refused(records, chosen), counts,
    )  # fmt: skip


def _refused(records: Iterable[Record], family: str) -> Refused:
    rows, counts = [], Counter[str]()
    for record in records:
        if record["family"] != family:
            continue
        if is_shed(record):
            counts[record[SHED]] += 1
            rows.append(_shed(record))
        elif record["outcome"].get("error") == REJECTED:
            counts[REJECTED] += 1
            rows.append(_rejected(record))
    arrived, items, deadline = np.array(rows, float).reshape(-1, 3).T
    return Refused(arrived, items, deadline, dict(counts.most_common()))


def _is_sent(record: Record) -> bool:
    return record.get("choice") is not None and "requests" in record["outcome"]


def _shed(record: Record) -> tuple[float, ...]:
    return record["at"] - record["age_s"], record["items"], record["deadline_s"]


def _rejected(record: Record) -> tuple[float, ...]:
    [arrived_unix_s], queue = arrivals_of(record), record["queue"]
    return arrived_unix_s, queue["head_items"], record["at"] - arrived_unix_s + queue["head_slack_s"]


def _check(record: Record) -> None:
    """Raise ConfigError for a record that has not what a router writes."""
    try:
        if is_shed(record):
            names, rows = [record[SHED], record["family"] or ""], [_shed(record)]
        elif record["outcome"].get("error") == REJECTED:
            names, rows = [record["family"]], [_rejected(record)]
        elif _is_sent(record):
            error = record["outcome"]["error"]
            names, rows = [record[key] for key in ("family", "policy", "reason")], []
            names += [name for name in (record["fault"], error) if name is not None]
            if error is None:  # of those that failed nothing else is asked
                rows = list(_requests(record))
        else:
            return
        if not all(isinstance(name, str) for name in names):
            raise TypeError("a name is no text")
        if not all(abs(row[0]) < _LATEST_UNIX_S for row in np.array(rows, float)):
            raise ValueError("a request came at no time")
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as exc:
        which = f"decision {record['id']}" if "id" in record else f"the request that was refused at {record['at']}"
        raise ConfigError(
            f"the decision log has {which}, but it is damaged ({type(exc).__name__} {exc}); remove that line"
        ) from exc


def _requests(record: Record) -> Iterable[tuple[float, ...]]:
    """Yield, of each request of a batch, what the arrays of ``Recorded`` hold."""
    outcome, choice = record["outcome"], record["choice"]
    chosen: Mapping[str, Any] = next(
        (c for c in record["candidates"] if (c["server"], c["width"]) == (choice["server"], choice["width"])), {}
    )
    energy_j, accuracy = chosen.get("energy_j"), chosen.get("accuracy", np.nan)
    for arrived_unix_s, request in zip(arrivals_of(record), outcome["requests"], strict=True):
        part = request["items"] / outcome["items"]
        yield (
            arrived_unix_s,
            request["items"],
            request["latency_s"],
            request.get("deadline_s", np.nan),
            request["in_time"],
            accuracy,
            np.nan if energy_j is None else energy_j * part,
        )


def _count(records: Iterable[Record], name: Callable[[Record], str | None]) -> dict[str, int]:
    counted: Counter[str] = Counter()
    for record in records:
        if (key := name(record)) is not None:
            counted[key] += len(record["outcome"]["requests"])
    return dict(counted.most_common())


@dataclass(frozen=True, slots=True)
class TrafficFigures:
    """What came of requests, recorded or simulated, by the names of ``simulation.results.Result``.

    The two ratios are over all that came, refused ones included; the others over those that were answered.
    """

    attainment_ratio: float
    accuracy: float | None
    effective_accuracy: float
    mean_s: float | None
    p50_s: float | None
    p99_s: float | None
    joules_per_answer: float | None
    mean_batch: float | None


def figures_of(traffic: Recorded) -> TrafficFigures:
    """Return the figures of recorded requests; joules are those that were expected, above idle."""
    latency_s, energy_j = traffic.latency_s, traffic.energy_j
    came = len(latency_s) + len(traffic.refused.items)
    return TrafficFigures(
        attainment_ratio=float(traffic.is_in_time.sum() / came),
        accuracy=float(traffic.accuracy.mean()),
        effective_accuracy=float((traffic.accuracy * traffic.is_in_time).sum() / came),
        mean_s=float(latency_s.mean()),
        p50_s=float(np.quantile(latency_s, 0.5)),
        p99_s=float(np.quantile(latency_s, 0.99)),
        joules_per_answer=None if np.isnan(energy_j).any() else float(energy_j.mean()),
        mean_batch=float(traffic.items.sum() / traffic.batches),
    )
