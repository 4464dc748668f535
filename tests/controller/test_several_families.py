"""Three families on two hosts that have room for half of them: memory follows popularity, and nobody's answers suffer.

Controllers and router are the real ones, in virtual time; ``pytest -s`` prints the table of docs/controller.md, which
must have these figures.
"""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from orchestrator.errors import SlimError
from orchestrator.planner.host import Limits
from orchestrator.router import Answer, Router
from orchestrator.snapshot import ModelName
from tests.controller.worlds import MIB, controller
from tests.controller.worlds import triton as host_of
from tests.fakes.control import FakeTriton, repository_model
from tests.fakes.hosted import HostedServer
from tests.fakes.servers import ACCURACY, item
from tests.router.test_router import routed

pytestmark = pytest.mark.virtual_time

FAMILIES = ("cats", "dogs", "owls")
WIDTHS = (25, 50, 75, 100)
INSTANCE_MIB = {25: 40, 50: 48, 75: 56, 100: 64}
BASE_MIB = 100
BUDGET_MIB = BASE_MIB + len(FAMILIES) * sum(INSTANCE_MIB.values()) // 2
LIMITS = Limits(
    memory_budget_bytes=BUDGET_MIB * MIB,
    minimum=tuple(ModelName(f"{family}_w025") for family in FAMILIES),
    wanted=tuple(ModelName(f"{family}_w{width:03d}") for family in FAMILIES for width in WIDTHS),
    max_instances=1,  # a host is one device
    unmeasured_instance_bytes=64 * MIB,
)
REQUESTS_RPS = 60.0
PERIOD_S = 120.0
"""In which popularity goes round once; each family has none for half of it."""


@dataclass(frozen=True, slots=True)
class Drift:
    """What came of one run: the answers of each family, None where there was none, and the two hosts."""

    answers: dict[str, list[Answer | None]]
    hosts: list[FakeTriton]

    def in_time(self, family: str) -> float:
        answers = self.answers[family]
        return sum(answer is not None and answer.deadline_met for answer in answers) / len(answers)

    def accuracy(self, family: str) -> float:
        widths = [answer.width for answer in self.answers[family] if answer is not None]
        return sum(ACCURACY[width] for width in widths) / len(widths)


def popularity(family: str, at_s: float) -> float:
    """Return the part of all requests that is a family's; those of all families add up to 1."""
    waves = [max(0.0, math.cos(2 * math.pi * (at_s / PERIOD_S - n / len(FAMILIES)))) for n in range(len(FAMILIES))]
    return waves[FAMILIES.index(family)] / sum(waves)


async def ask(router: Router, family: str) -> list[Answer | None]:
    """Return the answers to the arrivals of one family, a Poisson process of its popularity."""

    async def call() -> Answer | None:
        try:
            return await router.infer(item(1), family=family, deadline_ms=100)
        except SlimError:
            return None

    loop, uniforms, calls = asyncio.get_running_loop(), random.Random(family), list[asyncio.Task[Answer | None]]()
    due_s = begin_s = loop.time()
    while (due_s := due_s + uniforms.expovariate(REQUESTS_RPS)) < begin_s + PERIOD_S:
        if uniforms.random() < popularity(family, due_s - begin_s):
            await asyncio.sleep(max(0.0, due_s - loop.time()))
            calls.append(asyncio.create_task(call()))
    return list(await asyncio.gather(*calls))


@asynccontextmanager
async def controlled() -> AsyncIterator[list[FakeTriton]]:
    """Two hosts of all families, each with a controller that has loaded what it can."""
    models = [repository_model(width, family=family) for family in FAMILIES for width in WIDTHS]
    hosts = [host_of(models=models, instance_mib=INSTANCE_MIB, base_mib=BASE_MIB) for _ in range(2)]
    stop = asyncio.Event()
    async with asyncio.TaskGroup() as daemons:
        for host in hosts:
            daemons.create_task(controller(host, limits=LIMITS, idle_s=10.0).run(stop))
        await asyncio.sleep(30)
        yield hosts
        stop.set()


async def drift(families: Sequence[str]) -> Drift:
    """Let the popularity of all families drift while only some are asked."""
    async with controlled() as hosts:
        servers = {
            "a": HostedServer(hosts[0], per_item_s=0.02, fixed_s=0.002),
            "b": HostedServer(hosts[1], per_item_s=0.03, fixed_s=0.003),
        }
        async with routed(servers) as router:
            answers = await asyncio.gather(*(ask(router, family) for family in families))
    return Drift(dict(zip(families, answers, strict=True)), hosts)


async def test_memory_follows_what_is_popular_and_each_family_is_answered_as_if_it_were_alone() -> None:
    page = (Path(__file__).parents[2] / "docs" / "controller.md").read_text()
    together = await drift(FAMILIES)
    print(f"\n| family | requests | in time, alone | together | accuracy, alone | together |\n|{' --- |' * 6}")
    for family in FAMILIES:
        alone, count = await drift([family]), len(together.answers[family])
        in_time = f"{alone.in_time(family):.1%} | {together.in_time(family):.1%}"
        accuracy = f"{alone.accuracy(family):.1%} | {together.accuracy(family):.1%}"
        print(row := f"| {family} | {count} | {in_time} | {accuracy} |")
        assert len(alone.answers[family]) == count
        assert together.in_time(family) >= alone.in_time(family) - 0.02
        assert row in page
    for host in together.hosts:
        moved = sum(call.kind in ("load", "unload") for call in host.calls)
        used = f"at most {host.peak_bytes / MIB:.0f} MiB of its budget of {BUDGET_MIB}"
        print(said := f"{moved} loads and unloads, {used}")
        assert said in " ".join(page.split())
        assert host.peak_bytes <= LIMITS.memory_budget_bytes
        loaded = {call.model for call in host.calls if call.kind == "load" and call.began_s > 30}
        assert {model.split("_")[0] for model in loaded} == set(FAMILIES), "each had its turn"
