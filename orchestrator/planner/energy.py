"""What a host's energy counter has counted, shared out over what ran: idle apart, the rest by busy time.

A window lies between two readings of the counter. What the host draws while nothing runs is taken off first, as the
least mean power of a window in which nothing ran; what is left goes to the models by the seconds that their instances
were busy. All shares and the idle part add up to what the counter says, because every joule is given to somebody. While
no window without work has been seen, nothing is known to be idle power and what runs bears it all.

A busy second costs the same whatever ran in it. That is wrong where a wide width keeps more of a GPU busy than a narrow
one, and right on a CPU's cores; a counter of the whole device can't say more about windows in which both ran. Windows
with one model alone are exact. What others draw on the same device is not told apart.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from orchestrator.planner.rates import Rates
from orchestrator.snapshot import ModelName

_SHORTEST_S = 0.5
"""Of a window that says what idle power is: counters of devices move ten times a second, some less."""


@dataclass(frozen=True, slots=True)
class CounterReading:
    """An energy counter at one moment, in joules since some fixed one."""

    source: str
    at_s: float
    energy_j: float


@dataclass(frozen=True, slots=True)
class EnergyAccount:
    """Joules since the first reading.

    Attributes:
        idle_w: The power that is idle; None before it was seen.
        idle_j: What was drawn for nothing.
        models_j: What each model's batches have drawn above that.
        requests: How many requests of each model that was for.
        last: The reading up to which all is shared out; None before the first.
    """

    idle_w: float | None = None
    idle_j: float = 0.0
    models_j: Mapping[ModelName, float] = field(default_factory=dict)
    requests: Mapping[ModelName, float] = field(default_factory=dict)
    last: CounterReading | None = None

    def of_request_j(self, model: ModelName) -> float | None:
        """Return what a request of a model has drawn on average above idle; None while that is unknown."""
        requests = self.requests.get(model)
        return self.models_j[model] / requests if requests and model in self.models_j else None

    def follow(self, reading: CounterReading, rates: Mapping[ModelName, Rates]) -> EnergyAccount:
        """Return the account with what was drawn since the last reading, in which the models ran at such rates.

        A counter that fell, or another source, begins anew: what was drawn meanwhile is known to nobody.
        """
        last = self.last
        if last is None or last.source != reading.source or reading.energy_j < last.energy_j:
            return replace(self, last=reading)
        duration_s, drawn_j = reading.at_s - last.at_s, reading.energy_j - last.energy_j
        if duration_s <= 0:
            return self
        busy_s = {model: each.busy_instances * each.window_s for model, each in rates.items() if each.busy_instances}
        idle_w = self.idle_w
        if not busy_s and duration_s >= _SHORTEST_S:
            idle_w = min(drawn_j / duration_s, drawn_j / duration_s if idle_w is None else idle_w)
        idle_j = min(drawn_j, (idle_w or 0.0) * duration_s) if busy_s else drawn_j
        total_s = sum(busy_s.values())
        shares_j = {model: (drawn_j - idle_j) * each_s / total_s for model, each_s in busy_s.items()}
        answered = {model: each.requests_per_s * each.window_s for model, each in rates.items() if each.requests_per_s}
        return EnergyAccount(
            idle_w, self.idle_j + idle_j, _add(self.models_j, shares_j), _add(self.requests, answered), reading
        )


def _add(totals: Mapping[ModelName, float], more: Mapping[ModelName, float]) -> dict[ModelName, float]:
    return {model: totals.get(model, 0.0) + more.get(model, 0.0) for model in {**totals, **more}}
