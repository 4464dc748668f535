"""When a server that answers is left out all the same, for how long, and how it comes back; pure.

Two things show that a server does harm: attempts that fail one after another, and batches that take far longer than its
own profile says. "Far" is held against the rest of the fleet: when everything is slow (a burst, a noisy host, a slow
network) the fleet's own median rises with it, and leaving servers out would only make it worse. The profile learns
too, so a machine that stays slow is soon known to be slow and used for what it can do; ejection is for what changes
suddenly.

A server is never ejected when the others together have less than ``panic_share`` of the fleet's capacity: a fleet that
fails as a whole is better tried than given up. Ejections grow when they follow each other, and what comes back, from
an ejection or from the dead, is given its share of the in-flight budget over some seconds, because its caches, its
clocks and its profile are cold.

The rules are those of outlier detection in Envoy, with its consecutive failures, panic threshold, growing ejection and
slow start; what differs is that latency counts, against a profile that is known here and not there.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from statistics import median

from orchestrator.config import EjectionSettings
from orchestrator.snapshot import ServerName

_FIRST_SHARE = 0.1
"""Of the in-flight budget that a returning server gets at once; less would leave no batch to learn from."""

_FEWEST = 2
"""The number of runs that a median is taken of at the least."""


class EjectionReason(StrEnum):
    """Why a server was ejected."""

    FAILURES = "failures"
    LATENCY = "latency"


@dataclass(frozen=True, slots=True)
class TimedRun:
    """How long a server took for what ended at ``at_s``, and how long its profile had given it, which is above 0."""

    at_s: float
    observed_s: float
    expected_s: float


@dataclass(frozen=True, slots=True)
class EjectionState:
    """What a server has done lately, as far as it decides about its ejection; each method returns the next state.

    Attributes:
        failures_in_row: Attempts that failed since the last that did not. Those that were under way together count as
            one, because they failed of the same thing.
        failed_s: When the last attempt failed; None when none has.
        runs: The last runs, oldest first.
        ejections: How many ejections count for the length of the next one.
        ejected_until_s: When the ejection ends; None while the server is not ejected.
        returned_s: When the server last came back; None when it was never away.
    """

    failures_in_row: int = 0
    failed_s: float | None = None
    runs: tuple[TimedRun, ...] = ()
    ejections: int = 0
    ejected_until_s: float | None = None
    returned_s: float | None = None

    @property
    def is_ejected(self) -> bool:
        """Whether the server is left out."""
        return self.ejected_until_s is not None

    def after_success(self) -> EjectionState:
        """Return the state after an attempt that was answered."""
        return self if self.failures_in_row == 0 else replace(self, failures_in_row=0)

    def after_failure(self, *, sent_s: float, now_s: float) -> EjectionState:
        """Return the state after an attempt that was sent at ``sent_s`` failed."""
        if self.failed_s is not None and sent_s < self.failed_s:
            return self
        return replace(self, failures_in_row=self.failures_in_row + 1, failed_s=now_s)

    def after_run(self, run: TimedRun, settings: EjectionSettings) -> EjectionState:
        """Return the state after a run."""
        runs = (*self.runs, run)[-settings.latency_runs :]
        # Once a batch, so spelt out: dataclasses.replace takes four times as long.
        return EjectionState(
            self.failures_in_row, self.failed_s, runs, self.ejections, self.ejected_until_s, self.returned_s
        )

    def after_ejection(self, settings: EjectionSettings, *, now_s: float) -> tuple[EjectionState, float]:
        """Return the state with an ejection begun, and when it ends: twice as late for each that still counts.

        Each ``ejection_s`` of good behaviour since the return takes one off.
        """
        good_s = now_s - self.returned_s if self.returned_s is not None else 0.0
        counted = max(0, self.ejections - math.floor(good_s / settings.ejection_s))
        length_s = min(settings.ejection_max_s, settings.ejection_s * 2.0 ** min(counted, 32))
        return replace(self, ejections=counted + 1, ejected_until_s=now_s + length_s), now_s + length_s

    def after_return(self, *, now_s: float) -> EjectionState:
        """Return the state as the server comes back, with nothing held against it but how often it was ejected."""
        return EjectionState(ejections=self.ejections, returned_s=now_s)

    def share(self, settings: EjectionSettings, *, now_s: float) -> float:
        """Return which part of its in-flight budget the server is given, in (0, 1]."""
        if self.returned_s is None or settings.slow_start_s == 0:
            return 1.0
        return min(1.0, max(_FIRST_SHARE, (now_s - self.returned_s) / settings.slow_start_s))


@dataclass(frozen=True, slots=True)
class Member:
    """A server of the fleet when ejections are decided: its capacity, above 0, is in any unit, the same for all."""

    state: EjectionState
    capacity: float
    is_usable: bool


@dataclass(frozen=True, slots=True)
class Ejection:
    """A server to leave out, and why."""

    server: ServerName
    reason: EjectionReason


def plan_ejections(
    fleet: Mapping[ServerName, Member], settings: EjectionSettings, *, now_s: float
) -> tuple[Ejection, ...]:
    """Return which usable servers are to be ejected: the worst first, as far as the panic threshold allows.

    Order of ``fleet`` does not matter; of equally bad servers the one of the first name goes first.
    """
    usable = {name: member for name, member in sorted(fleet.items()) if member.is_usable}
    suspects: list[tuple[float, ServerName, EjectionReason]] = []
    for name, member in usable.items():
        if member.state.failures_in_row >= settings.failures_in_row:
            suspects.append((-math.inf, name, EjectionReason.FAILURES))
            continue
        others = [other.state for other_name, other in usable.items() if other_name != name]
        excess = _excess(member.state, others, settings, now_s)
        if excess is not None and excess > settings.latency_factor:
            suspects.append((-excess, name, EjectionReason.LATENCY))
    total = sum(member.capacity for member in fleet.values())
    left = sum(member.capacity for member in usable.values())
    planned: list[Ejection] = []
    for _, name, reason in sorted(suspects):
        remaining = left - usable[name].capacity
        if len(usable) - len(planned) > 1 and remaining >= settings.panic_share * total:
            planned.append(Ejection(name, reason))
            left = remaining
    return tuple(planned)


def latency_quantile(states: Iterable[EjectionState], quantile: float) -> float | None:
    """Return by which factor runs exceed what was expected at the quantile, over all servers; None without runs."""
    ratios = sorted(run.observed_s / run.expected_s for state in states for run in state.runs)
    return ratios[min(len(ratios) - 1, math.floor(quantile * len(ratios)))] if ratios else None


def _excess(
    own: EjectionState, others: Sequence[EjectionState], settings: EjectionSettings, now_s: float
) -> float | None:
    """Return how far a server's median run is above its profile and above what the others did meanwhile.

    None when that can't be told: it has too few runs, or none of the others has any of the same time. What they did
    before does not count, because a slowdown of all reaches one of them first.
    """
    ratios = [(run.at_s, _ratio(run, settings)) for run in own.runs if now_s - run.at_s <= settings.latency_window_s]
    if len(ratios) < max(_FEWEST, settings.latency_runs // 2):
        return None
    middle = median(ratio for _, ratio in ratios)
    since_s = min(at_s for at_s, ratio in ratios if ratio >= middle)
    meanwhile = [[_ratio(run, settings) for run in other.runs if run.at_s >= since_s] for other in others]
    medians = [median(of_one) for of_one in meanwhile if len(of_one) >= _FEWEST]
    return middle / max(1.0, median(medians)) if medians else None


def _ratio(run: TimedRun, settings: EjectionSettings) -> float:
    """Return how many times longer than expected a run took; below the floor nothing is slow."""
    return run.observed_s / max(run.expected_s, settings.latency_floor_ms / 1e3)
