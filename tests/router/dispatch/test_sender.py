"""Requests whose attempt fails, hangs or takes too long: answered elsewhere, once, and within a budget."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from orchestrator.config import RouterSettings
from orchestrator.errors import ServerUnavailableError, SlimError
from orchestrator.router import Answer, Router
from orchestrator.router.observer import RouterObserver
from orchestrator.snapshot import ServedModel, ServerName, Width
from orchestrator.triton.infer_wire import Tensors
from tests.fakes.servers import NO_TIME_LIMITS, FakeServer, item
from tests.fakes.troubled import TroubledServer
from tests.router.test_router import right

pytestmark = pytest.mark.virtual_time


class RecordingObserver(RouterObserver):
    """Keeps what has happened."""

    def __init__(self) -> None:
        self.events: list[tuple[str, ...]] = []

    def on_retry(self, server: ServerName) -> None:
        self.events.append(("retry", server))

    def on_hedge(self, server: ServerName) -> None:
        self.events.append(("hedge", server))

    def on_ejection(self, server: ServerName, reason: str) -> None:
        self.events.append(("ejection", server, reason))

    def on_readmission(self, server: ServerName) -> None:
        self.events.append(("readmission", server))

    def on_wrong_answer(self, server: ServerName, width: Width) -> None:
        self.events.append(("wrong", server, str(width)))

    def on_background_failure(self, task: str) -> None:
        self.events.append(("background", task))

    def count(self, event: str) -> int:
        return sum(found[0] == event for found in self.events)


def router_over(observer: RecordingObserver, servers: dict[str, FakeServer], **settings: Any) -> Router:
    named = {ServerName(name): server for name, server in servers.items()}
    values = {"policy": "lert", "probes": None, "guard": NO_TIME_LIMITS, **settings}
    return Router(RouterSettings.model_validate(values), named, observer=observer)


async def load(
    router: Router, *, rps: float, seconds: float, at: dict[float, Callable[[], object]] | None = None, **options: Any
) -> list[Answer | BaseException]:
    """Ask at a fixed rate, do things ``at`` times, and return all outcomes in order."""
    loop = asyncio.get_running_loop()
    for when_s, act in (at or {}).items():
        loop.call_later(when_s, act)
    calls = []
    for n in range(int(rps * seconds)):
        calls.append(asyncio.create_task(router.infer(item(n % 10), **options)))
        await asyncio.sleep(1 / rps)
    return await asyncio.gather(*calls, return_exceptions=True)


def in_time(outcomes: list[Answer | BaseException]) -> int:
    return sum(isinstance(o, Answer) and o.deadline_met and right(o, n % 10) for n, o in enumerate(outcomes))


@pytest.mark.parametrize("policy", ["lert", "lert:slack", "jsq", "round-robin", "p2c", "max-accuracy"])
async def test_the_death_of_one_of_two_servers_costs_no_request(policy: str) -> None:
    observer, dying = RecordingObserver(), TroubledServer(per_item_s=0.002)
    async with router_over(observer, {"a": dying, "b": FakeServer(per_item_s=0.002)}, policy=policy) as router:
        outcomes = await load(router, rps=200, seconds=5, at={2.002: dying.kill}, deadline_ms=250)
    assert in_time(outcomes) == 1000
    assert observer.count("retry") > 0


@pytest.mark.parametrize("policy", ["lert", "lert:slack", "jsq", "round-robin", "p2c", "max-accuracy"])
@pytest.mark.parametrize("trouble", ["hangs", "hangs_quietly"])
async def test_a_hang_costs_no_request_that_another_server_can_answer_in_time(policy: str, trouble: str) -> None:
    observer, hanging = RecordingObserver(), TroubledServer(per_item_s=0.002)
    async with router_over(observer, {"a": hanging, "b": FakeServer(per_item_s=0.002)}, policy=policy) as router:
        outcomes = await load(
            router,
            rps=200,
            seconds=6,
            at={2.002: lambda: setattr(hanging, trouble, True), 4: lambda: setattr(hanging, trouble, False)},
            deadline_ms=250,
        )
        assert in_time(outcomes) == 1200
        assert 0 < observer.count("retry") <= 64, "what it had, and no more"
        await asyncio.sleep(2)
        assert len(router.served_by()[ServerName("a")]) == 4, "it is used again"
        assert not router.inspect().suspects


class JoiningServer(FakeServer):
    """Begins a batch two milliseconds after the answer before it, where Triton joins to it what comes until then."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.joined = 0
        self._waiting = 0
        self._turns = asyncio.Lock()

    async def infer_batch(
        self, model: ServedModel, batch: Tensors, *, metadata: tuple[tuple[str, str], ...] = ()
    ) -> Tensors:
        self._waiting += 1
        async with self._turns:
            await asyncio.sleep(0.002)
            self._waiting -= 1
            self.joined += self._waiting
            return await super().infer_batch(model, batch, metadata=metadata)


async def test_no_batch_comes_while_the_one_before_it_is_about_to_begin() -> None:
    server = JoiningServer(per_item_s=0.004, fixed_s=0.018)
    async with router_over(RecordingObserver(), {"a": server}, policy="max-accuracy") as router:
        outcomes = await load(router, rps=200, seconds=4, deadline_ms=2000)
    assert len(server.batches) > 40
    assert in_time(outcomes) == 800
    assert server.joined == 0


async def test_a_hang_shorter_than_overdue_sends_nothing_again() -> None:
    observer, hanging = RecordingObserver(), TroubledServer(per_item_s=0.002)
    async with router_over(observer, {"a": hanging, "b": FakeServer(per_item_s=0.002)}) as router:
        await load(
            router,
            rps=200,
            seconds=2,
            at={1: lambda: setattr(hanging, "hangs", True), 1.03: lambda: setattr(hanging, "hangs", False)},
        )
    assert observer.events == []


async def test_the_first_answer_counts_even_when_it_is_that_of_the_attempt_given_up() -> None:
    """The other server takes longer than the hang lasts, so what was hung answers first after all."""
    observer, hanging, slow = RecordingObserver(), TroubledServer(per_item_s=0.001), FakeServer(per_item_s=1.0)
    async with router_over(observer, {"a": hanging, "b": slow}, deadline_ms=60_000) as router:
        hanging.hangs = True
        asyncio.get_running_loop().call_later(0.3, setattr, hanging, "hangs", False)
        answer = await router.infer(item(3))
        assert right(answer, 3)
        assert (answer.server, observer.events) == ("a", [("retry", "a")])
        await asyncio.sleep(5)
        assert (await router.infer(item(4))).server == "a"


async def test_a_request_that_nobody_else_can_answer_in_time_is_left_where_it_is() -> None:
    observer, hanging, slow = RecordingObserver(), TroubledServer(per_item_s=0.001), FakeServer(per_item_s=1.0)
    async with router_over(observer, {"a": hanging, "b": slow}) as router:
        hanging.hangs = True
        asyncio.get_running_loop().call_later(0.06, setattr, hanging, "hangs", False)
        answer = await router.infer(item(3), deadline_ms=100, min_accuracy=0.925)
        assert (answer.server, answer.deadline_met, observer.events) == ("a", True, [])


async def test_errors_in_a_row_cost_no_request_and_eject_what_probes_do_not_show() -> None:
    class FailsOnImages(TroubledServer):
        async def _run(self, model: Any, batch: Any) -> Any:
            if self.fails and batch[0].max() < 1:  # a blank item, or the golden probe
                return await FakeServer.infer_batch(self, model, batch)
            return await super()._run(model, batch)

    observer, failing = RecordingObserver(), FailsOnImages(per_item_s=0.001)
    servers = {"a": failing, "b": FakeServer(per_item_s=0.0015)}
    async with router_over(observer, servers, ejection={"failures_in_row": 3}) as router:
        marked = [asyncio.create_task(router.infer(item(1 + n % 9))) for n in range(5)]
        await asyncio.gather(*marked)
        failing.fails = True
        for n in range(3000):
            answer = await router.infer(item(1 + n % 9), deadline_ms=400)
            assert right(answer, 1 + n % 9)
            assert answer.deadline_met
        assert ("ejection", "a", "failures") in observer.events
        failing.fails = False
        await asyncio.sleep(60)
        assert ("readmission", "a") in observer.events
        assert (await router.infer(item(1))).server == "a"


async def test_a_server_that_turns_slow_is_ejected_and_comes_back_with_a_growing_share() -> None:
    observer, slowing = RecordingObserver(), TroubledServer(per_item_s=0.008)
    servers = {"a": slowing, "b": FakeServer(per_item_s=0.008), "c": FakeServer(per_item_s=0.008)}
    async with router_over(observer, servers, policy="round-robin:100") as router:
        await load(router, rps=100, seconds=3, deadline_ms=500)
        slowing.slowdown = 10
        await load(router, rps=100, seconds=4, deadline_ms=500)
        assert ("ejection", "a", "latency") in observer.events
        slowing.slowdown = 1
        await load(router, rps=100, seconds=10, deadline_ms=500)
        assert ("readmission", "a") in observer.events
        later = await load(router, rps=100, seconds=3, deadline_ms=500)
        assert in_time(later) == 300
        assert {o.server for o in later if isinstance(o, Answer)} == {"a", "b", "c"}


async def test_a_slowdown_of_all_servers_ejects_none() -> None:
    observer, servers = RecordingObserver(), {name: TroubledServer(per_item_s=0.004) for name in "abc"}
    async with router_over(observer, dict(servers), policy="round-robin:100") as router:
        await load(router, rps=100, seconds=3)
        for server in servers.values():
            server.slowdown = 10
        await load(router, rps=30, seconds=10)
    assert observer.count("ejection") == 0


async def test_retries_keep_to_their_budget_when_everything_fails() -> None:
    observer, failing = RecordingObserver(), TroubledServer(per_item_s=0.001)
    servers: dict[str, FakeServer] = {"a": failing, "b": FakeServer(per_item_s=0.05)}
    settings = {"retries": {"minimum": 5, "burst": 5}, "ejection": {"failures_in_row": 100}}
    async with router_over(observer, servers, **settings) as router:
        failing.fails = True
        outcomes = await asyncio.gather(*(router.infer(item(n)) for n in range(60)), return_exceptions=True)
    lost = sum(isinstance(o, SlimError) for o in outcomes)
    assert observer.count("retry") <= 5 + 0.1 * (60 - lost) + 1
    assert lost > 0


async def test_a_hedge_answers_what_a_slow_batch_would_have_kept_and_is_off_by_default() -> None:
    async def p_worst(observer: RecordingObserver, **settings: Any) -> float:
        stalling = TroubledServer(per_item_s=0.01)
        async with router_over(observer, {"a": stalling, "b": FakeServer(per_item_s=0.012)}, **settings) as router:
            await load(router, rps=20, seconds=3)
            stalling.hangs = True
            asyncio.get_running_loop().call_later(0.045, setattr, stalling, "hangs", False)
            answer = await router.infer(item(1), deadline_ms=1000)
            assert right(answer, 1)
            return answer.latency_s

    plain, hedged = RecordingObserver(), RecordingObserver()
    assert await p_worst(plain) > 0.045
    assert await p_worst(hedged, hedge={"quantile": 0.95}) < 0.045
    assert (plain.count("hedge"), hedged.count("hedge")) == (0, 1)


async def test_closing_does_not_wait_for_what_was_given_up() -> None:
    observer, hanging = RecordingObserver(), TroubledServer(per_item_s=0.001)
    servers: dict[str, FakeServer] = {"a": hanging, "b": FakeServer()}
    loop = asyncio.get_running_loop()
    async with router_over(observer, servers, group_timeout_s=1, drain_s=60) as router:
        hanging.hangs = True
        assert (await router.infer(item(1))).server == "b"
        await asyncio.sleep(2)
        closed_s = loop.time()
    assert loop.time() - closed_s < 1


async def test_closing_waits_no_longer_than_close_by_says() -> None:
    observer, hanging = RecordingObserver(), TroubledServer(per_item_s=0.001)
    loop = asyncio.get_running_loop()
    async with router_over(observer, {"a": hanging}, drain_s=60) as router:
        hanging.hangs = True
        waiting = asyncio.create_task(router.infer(item(1)))
        await asyncio.sleep(0.1)
        router.close_by(loop.time() + 1.5)
        closed_s = loop.time()
    assert loop.time() - closed_s == pytest.approx(1.5, abs=0.1)
    with pytest.raises(ServerUnavailableError, match="closed before the answer"):
        await waiting
