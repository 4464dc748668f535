"""Set-ups under the same loads, interleaved: in each round every set-up gets each load once.

What else a machine does changes from minute to minute, so figures of set-ups that were measured one after the other say
more about the minutes. Here they take turns within a round, the first in one round being the second in the next, and a
difference between two set-ups is taken within rounds.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from orchestrator.loadgen.plan import Load
from orchestrator.loadgen.records import Summary
from orchestrator.loadgen.run import Measured
from orchestrator.loadgen.target import SetUp
from orchestrator.reporting.student import half_interval


@dataclass(frozen=True, slots=True)
class Result:
    """What one set-up did with one load in one round."""

    set_up: str
    load: Load
    round: int
    summary: Summary
    senders_cores: float


def turns(
    set_ups: Sequence[SetUp], loads: Sequence[Load], rounds: int, *, first: int = 0
) -> Iterator[tuple[int, Load, SetUp]]:
    """Yield what is measured, in order; the arrivals of a round are the same for every set-up.

    The set-up with the index ``first`` begins, the next one with the next load or round: who begins meets what the load
    before has left behind.
    """
    for number in range(rounds):
        for index, load in enumerate(loads):
            begins = (first + number * len(loads) + index) % len(set_ups)
            for set_up in (*set_ups[begins:], *set_ups[:begins]):
                yield number, replace(load, seed=load.seed + number), set_up


async def compare(
    set_ups: Sequence[SetUp],
    loads: Sequence[Load],
    rounds: int,
    measure: Callable[[SetUp, Load], Awaitable[Measured]],
    note: Callable[[Result], None],
) -> None:
    """Measure every set-up under every load in turn; ``note`` is told each result as it comes, but none that was cut.

    Raises:
        CancelledError: A run was cut.
    """
    for number, load, set_up in turns(set_ups, loads, rounds):
        found = await measure(set_up, set_up.of(load))
        if found.is_cut:
            raise asyncio.CancelledError
        note(Result(set_up.name, load, number, found.summary, found.senders_cores))


@dataclass(frozen=True, slots=True)
class Mean:
    """A mean over rounds with its 95 % interval, which is as wide as can be with one round."""

    value: float
    least: float
    most: float


def mean_of(values: Sequence[float]) -> Mean:
    """Return the mean of at least one value, with the interval of Student's t."""
    value, half = sum(values) / len(values), half_interval(values)
    return Mean(value, value - half, value + half)


@dataclass(frozen=True, slots=True)
class Standing:
    """How one set-up did at one rate, over all rounds.

    Attributes:
        right_in_time: Top-1 in time, or as of ``Summary``, with its interval; None where nobody judged.
        means: The means of further figures of ``Summary``, by name; None where there were no answers.
    """

    rate_rps: float
    set_up: str
    rounds: int
    right_in_time: Mean | None
    means: Mapping[str, float | None]


def standings(results: Sequence[Result], figures: Sequence[str]) -> list[Standing]:
    """Return how each set-up did at each rate, in the order in which they were measured."""
    found = []
    for rate_rps, name in dict.fromkeys((result.load.rate_rps, result.set_up) for result in results):
        own = [r.summary for r in results if (r.load.rate_rps, r.set_up) == (rate_rps, name)]
        right = [summary.right_in_time for summary in own if summary.right_in_time is not None]
        means = {figure: _mean([getattr(summary, figure) for summary in own]) for figure in figures}
        found.append(Standing(rate_rps, name, len(own), mean_of(right) if right else None, means))
    return found


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
