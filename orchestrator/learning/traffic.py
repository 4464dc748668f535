"""What traffic a policy is fitted to, chosen by and judged on: parts that share nothing.

Recorded arrivals are cut by time: the first part is fitted to, the next says which candidate is best, the last is held
out, and whoever is promoted has proved itself on it. PPO learns of most of the first part, and says by the rest of it
which of its own networks is best: it tries hundreds, so what chooses among them flatters the one that is chosen.
Windows of each part are replayed as they were; service times, faults and all else are drawn anew for each window. A
scenario of a synthetic shape has as many traces as one asks for, so its parts are of seeds that no other part has.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Final

import numpy as np

from orchestrator.errors import ConfigError
from orchestrator.learning.arrivals import Recorded
from orchestrator.learning.objective import crowd
from orchestrator.simulation.rewards import Task
from orchestrator.simulation.scenario.capacity import capacity_rps
from orchestrator.simulation.scenario.settings import eligible_fleet
from orchestrator.simulation.scenario.trace import Trace, draw_trace

WINDOWS: Final = 20
"""Windows that are held out; an interval needs some."""
CHOOSING: Final = 10
"""Windows that say which candidate is best."""
LEAST_DEADLINES: Final = 12
"""That a window lasts, or what a choice brings about later would not be seen."""
LEAST_PERIODS: Final = 20
"""Of controllers, likewise."""
LEAST_REQUESTS: Final = 60
"""Of a window."""
_LEARNED, _FITTED, _CHOSEN = 0.45, 0.6, 0.75  # where parts of what is recorded end
_MOST_DEADLINES, _MOST_REQUESTS = 60, 4000  # of a window
_LARGEST_WINDOW: Final = 2_000_000  # requests that can be run
_LULLS_EVERY, _LULL, _DOUBLINGS = 10.0, 0.5, 7.0  # deadlines, and how often the shortest is doubled for the longest
# Where seeds begin, and which part of what is recorded it is.
_PARTS = {
    "fit": (3_000_000, 0.0, _FITTED),
    "learn": (3_000_000, 0.0, _LEARNED),
    "validate": (6_000_000, _LEARNED, _FITTED),
    "choose": (4_000_000, _FITTED, _CHOSEN),
    "held out": (5_000_000, _CHOSEN, 1.0),
}


class Traffic:
    """Traces of one task, in parts.

    Raises:
        ConfigError: when too little is recorded; it says how much is needed.
    """

    def __init__(self, task: Task, recorded: Recorded | None) -> None:
        self._servers = sorted(task.servers, key=lambda s: s.name)
        self._recorded = recorded
        self.digest = "" if recorded is None else hashlib.sha256(recorded.times_s.tobytes()).hexdigest()[:16]
        deadline_s = task.settings.objectives.deadline_ms / 1e3
        if recorded is not None:
            task = _at_recorded_rate(task, recorded)
        self.rate_rps = rate_of(task)
        per_deadline = self.rate_rps * deadline_s
        most = min(_MOST_REQUESTS, _MOST_DEADLINES * per_deadline)
        least = max(LEAST_REQUESTS, LEAST_DEADLINES * per_deadline)
        if task.settings.controller is not None:
            least = max(least, LEAST_PERIODS * task.settings.controller.period_s * self.rate_rps)
        if max(least, most) > _LARGEST_WINDOW:
            raise ConfigError(
                f"{task.settings.name}: a window would hold {max(least, most):.3g} requests, of at most "
                f"{_LARGEST_WINDOW}: it lasts {LEAST_DEADLINES} deadlines of {deadline_s:g} s, or {LEAST_PERIODS} "
                "periods of controllers; shorten these"
            )
        if recorded is None:
            self.requests = math.ceil(max(least, most))
        else:
            held_out = int(len(recorded.times_s) * (1 - _CHOSEN))
            needed = math.ceil(WINDOWS * least / (1 - _CHOSEN))
            if len(recorded.times_s) < needed:
                raise ConfigError(
                    f"{recorded.source} holds {len(recorded.times_s)} arrivals; {needed} are needed at this rate, so "
                    f"that {WINDOWS} windows of {LEAST_DEADLINES} deadlines can be held out; record for longer"
                )
            self.requests = int(min(max(least, most), held_out // WINDOWS))
        self.task = replace(task, settings=task.settings.with_workload(requests=self.requests))

    def fit(self, number: int) -> Trace:
        """Return a trace to learn from; any number from 0 on."""
        return self._trace("fit", number, math.inf)

    def episode(self, number: int) -> Trace:
        """Return a trace for who runs each one once; where the task says so, of each four one is denser, one has lulls.

        A policy is trusted with what it was shown. What is recorded may be of a steady hour, and callers pause.
        """
        trace = self._trace("learn", number, math.inf)
        if self.task.crowding <= 1 or number % 2 == 0:
            return trace
        if number % 4 == 1:
            return crowd(trace, self.task.crowding)
        deadline_s = self.task.settings.objectives.deadline_ms / 1e3
        random = np.random.default_rng(np.random.SeedSequence([_PARTS["learn"][0] + number, 0x1A77]))
        return interrupt(trace, every_s=_LULLS_EVERY * deadline_s, least_s=_LULL * deadline_s, random=random)

    def validating(self) -> list[Trace]:
        """Return the traces by which a learner chooses among what it has come to."""
        return [self._trace("validate", number, CHOOSING) for number in range(CHOOSING)]

    def choosing(self) -> list[Trace]:
        """Return the traces that say which candidate is best."""
        return [self._trace("choose", number, CHOOSING) for number in range(CHOOSING)]

    def held_out(self) -> list[Trace]:
        """Return the traces that nothing was chosen by."""
        return [self._trace("held out", number, WINDOWS) for number in range(WINDOWS)]

    def _trace(self, part: str, number: int, of: float) -> Trace:
        first_seed, begins, ends = _PARTS[part]
        seed = first_seed + number
        trace = draw_trace(self.task.settings, self._servers, seed)
        if self._recorded is None:
            return trace
        times_s, count = self._recorded.times_s, self.requests
        first, last = int(begins * len(times_s)), int(ends * len(times_s)) - count
        if of == math.inf:
            begin = int(np.random.default_rng(np.random.SeedSequence([seed, 0x317D])).integers(first, last + 1))
        else:
            begin = first + int((last - first) * number / (of - 1))
        arrived_s = times_s[begin : begin + count] - times_s[begin]
        return replace(trace, arrived_s=arrived_s, deadline_s=arrived_s + (trace.deadline_s - trace.arrived_s))


def interrupt(trace: Trace, *, every_s: float, least_s: float, random: np.random.Generator) -> Trace:
    """Return a trace in which nothing comes for a while after every so many seconds.

    That lasts ``least_s`` at the least and 128 times as long at the most, log-uniform: a breath, or a break.
    """
    ended = np.floor(trace.arrived_s / every_s)
    begins = np.flatnonzero(np.diff(ended, prepend=ended[:1]) > 0)
    added_s = np.zeros(len(ended))
    added_s[begins] = least_s * 2.0 ** random.uniform(0.0, _DOUBLINGS, len(begins))
    arrived_s = trace.arrived_s + np.cumsum(added_s)
    return replace(trace, arrived_s=arrived_s, deadline_s=arrived_s + (trace.deadline_s - trace.arrived_s))


def surge(trace: Trace, *, every_s: float, lasts_s: float, factor: float) -> Trace:
    """Return a trace whose requests come so many times as densely for a while, at the beginning of every so long."""
    whole, phase = np.divmod(trace.arrived_s, every_s)
    saved_s = lasts_s * (1 - 1 / factor)  # by each surge
    arrived_s = whole * (every_s - saved_s) + np.where(phase < lasts_s, phase / factor, phase - saved_s)
    return replace(trace, arrived_s=arrived_s, deadline_s=arrived_s + (trace.deadline_s - trace.arrived_s))


def rate_of(task: Task) -> float:
    """Return how many requests a second a task has, on average."""
    workload = task.settings.workload
    return workload.load_ratio * _most_rps(task) / workload.items


def _most_rps(task: Task) -> float:
    """Return what a load of 1 is, in items a second, as ``draw_trace`` reckons."""
    settings = task.settings
    fleet = eligible_fleet(settings, task.servers)
    return capacity_rps(fleet, width=settings.workload.load_of_width, shares=settings.family_shares())


def _at_recorded_rate(task: Task, recorded: Recorded) -> Task:
    times_s = recorded.times_s
    rate_rps = (len(times_s) - 1) / float(times_s[-1] - times_s[0]) * recorded.items
    changes = {"kind": "poisson", "file": None, "load_of_width": None, "items": recorded.items}
    task = replace(task, settings=task.settings.with_workload(**changes))
    return replace(task, settings=task.settings.with_workload(load_ratio=rate_rps / _most_rps(task)))


def check_fleet(recorded: Recorded, task: Task, entries: Mapping[str, str] = MappingProxyType({})) -> None:
    """Check that arrivals were recorded on the servers of a task, or on such as have one of the profile's ``entries``.

    Raises ConfigError when they were not.
    """
    known = {str(server.name) for server in task.servers}
    if unknown := recorded.servers - known - entries.keys():
        known |= set(entries.values())
        raise ConfigError(
            f"{recorded.source} is the log of another fleet: it decided about {', '.join(sorted(unknown))}, "
            f"the profile knows {', '.join(sorted(known))}; give this fleet's log, or profile that fleet"
        )
