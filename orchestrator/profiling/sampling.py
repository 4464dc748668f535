"""Which batch to measure next, and when there is enough of it: pure.

Machines drift: they warm up, throttle, and share their host. So no cell is measured in one go. Every round visits all
cells that are not settled yet, in a random order, and a cell's mean is judged by how much its visits differ
among themselves (batch means): requests of one visit resemble each other, and an interval that took them for
independent would be too narrow by far.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from orchestrator.reporting.student import half_interval
from orchestrator.snapshot import ModelName, ServerName

BURSTS_S = 0.15
"""Time spent on bursts in a visit where load is measured too; a batch size has four visits and more."""


@dataclass(frozen=True, slots=True, order=True)
class Cell:
    """One batch size of one model on one server."""

    server: ServerName
    model: ModelName
    items: int


@dataclass(frozen=True, slots=True)
class Window:
    """Energy between two readings of a counter, from a source as telemetry names it.

    Where it can't be read the joules are None and the source is ``none``, with a reason.
    """

    energy_j: float | None
    duration_s: float
    source: str
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Visit:
    """Requests sent to a cell one after another.

    Attributes:
        window: The energy over all of them; None where no counter is read.
        rested_s: Latencies of requests that followed, each after a rest.
        busy_s: What requests took of an instance in bursts that followed, the mean of each burst.
    """

    latencies_s: tuple[float, ...]
    window: Window | None = None
    rested_s: tuple[float, ...] = ()
    busy_s: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Sampling:
    """How much to measure.

    Attributes:
        visit_requests: Requests of one visit, after ``warm_up_requests`` that are not counted.
        warm_up_requests: The first requests of each visit, because others ran before and caches are theirs.
        visit_limit_s: The time after which a visit ends earlier.
        min_requests: Requests before a cell can be settled; below 100 a p99 is the largest seen.
        max_requests: Requests after which a cell is settled however noisy it is.
        cell_limit_s: Time spent on a cell after which it is settled, for slow machines.
        precision_ratio: Half the 95 % interval of the mean, over the mean, that settles a cell.
        energy_window_s: The least length of a visit where a counter is read; counters tick some 10 times a second.
        bursts_s: Time spent in each visit on requests and bursts after a rest, one of each at least; 0: nothing is
            measured under load.
        burst_requests: Requests of a burst, after one for each instance.
        rest_s: The rest before each, about what a server rests between requests where load is low.
        idle_window_s: The length of the reading of idle power in each round.
        cycles: How often each change of a model is measured.
    """

    visit_requests: int = 25
    warm_up_requests: int = 2
    visit_limit_s: float = 5.0
    min_visits: int = 4
    min_requests: int = 100
    max_requests: int = 400
    cell_limit_s: float = 20.0
    precision_ratio: float = 0.02
    energy_window_s: float = 1.0
    bursts_s: float = 0.0
    burst_requests: int = 2
    rest_s: float = 0.01
    idle_window_s: float = 2.0
    cycles: int = 3
    seed: int = 0


def choose_sampling(min_requests: int, precision_ratio: float, *, cycles: int, seed: int, under_load: bool) -> Sampling:
    """Return the defaults with as many requests as asked for, spread over no fewer visits."""
    usual = Sampling()
    return replace(
        usual,
        visit_requests=max(1, min(usual.visit_requests, min_requests // usual.min_visits)),
        min_requests=min_requests,
        max_requests=max(min_requests, usual.max_requests * min_requests // usual.min_requests),
        precision_ratio=precision_ratio,
        cycles=cycles,
        seed=seed,
        bursts_s=BURSTS_S if under_load else 0.0,
    )


def is_settled(visits: Sequence[Visit], sampling: Sampling) -> bool:
    """Return whether a cell has been measured often enough."""
    times_s = [latency_s for visit in visits for latency_s in visit.latencies_s]
    if len(visits) < sampling.min_visits:
        return False
    if len(times_s) >= sampling.max_requests or math.fsum(times_s) >= sampling.cell_limit_s:
        return True
    return len(times_s) >= sampling.min_requests and precision(visits) <= sampling.precision_ratio


def precision(visits: Sequence[Visit]) -> float:
    """Return half the 95 % interval of the mean latency over the mean, by batch means; infinite below two visits."""
    means_s = [math.fsum(visit.latencies_s) / len(visit.latencies_s) for visit in visits]
    return half_interval(means_s) / (math.fsum(means_s) / len(means_s))


def plan_round(
    cells: Iterable[Cell], visits: Mapping[Cell, Sequence[Visit]], sampling: Sampling
) -> tuple[int, tuple[Cell, ...]]:
    """Return the number of the next round and the cells to visit in it, in the order to visit them; none when done.

    A cell is visited in a round when it is not settled and has fewer visits than the round's number; so a campaign
    that was interrupted goes on in the middle of its round, and the order of a round depends on seed and number alone.
    """
    open_cells = [cell for cell in sorted(cells) if not is_settled(visits.get(cell, ()), sampling)]
    if not open_cells:
        return 0, ()
    number = 1 + min(len(visits.get(cell, ())) for cell in open_cells)
    order = random.Random(f"{sampling.seed}-{number}")
    drawn = sorted(open_cells, key=lambda cell: (order.random(), cell))
    return number, tuple(cell for cell in drawn if len(visits.get(cell, ())) < number)


def quantile(values: Sequence[float], ratio: float) -> float:
    """Return a quantile by nearest rank: a value that was seen."""
    return sorted(values)[max(0, math.ceil(ratio * len(values)) - 1)]
