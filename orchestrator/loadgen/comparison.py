"""Set-ups under the same loads, interleaved: in each round every set-up gets each load once.

What else a machine does changes from minute to minute, so figures of set-ups that were measured one after the other say
more about the minutes. Here they take turns within a round, and a difference between two set-ups is taken within
rounds. Who follows whom is balanced (a Latin square as of E. J. Williams, Australian Journal of Scientific Research
A 2, 1949): a set-up that leaves servers busy is not before the same one each time. Where one may leave work without a
deadline behind, ``drain`` waits for that.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from numpy.typing import NDArray

from orchestrator.loadgen.plan import Load
from orchestrator.loadgen.records import Summary
from orchestrator.loadgen.run import Measured
from orchestrator.loadgen.target import SetUp
from orchestrator.reporting.student import half_interval
from orchestrator.triton.client import TritonClient


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
    before has left behind. Within as many loads as there are set-ups, or twice as many of an odd number, each of them
    comes as often right after each other one.
    """
    for number in range(rounds):
        for index, load in enumerate(loads):
            for place in _order(len(set_ups), first + number * len(loads) + index):
                yield number, replace(load, seed=load.seed + number), set_ups[place]


def _order(count: int, row: int) -> list[int]:
    """Return a row of a Latin square that is balanced for who follows whom; ``row`` is the first in it."""
    steps = [(step + 1) // 2 if step % 2 else -(step // 2) for step in range(count)]
    if count % 2 and row // count % 2:
        steps = [-step for step in steps]
    return [(row + step) % count for step in steps]


async def drain(tritons: Sequence[TritonClient], item: NDArray[Any]) -> None:
    """Wait until servers have done all that they had: until each of their models has answered one more item."""
    for triton in tritons:
        models = await triton.served_models()
        await asyncio.gather(*(triton.infer_batch(model, (item,)) for model in models))


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
class SetUpScore:
    """How one set-up did at one rate, over all rounds.

    Attributes:
        right_in_time: Top-1 in time, or as of ``Summary``, with its interval; None where nobody judged.
        means: The means of further figures of ``Summary``, by name; None where there were no answers.
        policies: The part of the answers that each policy decided; empty where answers don't say.
    """

    rate_rps: float
    set_up: str
    rounds: int
    right_in_time: Mean | None
    means: Mapping[str, float | None]
    policies: Mapping[str, float]


def set_up_scores(results: Sequence[Result], figures: Sequence[str]) -> list[SetUpScore]:
    """Return how each set-up did at each rate, in the order in which they were measured."""
    found = []
    for rate_rps, name in dict.fromkeys((result.load.rate_rps, result.set_up) for result in results):
        own = [r.summary for r in results if (r.load.rate_rps, r.set_up) == (rate_rps, name)]
        right = [summary.right_in_time for summary in own if summary.right_in_time is not None]
        means = {figure: _mean([getattr(summary, figure) for summary in own]) for figure in figures}
        policies = _mean_shares([summary.policies for summary in own])
        found.append(SetUpScore(rate_rps, name, len(own), mean_of(right) if right else None, means, policies))
    return found


def _mean_shares(shares: Sequence[Mapping[str, float]]) -> Mapping[str, float]:
    names = dict.fromkeys(name for each in shares for name in each)
    return {name: sum(each.get(name, 0.0) for each in shares) / len(shares) for name in names}


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
