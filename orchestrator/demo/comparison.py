"""The demo: the default among its baselines, in turn, under a load that rises and falls.

The load is told as a multiple of what this machine's two servers answer at full width, measured just before, so the
picture is the same on a laptop and on a server: first full width fits, then it does not, then it does again. Baselines
take turns in rounds, so that what else the machine does meets all of them.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from orchestrator.config import FleetSettings, ServerSettings
from orchestrator.demo.baselines import BASELINES, WIDEST, Baseline, make_baseline, make_baselines, only_family
from orchestrator.demo.results import Comparison, Turn, fill_in_width
from orchestrator.demo.testbed import embedded_fleet, open_set_ups
from orchestrator.errors import TransientError
from orchestrator.loadgen.capacity import measure_capacity
from orchestrator.loadgen.comparison import drain, turns
from orchestrator.loadgen.plan import Load
from orchestrator.loadgen.run import run_load
from orchestrator.loadgen.sample import LabelledSample
from orchestrator.loadgen.target import SetUp
from orchestrator.router import compile_ahead
from orchestrator.snapshot import ServedModel
from orchestrator.triton.client import TritonClient

LOWEST_RATIO, HIGHEST_RATIO = 0.5, 2.0
"""The load at both ends of a run and in its middle, over what is answered at full width."""
_CAPACITY_S, _CAPACITY_FIRST_RPS = 3.0, 800.0
STARTS: Final = 3
"""Of servers and gateways, in all."""
_WAIT_S: Final = 1.0
"""For answers, when all has been sent; at deadlines of the demo's length the rest is late by far."""

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class DemoSettings:
    """What the demo runs.

    Attributes:
        baselines: Who is compared, see ``baselines.make_baseline``.
        load_ratio: A constant load, over what the servers can answer at full width; None: it rises and falls.
        rounds: How often each of the baselines has its turn.
        seconds: How long each turn is.
        deadline_s: Of each request, from when it is due.
        seed: Of arrivals, the order of images, and policies that draw random numbers.
    """

    repository: Path
    baselines: tuple[str, ...] = BASELINES
    load_ratio: float | None = None
    rounds: int = 2
    seconds: float = 5.0
    deadline_s: float = 0.1
    seed: int = 0


async def run_demo(
    settings: DemoSettings, sample: LabelledSample, *, say: Say, note: Callable[[Comparison], None]
) -> None:
    """Start servers and gateways, let the baselines take turns, and have noted after each what there is so far.

    A turn in which a server failed says nothing of who had it: servers and gateways are started anew, and it is taken
    again. An embedded server can fail where a machine stalls for a second, see ``orchestrator.embedded.server``.

    Raises:
        SlimError: A server or gateway can't be started or fails again and again, or the repository can't be used.
    """
    await compile_ahead()  # the gateways would, but where nobody reads what they say
    comparison: Comparison | None = None
    for starts_left in reversed(range(STARTS)):
        try:
            async with _open_testbed(settings, say) as testbed:
                if comparison is None:
                    comparison = await _begin(testbed, settings, sample, say)
                load = _plan_load(settings, comparison.capacity_rps)
                every = list(turns(testbed.set_ups, [load], settings.rounds))
                for number, own, set_up in every[len(comparison.turns) :]:
                    say(f"round {number + 1} of {settings.rounds}: {set_up.name}")
                    comparison = await _take_turn(comparison, testbed, set_up, own, sample)
                    note(comparison)
                return
        except TransientError as exc:
            if not starts_left:
                raise
            say(f"a server failed: {exc}; all are started anew, and what was measured just then is measured again")
            if comparison is not None:
                failure = f"a server failed in turn {len(comparison.turns) + 1}, which was taken again on new ones"
                comparison = replace(comparison, setting=(*comparison.setting, failure))


@dataclass(frozen=True, slots=True)
class _Testbed:
    """What has been started; ``set_ups`` belong to ``baselines``, ``widest`` is who always asks for full width."""

    fleet: FleetSettings
    tritons: tuple[TritonClient, ...]
    models: tuple[ServedModel, ...]
    baselines: tuple[Baseline, ...]
    set_ups: tuple[SetUp, ...]
    widest: SetUp


@asynccontextmanager
async def _open_testbed(settings: DemoSettings, say: Say) -> AsyncIterator[_Testbed]:
    say("starting two tritonservers")
    async with AsyncExitStack() as stack:
        fleet = await stack.enter_async_context(embedded_fleet(settings.repository))
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="slimsched-demo-")))
        tritons = [await stack.enter_async_context(TritonClient(server.grpc)) for server in fleet.servers]
        family, models = only_family(await tritons[0].served_models())
        baselines = make_baselines(settings.baselines, models)
        full_width = make_baseline(WIDEST, models)
        started = [*baselines, *([] if full_width in baselines else [full_width])]
        say(f"starting {sum(baseline.model is None for baseline in started)} gateways")
        set_ups = await stack.enter_async_context(open_set_ups(fleet, family, started, folder, seed=settings.seed))
        widest = next(set_up for set_up in set_ups if set_up.name == full_width.name)
        own = tuple(set_ups[: len(baselines)])
        yield _Testbed(fleet, tuple(tritons), tuple(models), tuple(baselines), own, widest)


async def _begin(testbed: _Testbed, settings: DemoSettings, sample: LabelledSample, say: Say) -> Comparison:
    """Measure what the servers can do, and return the comparison before its first turn."""
    say("measuring what the servers can answer at full width")
    capacity_rps = await measure_capacity(testbed.widest, sample, seconds=_CAPACITY_S, first_rps=_CAPACITY_FIRST_RPS)
    await drain(testbed.tritons, sample.images[:1])
    load = _plan_load(settings, capacity_rps)
    say(f"it is {capacity_rps:.0f} images a second; each turn sends {load.rate_rps:.0f} for {load.seconds:g} s")
    return Comparison(
        setting=_describe(settings, len(sample.labels), capacity_rps, load),
        servers=tuple((server.name, _describe_server(server)) for server in testbed.fleet.servers),
        widths=tuple(model.width for model in testbed.models),
        capacity_rps=capacity_rps,
        seconds=load.seconds,
        deadline_s=load.deadline_s,
        baselines=testbed.baselines,
        wanted=settings.rounds,
        turns=(),
    )


async def _take_turn(
    comparison: Comparison, testbed: _Testbed, set_up: SetUp, load: Load, sample: LabelledSample
) -> Comparison:
    """Return the comparison with one more turn, when the servers have done all of it.

    Raises:
        TransientError: A server no longer answers; the turn does not count.
    """
    run = await run_load(set_up.target, set_up.of(load), sample.sent(), wait_s=_WAIT_S)
    if run.is_cut:
        raise asyncio.CancelledError
    await drain(testbed.tritons, sample.images[:1])
    width = next(baseline.width for baseline in comparison.baselines if baseline.name == set_up.name)
    turn = Turn(set_up.name, fill_in_width(run.records, width))
    return replace(comparison, turns=(*comparison.turns, turn))


def _plan_load(settings: DemoSettings, capacity_rps: float) -> Load:
    if settings.load_ratio is None:
        workload = f"rise-and-fall:{LOWEST_RATIO}:{HIGHEST_RATIO}"
        ratio = (LOWEST_RATIO + HIGHEST_RATIO) / 2
    else:
        workload, ratio = "poisson", settings.load_ratio
    return Load(workload, ratio * capacity_rps, settings.seconds, settings.deadline_s, seed=settings.seed)


def _describe(settings: DemoSettings, images: int, capacity_rps: float, load: Load) -> tuple[str, ...]:
    if settings.load_ratio is None:
        course = f"rises from {LOWEST_RATIO:g} to {HIGHEST_RATIO:g} times that and falls again"
    else:
        course = f"is {settings.load_ratio:g} times that"
    return (
        f"at full width the servers answer {capacity_rps:.0f} images a second, measured just before; in a turn of "
        f"{load.seconds:g} s the load {course}",
        f"{images:,} labelled test images, one a request, sent open loop (Poisson arrivals, seed {settings.seed}) over "
        "gRPC, in each round the same to everybody at the same times",
        f"deadline {settings.deadline_s * 1e3:g} ms after a request is due, from when latency counts too",
        "the servers are real tritonservers, on this machine as are gateways and sender; that they are slow, and "
        "unlike, is emulated",
    )


def _describe_server(server: ServerSettings) -> str:
    if server.emulated_slowdown is None:
        return "one core"
    return f"one core, emulated {server.emulated_slowdown:g}× slower"
