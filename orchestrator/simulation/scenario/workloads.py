"""Arrival times: renewal, modulated, time-varying and recorded, each with a mean of one a second until it is scaled.

Shapes are made free of any rate; whoever needs arrivals says how many and at which mean rate, and the shape is
stretched to that. So one scenario is as hard on a fleet of fast machines as on one of slow ones.

- Poisson; Gamma renewal with a squared coefficient of variation (CV² = 1 is Poisson; as AlpaServe and SuperServe use).
- MMPP: a Markov chain of rates with exponential sojourns and uniform jumps; Poisson within a state.
- Self-similar: the same with Pareto sojourns of infinite variance, so that bursts are as uneven on any scale of time
  (Willinger et al., SIGCOMM'95).
- Ramp: a rate that rises linearly from one level to another; its acceleration is the difference over the time.
- Diurnal: 1 + A·sin(2πt/P); flash crowd: a level, and a multiple of it for a while. Both by inverting the cumulative
  rate at the times of a Poisson process, which is exact and as quick as thinning.
- Replay: a file of timestamps, one a line.
- Of another package, by an entry point of the group ``slimsched.workloads``: called with the numbers that were given,
  it returns a shape. What that draws is checked, because a simulation of arrivals out of order would be wrong silently.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from orchestrator.errors import ConfigError
from orchestrator.installed.plugins import PluginGroup

Times = NDArray[np.float64]
Shape = Callable[[int, np.random.Generator], Times]
"""Returns so many ascending times from 0 on, of mean rate 1 in the long run."""

PLUGINS: Final = PluginGroup("slimsched.workloads", "workload")
_GRID = 20_000


def gamma(cv2: float) -> Shape:
    """Gamma gaps of shape 1/CV²: 1 is Poisson, above it burstier, below it smoother; 0 is a metronome."""

    def draw(count: int, rng: np.random.Generator) -> Times:
        gaps = np.ones(count) if cv2 == 0 else rng.gamma(1 / cv2, cv2, count)
        return np.cumsum(gaps)

    return draw


def mmpp(rates: tuple[float, ...], sojourn: float, *, tail: float | None = None) -> Shape:
    """Poisson arrivals at the rate of a state, which lasts ``sojourn`` mean gaps on average and then jumps.

    ``rates`` are relative to each other; each state is as likely as any. Sojourns are exponential, or Pareto of an
    exponent ``tail`` above 1.
    """
    levels = np.asarray(rates) / np.mean(rates)

    def draw(count: int, rng: np.random.Generator) -> Times:
        # In operational time arrivals are Poisson of rate 1; states stretch it.
        states = max(2, int(2 * count / sojourn) + 20)
        while True:
            jumps = rng.integers(1, len(levels), states) if len(levels) > 1 else np.zeros(states, int)
            sequence = (rng.integers(len(levels)) + np.cumsum(jumps)) % len(levels)
            if tail is None:
                lasting = rng.exponential(sojourn, states)
            else:
                lasting = sojourn * (1 - 1 / tail) * (1 + rng.pareto(tail, states))
            cumulative = np.concatenate([[0.0], np.cumsum(lasting * levels[sequence])])
            arrivals = np.cumsum(rng.exponential(1.0, count))
            if cumulative[-1] >= arrivals[-1]:
                return _invert(arrivals, np.concatenate([[0.0], np.cumsum(lasting)]), cumulative)
            states *= 2

    return draw


def ramp(first: float, last: float) -> Shape:
    """A rate that goes from ``first`` to ``last``, relative to each other, evenly over the whole time."""
    return _by_rate(lambda part: first + (last - first) * part)


def rise_and_fall(low: float, high: float) -> Shape:
    """A rate that rises evenly from ``low`` to ``high`` in the first half of the time, and falls in the second."""
    return _by_rate(lambda part: low + (high - low) * (1 - np.abs(2 * part - 1)))


def diurnal(amplitude: float, periods: float) -> Shape:
    """A rate of 1 + A·sin, so many periods over the whole time."""
    return _by_rate(lambda part: 1 + amplitude * np.sin(2 * np.pi * periods * part))


def flash_crowd(factor: float, begins: float, lasts: float) -> Shape:
    """A level rate, and ``factor`` times it from ``begins`` on for ``lasts``, both as parts of the whole time."""
    return _by_rate(lambda part: np.where((part >= begins) & (part < begins + lasts), factor, 1.0))


def replay(path: Path) -> Shape:
    """The gaps of a file of timestamps in seconds, one a line, from the beginning and again when it ends.

    Raises:
        ConfigError: when it can't be read, holds no number, or a time before the one above it.
    """
    times = read_times(path)

    def draw(count: int, rng: np.random.Generator) -> Times:
        gaps = np.diff(times, prepend=times[0])
        gaps[0] = (times[-1] - times[0]) / (len(times) - 1)  # between the end and the beginning, the mean
        return np.asarray(np.cumsum(np.resize(gaps, count)) / gaps.mean())

    return draw


def read_times(path: Path) -> Times:
    """Return the timestamps of a file, ascending; see ``replay``."""
    try:
        lines = [line.strip() for line in path.read_text().splitlines()]
    except (OSError, UnicodeDecodeError) as exc:
        raise ConfigError(f"can't read the timestamps in {path} ({exc}); give unpacked text, one a line") from exc
    numbered = [(number, line) for number, line in enumerate(lines, start=1) if line and not line.startswith("#")]
    times = np.empty(len(numbered))
    for at, (number, line) in enumerate(numbered):
        try:
            times[at] = float(line)
        except ValueError:
            raise ConfigError(f"{path}, line {number}: {line!r} is no time in seconds; one number a line") from None
        if not np.isfinite(times[at]):
            raise ConfigError(f"{path}, line {number}: {line} is no time; it must be finite")
        if at and times[at] < times[at - 1]:
            raise ConfigError(f"{path}, line {number}: {line} is before {numbered[at - 1][1]} above it; sort the file")
    if len(times) < 2 or times[-1] == times[0]:
        raise ConfigError(f"{path} holds {len(times)} timestamps; two different ones at least make a rate")
    return times


def plugged(name: str, numbers: Sequence[float]) -> Shape:
    """The arrivals of another package, of which it makes a shape by some numbers.

    Raises:
        ConfigError: when the package can't be imported or refuses the numbers; of the shape, when it raises, or draws
            what are no ascending times from 0 on.
    """
    make: Callable[..., Shape] = PLUGINS.load(name)
    shape = PLUGINS.call(name, lambda: make(*numbers))

    def draw(count: int, rng: np.random.Generator) -> Times:
        times = PLUGINS.call(name, lambda: np.asarray(shape(count, rng), np.float64))
        if times.shape != (count,) or not (np.isfinite(times).all() and (np.diff(times, prepend=0.0) >= 0).all()):
            raise ConfigError(
                f"workload {name!r} of {PLUGINS.origin(name)} drew {list(times.shape)} times for {count} arrivals, or "
                "times that are not finite or descend; it must return as many as were asked for, ascending from 0 on"
            )
        return times

    return draw


def scaled(shape: Shape, count: int, rate_rps: float, rng: np.random.Generator) -> Times:
    """Return ``count`` arrival times whose mean rate is ``rate_rps`` in the long run."""
    return shape(count, rng) / rate_rps


def _by_rate(rate: Callable[[Times], Times]) -> Shape:
    def draw(count: int, rng: np.random.Generator) -> Times:
        parts = np.linspace(0.0, 1.0, _GRID + 1)
        levels = rate((parts[1:] + parts[:-1]) / 2)
        cumulative = np.concatenate([[0.0], np.cumsum(levels)])
        # The whole time is that of ``count`` arrivals at mean rate 1; who comes later meets the last level.
        arrivals = np.cumsum(rng.exponential(1.0, count))
        return _invert(arrivals, parts * count, cumulative / cumulative[-1] * count)

    return draw


def _invert(arrivals: Times, times: Times, cumulative: Times) -> Times:
    """Return when the cumulative rate reaches each of ``arrivals``; beyond its end it goes on at its last slope.

    But at least at a tenth of the mean: a rate that falls to nothing would let the last request come hours later.
    """
    beyond = arrivals > cumulative[-1]
    found = np.interp(arrivals, cumulative, times)
    if beyond.any():  # else the last slope may be endless, as that of a state without requests
        last_s = times[-1] - times[-2]
        slope = last_s / max(cumulative[-1] - cumulative[-2], last_s / 10)
        found[beyond] = times[-1] + (arrivals[beyond] - cumulative[-1]) * slope
    return np.asarray(found)
