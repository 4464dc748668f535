"""Several families on the same servers: who floods takes nothing from the others."""

from __future__ import annotations

import asyncio
import random
from statistics import fmean

import pytest

from orchestrator.errors import CapacityError, SlimError
from orchestrator.policies.family_turns import LONGEST_PART
from orchestrator.router import Answer, Router
from tests.fakes.servers import FakeServer, item, served_model
from tests.router.test_router import routed

pytestmark = pytest.mark.virtual_time

CALM_RPS, FLOOD_RPS = 30.0, 3000.0
"""The flood is ten times what both servers together answer in full batches at their narrowest width, 300 a second."""
PROBES_S = 4.0
"""Twice in each part of a test; at full width a golden probe takes a server for as long as the calm family has."""


def server(per_item_s: float, fixed_s: float) -> FakeServer:
    fake = FakeServer(per_item_s=per_item_s, fixed_s=fixed_s)
    fake.models = tuple(served_model(w, family=f) for f in ("calm", "flood") for w in (25, 50, 75, 100))
    return fake


def servers() -> dict[str, FakeServer]:
    return {"a": server(0.09, 0.004), "b": server(0.12, 0.006)}


async def ask(
    router: Router, family: str, rps: float, seconds: float, deadline_ms: float | None
) -> list[Answer | None]:
    """Return the answers to Poisson arrivals of one family; None where there was none."""

    async def call() -> Answer | None:
        try:
            return await router.infer(item(1), family=family, deadline_ms=deadline_ms)
        except SlimError:
            return None

    loop, uniforms = asyncio.get_running_loop(), random.Random(family)
    due_s, end_s, calls = loop.time(), loop.time() + seconds, list[asyncio.Task[Answer | None]]()
    while (due_s := due_s + uniforms.expovariate(rps)) < end_s:
        await asyncio.sleep(max(0.0, due_s - loop.time()))
        calls.append(asyncio.create_task(call()))
    return list(await asyncio.gather(*calls))


def share_in_time(answers: list[Answer | None]) -> float:
    return sum(answer is not None and answer.deadline_met for answer in answers) / len(answers)


@pytest.mark.parametrize(
    ("calm_ms", "flood_ms"),
    [(100, 100), (200, 50), (100, None)],
    ids=["alike", "the flood is due first", "the flood takes any time"],
)
async def test_ten_times_too_much_of_one_family_costs_another_no_answer(calm_ms: float, flood_ms: float | None) -> None:
    async with routed(servers(), queue_limit=1000, probes={"period_s": PROBES_S}) as router:
        alone = await ask(router, "calm", CALM_RPS, 4.0, calm_ms)
        beside, flood = await asyncio.gather(
            ask(router, "calm", CALM_RPS, 4.0, calm_ms), ask(router, "flood", FLOOD_RPS, 4.0, flood_ms)
        )
    assert share_in_time(beside) >= share_in_time(alone) - 0.02
    assert share_in_time(flood) < 0.15, "it is a flood"
    assert any(answer is not None for answer in flood), "and gets what the other leaves"


@pytest.mark.parametrize("flood_ms", [50, 100])
async def test_a_flood_of_five_thousand_a_second_costs_no_answer_that_has_50_ms(flood_ms: float) -> None:
    fleet = {"a": server(0.027, 0.0012), "b": server(0.036, 0.0018)}
    async with routed(fleet, queue_limit=1000) as router:
        alone = await ask(router, "calm", 2 * CALM_RPS, 2.0, 50)
        beside, flood = await asyncio.gather(
            ask(router, "calm", 2 * CALM_RPS, 2.0, 50), ask(router, "flood", 5000.0, 2.0, flood_ms)
        )
    assert share_in_time(beside) >= share_in_time(alone) - 0.02
    assert share_in_time(flood) < 0.2, "it is a flood"


async def test_what_a_flood_is_refused_does_not_narrow_who_keeps_to_its_share() -> None:
    fleet = {"a": server(0.009, 0.0012), "b": server(0.012, 0.0018)}
    async with routed(fleet, queue_limit=1000, policy="lert:brownout") as router:
        calm, flood = await asyncio.gather(
            ask(router, "calm", CALM_RPS, 2.0, 400), ask(router, "flood", 5000.0, 2.0, 100)
        )
    widths = [int(answer.width) for answer in calm if answer is not None]
    assert sum(answer is None for answer in flood) > 0.3 * len(flood), "many are refused all the time"
    assert fmean(widths) > 90


async def test_a_flood_neither_waits_at_servers_nor_sends_what_runs_for_long_beside_another_family() -> None:
    fleet = servers()
    async with routed(fleet, queue_limit=1000) as router:
        flood = asyncio.create_task(ask(router, "flood", FLOOD_RPS, 1.0, None))
        await ask(router, "calm", CALM_RPS, 0.5, 100)
        for fake in fleet.values():
            fake.batches.clear()
        calm = [answer for answer in await ask(router, "calm", CALM_RPS, 0.4, 100) if answer is not None]
        for answer in {answer.decision_id: answer for answer in calm}.values():  # one of each batch
            fleet[answer.server].batches.remove((answer.width, answer.batch))
        longest_s = [max(fake.service_s(*batch) for batch in fake.batches) for fake in fleet.values()]
        await flood
    assert all(longest <= 1.3 * LONGEST_PART * 0.1 for longest in longest_s)


async def test_a_full_queue_gives_up_the_family_that_fills_it_and_no_other() -> None:
    fleet = {"a": server(0.04, 0.004)}
    flood: list[asyncio.Task[Answer]] = []

    async def flood_the_queue(router: Router) -> None:
        for _ in range(6):  # what goes to the server at once leaves room in the queue
            flood.extend(
                asyncio.create_task(router.infer(item(1), family="flood", deadline_ms=5000)) for _ in range(20)
            )
            await asyncio.sleep(0.01)

    async with routed(fleet, queue_limit=20) as router:
        async with fleet["a"].busy():
            await flood_the_queue(router)
            # They are due later than all of the flood.
            calm = [asyncio.create_task(router.infer(item(2), family="calm", deadline_ms=9000)) for _ in range(5)]
            await asyncio.sleep(0.01)
            outcomes = [call.exception() for call in flood if call.done()]
            assert sum("something more urgent" in str(outcome) for outcome in outcomes) == 5, "it makes room for them"
            await flood_the_queue(router)
            assert not any(call.done() for call in calm), "and then takes no place of theirs"
        assert all(isinstance(answer, Answer) for answer in await asyncio.gather(*calm))
        refused = [o for o in await asyncio.gather(*flood, return_exceptions=True) if isinstance(o, Exception)]
        assert all(isinstance(outcome, CapacityError) for outcome in refused)
