"""What requests came to between two readings of the metrics: rates, latencies and shares, as pure functions.

Counters are read as they are and told apart here: what was counted between two readings, over the seconds between
them. A counter that has gone back belongs to a process that was killed; it counts as nothing new. Quantiles are linear
within a bucket, as Prometheus' own ``histogram_quantile``, so the page and a dashboard say the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, NamedTuple, TypeVar

from orchestrator.gateway.metrics.gateway_metrics import MEASURES
from orchestrator.gateway.metrics.snapshot import Labels, MetricSnapshot

End = Literal["answered", "late", "refused", "failed", "callers"]
"""How requests end, as the page groups the outcomes of the metrics; ``callers`` are mistakes of whoever asked."""
ENDS: tuple[End, ...] = ("answered", "late", "refused", "failed", "callers")
_ENDS: Mapping[str, End] = {
    "ok": "answered",
    "streamed": "answered",
    "deadline": "late",
    "shed": "refused",
    "over_quota": "refused",
    **dict.fromkeys(("invalid", "not_found", "unauthenticated", "forbidden", "cancelled"), "callers"),
}
"""The end of each outcome; any other one is a failure."""

_REQUESTS = "slim_gateway_requests"
_LATENCY = "slim_gateway_latency_seconds"
_QUEUE = "slim_gateway_queue_seconds"
_POLICY = "slim_router_policy_seconds"
_SINGLE = ("slim_gateway_in_flight", "slim_router_queue_requests", "slim_router_queue_items", "slim_gateway_workers")
_COUNTED = (
    "slim_router_fallbacks",
    "slim_router_shadow_decisions",
    "slim_router_sheds",
    "slim_gateway_worker_restarts",
    "slim_background_failures",
)


def end_of(outcome: str) -> End:
    """Return the group of an outcome of the metrics."""
    return _ENDS.get(outcome, "failed")


Rates = dict[End, float]
"""Requests a second by how they ended."""
K = TypeVar("K")


class Cell(NamedTuple):
    """What requests have in common that are counted together; width and server are empty where none ran them."""

    family: str
    width: str
    server: str
    end: End


@dataclass(frozen=True, slots=True)
class Reading:
    """What the page needs of one snapshot of the metrics, summed since the processes started.

    Attributes:
        at_unix_s: When it was read, wall-clock time.
        at_s: The same on a clock that nobody sets.
        requests: Requests that ended.
        latency: Buckets of the latency of answers, by family, as in the metrics but without their sum.
        queue: Buckets of their time in the router's queue, of all families.
        policy: Buckets of the time that the policy took for a decision.
        gauges: The metrics that have one value, by name.
        batches_in_flight: Batches sent and not answered, by server.
        counted: Counters by name and their labels.
    """

    at_unix_s: float
    at_s: float
    requests: Mapping[Cell, float]
    latency: Mapping[str, tuple[float, ...]]
    queue: tuple[float, ...]
    policy: tuple[float, ...]
    gauges: Mapping[str, float]
    batches_in_flight: Mapping[str, float]
    counted: Mapping[str, Mapping[Labels, float]]


def read_snapshot(snapshot: MetricSnapshot, at_unix_s: float, at_s: float) -> Reading:
    """Return what the page needs of a snapshot that was taken at a wall-clock time, and at one of a steady clock."""
    values = snapshot.values
    requests: dict[Cell, float] = {}
    for (model, width, server, outcome), numbers in values.get(_REQUESTS, {}).items():
        cell = Cell(model, width, server, end_of(outcome))
        requests[cell] = requests.get(cell, 0.0) + numbers[0]
    latency: dict[str, list[list[float]]] = {}
    for (model, _, _, outcome), numbers in values.get(_LATENCY, {}).items():
        if end_of(outcome) == "answered":
            latency.setdefault(model, []).append(numbers[:-1])
    queue = [n[:-1] for labels, n in values.get(_QUEUE, {}).items() if end_of(labels[-1]) == "answered"]
    in_flight = values.get("slim_router_groups_in_flight", {})
    return Reading(
        at_unix_s,
        at_s,
        requests,
        {model: _add(found) for model, found in latency.items()},
        _add(queue),
        _add(numbers[:-1] for numbers in values.get(_POLICY, {}).values()),
        {name: sum(numbers[0] for numbers in values.get(name, {}).values()) for name in _SINGLE},
        {labels[0]: numbers[0] for labels, numbers in in_flight.items()},
        {name: {labels: n[0] for labels, n in values.get(name, {}).items()} for name in _COUNTED},
    )


def _add(buckets: Iterable[Sequence[float]]) -> tuple[float, ...]:
    return tuple(map(sum, zip(*buckets, strict=True)))


@dataclass(frozen=True, slots=True)
class Traffic:
    """What happened between two readings, the later of which is ``now``.

    Attributes:
        seconds: The time between them; at least a thousandth of a second.
        requests: Requests that ended in it.
        latency, queue, policy: Buckets as in Reading, of what ended in it.
        counted: Counters by name and their labels, those above 0.
    """

    now: Reading
    seconds: float
    requests: Mapping[Cell, float]
    latency: Mapping[str, tuple[float, ...]]
    queue: tuple[float, ...]
    policy: tuple[float, ...]
    counted: Mapping[str, Mapping[Labels, float]]

    def rates(self, key: Callable[[Cell], K]) -> dict[K, Rates]:
        """Return requests a second by how they ended, for each key that cells have."""
        found: dict[K, Rates] = {}
        for cell, count in self.requests.items():
            rates = found.setdefault(key(cell), dict.fromkeys(ENDS, 0.0))
            rates[cell.end] += count / self.seconds
        return found

    @property
    def total(self) -> Rates:
        """Requests a second by how they ended, all together."""
        return self.rates(lambda cell: "").get("") or dict.fromkeys(ENDS, 0.0)

    @property
    def widths(self) -> dict[str, float]:
        """Answers a second by width in percent, ascending; those of no width are left out."""
        found = self.rates(lambda cell: cell.width)
        return {width: found[width]["answered"] for width in sorted(filter(None, found), key=int)}

    def quantile_s(self, ratio: float, family: str | None = None) -> float | None:
        """Return a quantile of the latency of answers in seconds; None where there were none."""
        buckets = _add(self.latency.values()) if family is None else self.latency.get(family, ())
        return quantile(buckets, bounds_of(_LATENCY), ratio)

    def queue_quantile_s(self, ratio: float) -> float | None:
        """Return a quantile of the time that answered requests waited in the router's queue."""
        return quantile(self.queue, bounds_of(_QUEUE), ratio)

    def policy_quantile_s(self, ratio: float) -> float | None:
        """Return a quantile of what the policy took for a decision."""
        return quantile(self.policy, bounds_of(_POLICY), ratio)


def compare(before: Reading, now: Reading) -> Traffic:
    """Return what happened between two readings."""
    return Traffic(
        now,
        max(1e-3, now.at_s - before.at_s),
        _grown(before.requests, now.requests),
        {model: _grown_buckets(before.latency.get(model, ()), found) for model, found in now.latency.items()},
        _grown_buckets(before.queue, now.queue),
        _grown_buckets(before.policy, now.policy),
        {name: _grown(before.counted.get(name, {}), found) for name, found in now.counted.items()},
    )


def _grown(before: Mapping[K, float], now: Mapping[K, float]) -> dict[K, float]:
    return {key: count - before.get(key, 0.0) for key, count in now.items() if count > before.get(key, 0.0)}


def _grown_buckets(before: Sequence[float], now: Sequence[float]) -> tuple[float, ...]:
    if not before:
        return tuple(now)
    return tuple(max(0.0, b - a) for a, b in zip(before, now, strict=True))


def bounds_of(name: str) -> tuple[float, ...]:
    """Return the upper bounds of the buckets of one of the histograms, in seconds."""
    return MEASURES[name].bounds or ()


def quantile(buckets: Sequence[float], bounds: Sequence[float], ratio: float) -> float | None:
    """Return the value that ``ratio`` of what was observed is below, linear within its bucket; None of nothing.

    Args:
        buckets: How many values are in each bucket, the last one beyond all bounds.
        bounds: The upper bounds, ascending; what is beyond the last one counts as it.
        ratio: 0..1.
    """
    wanted, below = ratio * sum(buckets), 0.0
    if not wanted:
        return None
    for count, (lower, upper) in zip(buckets, pairwise((0.0, *bounds)), strict=False):
        if count and below + count >= wanted:
            return lower + (upper - lower) * (wanted - below) / count
        below += count
    return bounds[-1]


class Point(NamedTuple):
    """One point of the page's charts; latencies are None where nothing was answered."""

    unix_s: float
    answered_per_s: float
    late_per_s: float
    refused_per_s: float
    failed_per_s: float
    callers_per_s: float
    latency_p50_s: float | None
    latency_p95_s: float | None
    latency_p99_s: float | None
    queue_items: float
    batches_in_flight: float
    per_s_by_width: dict[str, float]


def point_of(traffic: Traffic) -> Point:
    """Return the point that stands for what happened between two readings."""
    rates = traffic.total
    return Point(
        traffic.now.at_unix_s,
        answered_per_s=rates["answered"],
        late_per_s=rates["late"],
        refused_per_s=rates["refused"],
        failed_per_s=rates["failed"],
        callers_per_s=rates["callers"],
        latency_p50_s=traffic.quantile_s(0.5),
        latency_p95_s=traffic.quantile_s(0.95),
        latency_p99_s=traffic.quantile_s(0.99),
        queue_items=traffic.now.gauges["slim_router_queue_items"],
        batches_in_flight=sum(traffic.now.batches_in_flight.values()),
        per_s_by_width=traffic.widths,
    )
