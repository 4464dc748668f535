"""What is measured: fleets, other work on the machine, shapes of load, deadlines, and how much comes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from orchestrator.loadgen.plan import Load

FLEETS: dict[str, tuple[float, ...]] = {
    "two unlike": (4.0, 12.0),
    "two unlike, slower": (12.0, 36.0),
    "four alike": (12.0, 12.0, 12.0, 12.0),
    "four alike, slower": (36.0, 36.0, 36.0, 36.0),
}
"""The emulated slow-down of each server. On two cores the slower fleets leave enough to gateway and senders at every
load, beside a hog too; of the others, the machine is what becomes scarce at twice the load and more."""
RATIOS = (0.3, 0.6, 0.9, 1.2, 2.0, 4.0)
"""Requests over what the fleet answers at full width."""
FEW_RATIOS = (0.6, 1.2, 2.0)
DEADLINES_S = (0.025, 0.1, 0.5)
_USUAL_S = 0.1
_SHAPES = ("gamma:8", "flash-crowd:4")
WARM_UP_S = 1.0
"""The first part of each run, which no figure counts."""
_BURST_ROUNDS = 5
BURSTS = {100: 0.1, 1000: 0.5, 5000: 2.5}
"""Requests that are all due at once, and their deadline, in one cell each. A sender needs a tenth of a millisecond for
each, so with the usual deadline the larger ones would measure it."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One condition.

    Attributes:
        fleet: Its name in FLEETS.
        hogs: Processes that do nothing but take a core.
        workload: The shape of the arrivals.
        ratio: The mean rate over what the fleet answers at full width; of a burst nothing.
        deadline_s: The deadline of each request.
    """

    fleet: str
    hogs: int
    workload: str
    ratio: float
    deadline_s: float

    @property
    def is_burst(self) -> bool:
        """Whether all requests are due at once."""
        return self.workload.startswith("burst:")

    @property
    def is_beyond(self) -> bool:
        """Whether more comes than full width could answer, so that somebody misses something and runs differ."""
        return self.ratio > 1

    def rounds(self, of_beyond: int) -> int:
        """Return how often it is measured, when loads beyond full width are so often."""
        if self.is_burst:
            return _BURST_ROUNDS
        return of_beyond if self.is_beyond else 1

    @property
    def is_usual(self) -> bool:
        """Whether arrivals and deadline are the usual ones."""
        return self.workload == "steady" and self.deadline_s == _USUAL_S

    def load(self, capacity_rps: float, seconds: float, warm_up_s: float, seed: int) -> Load:
        """Return the load of this cell at a fleet that answers so much at full width."""
        rate_rps = self.ratio * capacity_rps
        return Load(self.workload, rate_rps, seconds, self.deadline_s, warm_up_s=warm_up_s, seed=seed)


def cells_of(fleet: str, hogs: int) -> Iterator[Cell]:
    """Yield what a fleet is measured at beside so many hogs: every load at the usual deadline, fewer elsewhere.

    Bursts come last.
    """
    for ratio in RATIOS:
        yield Cell(fleet, hogs, "steady", ratio, _USUAL_S)
    for ratio in FEW_RATIOS:
        for workload in _SHAPES:
            yield Cell(fleet, hogs, workload, ratio, _USUAL_S)
        for deadline_s in DEADLINES_S:
            if deadline_s != _USUAL_S:
                yield Cell(fleet, hogs, "steady", ratio, deadline_s)
    for count, deadline_s in BURSTS.items():
        yield Cell(fleet, hogs, f"burst:{count}", 1.0, deadline_s)
