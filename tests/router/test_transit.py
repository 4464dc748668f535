"""What of a request's time passes outside the router is part of its deadline."""

from __future__ import annotations

import asyncio
import math

import pytest

from orchestrator.errors import CapacityError, DeadlineError
from orchestrator.request_options import RequestOptions
from orchestrator.router import Answer, CallbackSink, Router, Transit
from orchestrator.snapshot import ServerName
from tests.fakes.servers import FakeServer, item
from tests.router.test_router import routed

pytestmark = pytest.mark.virtual_time

DEADLINE_MS = 200.0


async def ask(router: Router, transit: Transit | None) -> tuple[Answer | Exception, float]:
    """Return the outcome, and how long it took from now."""
    loop = asyncio.get_running_loop()
    began_s, future = loop.time(), loop.create_future()
    router.submit(item(1), RequestOptions(deadline_ms=DEADLINE_MS), CallbackSink(future.set_result), transit)
    return await future, loop.time() - began_s


async def test_who_had_to_wait_to_be_read_runs_at_the_width_that_his_time_still_allows() -> None:
    async with routed({"a": FakeServer(per_item_s=0.1, fixed_s=0.0)}, policy="lert:slack") as router:
        await asyncio.sleep(1.0)
        now_s = asyncio.get_running_loop().time
        outcome, _ = await ask(router, None)
        assert isinstance(outcome, Answer)
        assert outcome.width == 100
        outcome, took_s = await ask(router, Transit(now_s() - 0.1))
        assert isinstance(outcome, Answer)
        assert outcome.width < 100
        assert outcome.latency_s == pytest.approx(took_s + 0.1)
        assert outcome.deadline_met
        outcome, _ = await ask(router, Transit(now_s(), return_s=0.1))
        assert isinstance(outcome, Answer)
        assert outcome.width < 100


async def test_who_waited_for_longer_than_his_deadline_is_refused_at_once() -> None:
    async with routed({"a": FakeServer(per_item_s=0.1, fixed_s=0.0)}, policy="lert:slack") as router:
        await asyncio.sleep(1.0)
        async with asyncio.TaskGroup() as group:
            group.create_task(router.infer(item(0), deadline_ms=5000))
            await asyncio.sleep(0.001)
            outcome, took_s = await ask(router, Transit(asyncio.get_running_loop().time() - 0.3))
    assert isinstance(outcome, CapacityError | DeadlineError)
    assert "deadline of 200 ms (of which 300 pass in front of the router because this host is busy)" in str(outcome)
    assert took_s < 0.01


@pytest.mark.parametrize(("deadline_ms", "is_narrowed"), [(20, False), (150, True)])
async def test_who_asks_for_the_impossible_narrows_nobody(deadline_ms: float, is_narrowed: bool) -> None:
    servers = {"a": FakeServer(per_item_s=0.1, fixed_s=0.05)}
    async with routed(servers, policy="lert:brownout") as router:
        await asyncio.sleep(1.0)
        await router.infer(item(1), deadline_ms=5000)
        asked = [router.infer(item(0), deadline_ms=deadline_ms) for _ in range(30)]
        outcomes = await asyncio.gather(*asked, return_exceptions=True)
        assert any(isinstance(outcome, CapacityError | DeadlineError) for outcome in outcomes)
        answer = await router.infer(item(1), deadline_ms=5000)
    assert (answer.width == 25) == is_narrowed


async def test_the_width_reckons_with_what_has_come_and_was_not_read() -> None:
    async with routed({"a": FakeServer(per_item_s=0.05, fixed_s=0.0)}, policy="lert:slack") as router:
        await asyncio.sleep(1.0)
        alone = await router.infer(item(1), deadline_ms=1000)
        router.watch_unread(lambda: 200 * item(1).nbytes)
        before_many = await router.infer(item(1), deadline_ms=1000)
    assert alone.width == 100
    assert before_many.width < 100


async def test_how_long_answers_take_to_leave_is_part_of_what_is_promised(monkeypatch: pytest.MonkeyPatch) -> None:
    loop, late_s = asyncio.get_running_loop(), 0.0
    on_time = loop.time
    monkeypatch.setattr(loop, "time", lambda: on_time() + late_s)
    async with routed({"a": (server := FakeServer(per_item_s=0.02, fixed_s=0.0))}, policy="lert:widest") as router:
        for number in range(200):
            future: asyncio.Future[Answer | Exception] = loop.create_future()

            def write(outcome: Answer | Exception, future: asyncio.Future[Answer | Exception] = future) -> None:
                nonlocal late_s
                late_s += 0.01  # it takes so long to write it
                future.set_result(outcome)

            router.submit(item(number), RequestOptions(deadline_ms=DEADLINE_MS), CallbackSink(write))
            await future
            await asyncio.sleep(0.1)
        margin = router.inspect().latency.margin(ServerName("a"), server.models[-1].name)
    assert margin is not None
    assert margin.mean == pytest.approx(math.log(1.5), abs=0.05)
