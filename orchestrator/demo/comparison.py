"""The demo: the same labelled images over two unlike Tritons under four policies.

The servers are real tritonservers. That they are unlike is emulated: each may use one core, and its backend waits
after every batch so that it takes 8 and 24 times as long. The page and the table say so. Both are slowed down because
everything runs on one machine: while a server waits, its core is free for the sender and the router, so the servers
are what is scarce and not the measuring.

The rate is set from what this machine can do, measured just before: some more than the fleet answers at full width.
So the picture is the same on a laptop and on a server: dispatch that ignores the machines' speeds drowns the slow
one, full width alone falls behind, and choosing the width by slack keeps the deadlines at a small price in accuracy.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from orchestrator.config import FleetSettings, OverloadSettings, RouterSettings, ServerSettings
from orchestrator.demo.open_loop import PolicySummary, poisson_arrivals_s, run_open_loop, summarize
from orchestrator.demo.report import Comparison
from orchestrator.embedded.server import EmbeddedOptions, EmbeddedServer
from orchestrator.loadgen.sample import LabelledSample
from orchestrator.router import Router
from orchestrator.snapshot import ServerName, Width

POLICIES = ("random", "round-robin", "lert", "lert:slack")
_CAPACITY_ROUNDS = 2
_BURST_ITEMS = 256


@dataclass(frozen=True, slots=True)
class DemoSettings:
    """What the demo runs.

    Attributes:
        servers: Name and slow-down of each server; above 1 is emulated.
        load_ratio: The rate of requests over the rate the fleet can answer at full width.
        seed: The seed of the arrival times and of policies that draw random numbers.
    """

    repository: Path
    policies: tuple[str, ...] = POLICIES
    servers: tuple[tuple[str, float], ...] = (("fast", 8.0), ("slow", 24.0))
    load_ratio: float = 1.2
    deadline_s: float = 0.1
    seed: int = 0


async def run_demo(settings: DemoSettings, sample: LabelledSample, *, say: Callable[[str], None]) -> Comparison:
    """Start the servers, send the sample once under each policy, and return what came out; ``say`` hears what is next.

    Raises SlimError when the servers can't be started or fail.
    """
    say(f"starting {len(settings.servers)} tritonservers")
    async with embedded_fleet(settings) as fleet:
        capacity_rps, widths = await _measure_capacity(fleet, sample)
        rate_rps = settings.load_ratio * capacity_rps
        say(f"the fleet answers {capacity_rps:.0f} images/s at full width; sending {rate_rps:.0f}/s")
        summaries = [await _run_policy(fleet, policy, sample, rate_rps, settings, say) for policy in settings.policies]
    return Comparison(
        title="One slimmable network, two unlike Tritons",
        setting=_describe(settings, len(sample.labels), capacity_rps, rate_rps),
        servers=tuple((ServerName(s.name), _describe_server(s)) for s in fleet.servers),
        widths=widths,
        summaries=tuple(summaries),
    )


@asynccontextmanager
async def embedded_fleet(settings: DemoSettings, *, cores: Sequence[int] = ()) -> AsyncIterator[FleetSettings]:
    """Run the embedded servers, each on a core of its own where there are enough; of ``cores``, or of all."""
    cores = cores or sorted(os.sched_getaffinity(0))
    servers = [
        EmbeddedServer(
            settings.repository, EmbeddedOptions(slowdown=slowdown, cpus=frozenset({cores[index % len(cores)]}))
        )
        for index, (_, slowdown) in enumerate(settings.servers)
    ]
    async with AsyncExitStack() as stack:
        started = await asyncio.gather(*map(stack.enter_async_context, servers), return_exceptions=True)
        for outcome in started:
            if isinstance(outcome, BaseException):
                raise outcome
        yield FleetSettings(
            servers=tuple(
                ServerSettings(
                    name=name,
                    grpc=server.grpc_address,
                    metrics=server.metrics_url,
                    emulated_slowdown=slowdown if slowdown > 1 else None,
                )
                for server, (name, slowdown) in zip(servers, settings.servers, strict=True)
            )
        )


async def _measure_capacity(fleet: FleetSettings, sample: LabelledSample) -> tuple[float, tuple[Width, ...]]:
    """Return images a second of a burst at full width, the best of two bursts, and the widths there are.

    The first burst also warms the servers, hence the best; the figure only sets the rate and is no result.
    """
    loop = asyncio.get_running_loop()
    images = [sample.images[i % len(sample.images)] for i in range(_BURST_ITEMS)]
    best_rps = 0.0
    async with Router.from_fleet(_with_policy(fleet, "lert", deadline_s=60.0, seed=0)) as router:
        widths = tuple(model.width for model in router.models())
        for _ in range(_CAPACITY_ROUNDS):
            began_s = loop.time()
            await asyncio.gather(*(router.infer(image) for image in images))
            best_rps = max(best_rps, _BURST_ITEMS / (loop.time() - began_s))
    return best_rps, widths


async def _run_policy(
    fleet: FleetSettings,
    policy: str,
    sample: LabelledSample,
    rate_rps: float,
    settings: DemoSettings,
    say: Callable[[str], None],
) -> PolicySummary:
    """Send the sample once under a policy, with a router that knows nothing of earlier runs."""
    say(f"{len(sample.labels)} images under {policy}")
    arrivals_s = poisson_arrivals_s(rate_rps, len(sample.labels), seed=settings.seed)
    chosen = _with_policy(fleet, policy, deadline_s=settings.deadline_s, seed=settings.seed)
    async with Router.from_fleet(chosen) as router:
        outcomes = await run_open_loop(
            router, sample.images, sample.labels.tolist(), arrivals_s.tolist(), deadline_s=settings.deadline_s
        )
    return summarize(policy, outcomes)


def _with_policy(fleet: FleetSettings, policy: str, *, deadline_s: float, seed: int) -> FleetSettings:
    router = RouterSettings(
        policy=policy,
        deadline_ms=deadline_s * 1e3,
        seed=seed,
        overload=OverloadSettings(shed_late=False),  # how late a policy is, is to be seen
    )
    return fleet.model_copy(update={"router": router})


def _describe(settings: DemoSettings, images: int, capacity_rps: float, rate_rps: float) -> tuple[str, ...]:
    return (
        f"{images:,} labelled test images, sent once under each policy at {rate_rps:.0f} a second "
        f"(Poisson arrivals, seed {settings.seed}), open loop",
        f"that is {settings.load_ratio:g} times the {capacity_rps:.0f} a second that the fleet answers at full width, "
        "measured just before",
        f"deadline {settings.deadline_s * 1e3:g} ms after a request is due",
        "the servers are real tritonservers on this machine; that they are unlike is emulated",
    )


def _describe_server(server: ServerSettings) -> str:
    if server.emulated_slowdown is None:
        return "one core"
    return f"one core, emulated {server.emulated_slowdown:g}× slower"
