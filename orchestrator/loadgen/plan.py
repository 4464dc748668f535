"""What is sent when: arrivals of a shape of the simulator, over some senders, for some time.

A workload is named as in a scenario: ``poisson``, ``steady`` (a metronome), ``gamma:CV2``, ``flash-crowd:FACTOR``
(FACTOR times the rate for a fifth of the time, from two fifths on), ``ramp:FIRST:LAST``, ``rise-and-fall:LOW:HIGH``,
``burst:N`` (N at once, and nothing else), ``replay:FILE``, or ``NAME:NUMBER…`` of another package. Rates are means over
the whole time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from orchestrator.errors import ConfigError
from orchestrator.simulation.scenario import workloads
from orchestrator.simulation.scenario.popularity import draw_families

Times = NDArray[np.float64]

KINDS = ("poisson", "steady", "gamma:CV2", "flash-crowd:FACTOR", "ramp:FIRST:LAST", "rise-and-fall:LOW:HIGH",
         "burst:N", "replay:FILE")  # fmt: skip
_CROWD_BEGINS, _CROWD_LASTS = 0.4, 0.2
_SHAPES: Mapping[str, tuple[int, Callable[..., workloads.Shape]]] = {
    "poisson": (0, lambda: workloads.gamma(1.0)),
    "steady": (0, lambda: workloads.gamma(0.0)),
    "gamma": (1, workloads.gamma),
    "flash-crowd": (1, lambda factor: workloads.flash_crowd(factor, _CROWD_BEGINS, _CROWD_LASTS)),
    "ramp": (2, workloads.ramp),
    "rise-and-fall": (2, workloads.rise_and_fall),
}
"""How many numbers a workload takes, and what makes its arrivals of them."""


@dataclass(frozen=True, slots=True)
class Load:
    """Requests of one image each.

    Attributes:
        workload: The shape of the arrivals, see the module.
        rate_rps: Requests a second on average; of a burst nothing.
        seconds: How long requests are sent.
        warm_up_s: The first part of it, which no figure counts.
        deadline_s: From when a request is due to when its answer should be there.
        seed: Of the arrivals, and of the order of the images.
        parameters: Of each request, beside its deadline.
    """

    workload: str
    rate_rps: float
    seconds: float
    deadline_s: float
    warm_up_s: float = 0.0
    seed: int = 0
    parameters: dict[str, str | int | float] = field(default_factory=dict)

    @property
    def is_burst(self) -> bool:
        """Whether all requests are due at once, so that there is no warm-up."""
        return self.workload.startswith("burst:")


def check_load(load: Load) -> Load:
    """Return a load of which something counts; raises ConfigError, also as ``arrivals_s``."""
    due_s = arrivals_s(load)
    if not load.is_burst and not (due_s >= load.warm_up_s).any():
        raise ConfigError(
            f"all {len(due_s)} requests of {load.seconds:g} s come within the warm-up of {load.warm_up_s:g} s, "
            "which no figure counts; send for longer, or warm up for less"
        )
    return load


def arrivals_s(load: Load) -> Times:
    """Return the times at which requests are due, ascending, float64 [n], from the beginning on.

    Raises:
        ConfigError: The workload is none, or its numbers or its file are wrong.
    """
    kind, *numbers = load.workload.split(":")
    rng = np.random.default_rng(load.seed)
    if kind == "burst":
        (count,) = _numbers(load.workload, numbers, 1)
        return np.zeros(int(count))
    shape = _shape(load.workload, kind, numbers)
    count = max(1, round(load.rate_rps * load.seconds))
    times_s = workloads.scaled(shape, count, load.rate_rps, rng)
    return times_s[times_s < load.seconds]


def arrivals_of_families_s(
    load: Load, shares: Sequence[float], *, drift_amplitude: float = 0.0, drift_periods: float = 1.0
) -> list[Times]:
    """Return when requests of each of several families are due; together they are those of the load.

    Popularity drifts as in a scenario (orchestrator.simulation.scenario.popularity).

    Raises:
        ConfigError: As ``arrivals_s``, or a family gets no request.
    """
    due_s, rng = arrivals_s(load), np.random.default_rng([load.seed, 1])
    parts = due_s / load.seconds
    family = draw_families(parts, shares, rng, amplitude=drift_amplitude, periods=drift_periods)
    found = [due_s[family == index] for index in range(len(shares))]
    if len(shares) > 1 and not all(map(len, found)):
        raise ConfigError(f"{len(due_s)} requests are too few for {len(shares)} families; send for longer, or more")
    return found


def _shape(workload: str, kind: str, numbers: list[str]) -> workloads.Shape:
    if kind == "replay":
        return workloads.replay(Path(":".join(numbers)))
    if kind not in _SHAPES and kind in workloads.PLUGINS.names():
        return workloads.plugged(kind, _numbers(workload, numbers, len(numbers)))
    if kind not in _SHAPES:
        known = f"{', '.join(KINDS)}{workloads.PLUGINS.describe()}"
        raise ConfigError(f"unknown workload {workload!r}; known are {known}")
    count, make = _SHAPES[kind]
    return make(*_numbers(workload, numbers, count))


def _numbers(workload: str, given: list[str], count: int) -> list[float]:
    try:
        numbers = [float(text) for text in given]
    except ValueError:
        numbers = []
    if len(given) != count or len(numbers) != count or any(not 0 <= number < 1e9 for number in numbers):
        raise ConfigError(f"workload {workload!r} needs {count} numbers from 0 on; known are {', '.join(KINDS)}")
    return numbers
