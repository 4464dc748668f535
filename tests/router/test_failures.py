"""What the router does when servers, models and policies fail: as little as possible is lost, and all of it returns."""

from __future__ import annotations

import asyncio
import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from orchestrator.config import RouterSettings
from orchestrator.errors import CapacityError, ConfigError, DeadlineError, ModelNotFoundError, ServerUnavailableError
from orchestrator.errors import TransientError as Transient
from orchestrator.router import Answer, Router
from orchestrator.snapshot import ServedModel, ServerName, Width
from tests.fakes.servers import NO_TIME_LIMITS, FakeServer, item
from tests.router.test_router import right, routed

pytestmark = pytest.mark.virtual_time


class BrokenModel(FakeServer):
    """A server on which some widths fail, as when a Python stub has died: each call takes a second to say so."""

    broken: frozenset[int] = frozenset()
    calls = 0

    async def infer_batch(self, model: ServedModel, batch: Any) -> Any:
        self.calls += 1
        if model.width in self.broken:
            await asyncio.sleep(1)
            raise Transient("Stub process is not healthy", executed=False)
        return await super().infer_batch(model, batch)


class Hanging(FakeServer):
    """A server that goes on telling what it serves and answers nothing while it hangs."""

    hangs = False

    async def infer_batch(self, model: ServedModel, batch: Any) -> Any:
        while self.hangs:
            await asyncio.sleep(1)
        return await super().infer_batch(model, batch)


class HangingWidth(Hanging):
    """A server whose widest model answers nothing while it hangs, as one whose stub has died with a request in hand."""

    async def infer_batch(self, model: ServedModel, batch: Any) -> Any:
        return await (super() if model.width == 100 else super(Hanging, self)).infer_batch(model, batch)


async def ask(router: Router, count: int, **arguments: Any) -> list[Any]:
    return await asyncio.gather(*(router.infer(item(n), **arguments) for n in range(count)), return_exceptions=True)


@pytest.mark.parametrize("policy", ["lert", "lert:slack", "jsq", "round-robin", "random"])
async def test_a_broken_model_on_the_best_server_costs_no_request(policy: str) -> None:
    fast, slow = BrokenModel(per_item_s=0.001), FakeServer(per_item_s=0.01)
    async with routed({"fast": fast, "slow": slow}, policy=policy, in_flight_groups=2) as router:
        fast.broken = frozenset({25, 50, 75, 100})
        outcomes = await ask(router, 200)
        assert all(isinstance(o, Answer) and right(o, n) for n, o in enumerate(outcomes))
        await asyncio.sleep(20)
        calls = fast.calls
        assert calls < 40, "a broken model is asked again after growing pauses"
        fast.broken = frozenset()
        await asyncio.sleep(40)
        if policy == "lert":
            assert {answer.server for answer in await ask(router, 3)} == {"fast"}


async def test_a_broken_width_takes_out_only_itself() -> None:
    server = BrokenModel()
    server.broken = frozenset({100})
    async with routed({"a": server}, policy="lert") as router:
        assert (await router.infer(item(0))).width == 75
        server.broken = frozenset()
        await asyncio.sleep(10)
        assert (await router.infer(item(0))).width == 100


@pytest.mark.parametrize(("policy", "broken"), [("lert", 100), ("thrift", 100), ("lert:narrowest", 25), ("jsq", 25)])
async def test_a_width_that_dies_on_all_servers_costs_the_others_nothing(policy: str, broken: int) -> None:
    servers = {"a": BrokenModel(per_item_s=0.005), "b": BrokenModel(per_item_s=0.006)}
    outcomes: list[Any] = []
    pinned: list[Any] = []

    async def call(router: Router, into: list[Any], n: int, **arguments: Any) -> None:
        into += await asyncio.gather(router.infer(item(n), deadline_ms=100, **arguments), return_exceptions=True)

    async with routed(servers, policy=policy) as router, asyncio.TaskGroup() as group:
        for n in range(600):
            if n == 150:
                for server in servers.values():
                    server.broken = frozenset({broken})
            group.create_task(call(router, outcomes, n))
            if n % 10 == 0 and n >= 150:
                group.create_task(call(router, pinned, n, width=Width(broken)))
            await asyncio.sleep(1 / 150)
    assert len(outcomes) == 600
    assert sum(not isinstance(outcome, Answer) for outcome in outcomes) <= 3, "only what met it first"
    assert not any(isinstance(outcome, Answer) for outcome in pinned)
    known = [str(outcome) for outcome in pinned if isinstance(outcome, ServerUnavailableError)]
    assert len(known) >= len(pinned) - 5, "the first were sent to it"
    assert all(f"fashion_w{broken:03d} on a" in text and f"fashion_w{broken:03d} on b" in text for text in known)


@pytest.mark.parametrize("others", [{}, {"slow": 0.05}])
async def test_a_server_that_hangs_is_taken_out_and_returns_when_it_answers_again(others: Mapping[str, float]) -> None:
    hanging = Hanging(per_item_s=0.001)
    servers = {"fast": hanging, **{name: FakeServer(per_item_s=per_item_s) for name, per_item_s in others.items()}}
    async with routed(servers, policy="lert", group_timeout_s=2, request_timeout_s=30) as router:
        hanging.hangs = True
        outcomes = await ask(router, 100)
        lost = [o for o in outcomes if not isinstance(o, Answer)]
        if others:
            assert len(lost) <= 64, "only what it had may be lost"
            assert {answer.server for answer in await ask(router, 20)} == {"slow"}
        hanging.hangs = False
        await asyncio.sleep(5)
        assert {answer.server for answer in await ask(router, 3)} == {"fast"}


@pytest.mark.parametrize("names", ["a", "ab"])
async def test_a_width_that_hangs_takes_out_only_itself_and_returns_when_it_answers_again(names: str) -> None:
    servers = {name: HangingWidth(per_item_s=0.001) for name in names}
    async with routed(servers, policy="lert", group_timeout_s=2) as router:
        for server in servers.values():
            server.hangs = True
        first = asyncio.gather(*(router.infer(item(0), deadline_ms=100) for _ in range(3)), return_exceptions=True)
        await asyncio.sleep(0.5)
        for n in range(200):
            assert (await router.infer(item(n), deadline_ms=100)).width == 75
            if n in (50, 150):
                await asyncio.sleep(7.3)  # it is tried once more meanwhile, by a server that is asked nothing else
        with pytest.raises(ServerUnavailableError, match="fashion_w100 on a is out"):
            await router.infer(item(0), width=Width(100), deadline_ms=100)
        for server in servers.values():
            server.hangs = False
        await asyncio.sleep(35)
        assert (await router.infer(item(0), deadline_ms=100)).width == 100
        await first


@pytest.mark.parametrize("names", ["a", "ab"])
@pytest.mark.parametrize("policy", ["lert", "thrift"])
async def test_whom_a_dead_width_has_met_on_all_servers_is_answered_at_another_width(names: str, policy: str) -> None:
    servers = {name: HangingWidth(per_item_s=0.001) for name in names}
    async with routed(servers, policy=policy, group_timeout_s=60) as router:
        await ask(router, 20)
        for server in servers.values():
            server.hangs = True
        outcomes = await ask(router, 30, deadline_ms=500)
        assert all(isinstance(o, Answer) and o.width < 100 and right(o, n) for n, o in enumerate(outcomes)), outcomes
        for server in servers.values():
            server.hangs = False


async def test_a_fleet_that_hangs_is_told_at_once_to_who_comes() -> None:
    servers = {"a": Hanging(), "b": Hanging()}
    async with routed(servers, policy="lert", group_timeout_s=20) as router:
        for server in servers.values():
            server.hangs = True
        clock = asyncio.get_running_loop().time
        first = asyncio.gather(*(router.infer(item(n), deadline_ms=500) for n in range(10)), return_exceptions=True)
        await asyncio.sleep(1)
        for n in range(20):
            began_s = clock()
            with pytest.raises(ServerUnavailableError, match=r"in time: a has answered nothing for .* s, b has"):
                await router.infer(item(n), deadline_ms=500)
            assert clock() == began_s, "it is not kept waiting for its deadline"
            await asyncio.sleep(0.1)
        for server in servers.values():
            server.hangs = False
        await asyncio.sleep(1.1)
        assert all(isinstance(outcome, Answer) for outcome in await ask(router, 20, deadline_ms=500))
        await first


async def test_a_hanging_server_holds_up_nobody_before_it_is_found_out() -> None:
    hanging, slow = Hanging(per_item_s=0.001), FakeServer(per_item_s=0.05)
    async with routed({"fast": hanging, "slow": slow}, policy="lert", group_timeout_s=60) as router:
        hanging.hangs = True
        first = asyncio.create_task(router.infer(item(0)))
        await asyncio.sleep(1)
        assert (await router.infer(item(1))).server == "slow"
        hanging.hangs = False
        await first


@pytest.mark.parametrize("policy", ["round-robin:25", "jsq:25", "random:25", "lert:25"])
@pytest.mark.parametrize("asked_before", [0, 20])
async def test_who_was_sent_to_a_hanging_server_is_soon_answered_by_another(policy: str, asked_before: int) -> None:
    hanging, well = Hanging(per_item_s=0.005), FakeServer(per_item_s=0.005)
    async with routed({"a": hanging, "b": well}, policy=policy, group_timeout_s=60) as router:
        await ask(router, asked_before)
        hanging.hangs = True
        began_s = asyncio.get_running_loop().time()
        assert {answer.server for answer in await ask(router, 100)} == {"b"}
        assert asyncio.get_running_loop().time() - began_s < 1
        hanging.hangs = False


async def test_an_unloaded_width_costs_no_request_when_another_server_has_it() -> None:
    class Forgetful(FakeServer):
        async def served_models(self) -> tuple[ServedModel, ...]:
            await asyncio.sleep(0.005)
            return await super().served_models()

    first = Forgetful(per_item_s=0.001)
    async with routed({"a": first, "b": FakeServer(per_item_s=0.01)}, policy="lert") as router:
        first.models = first.models[:3]
        outcomes = await ask(router, 10)
    assert all(isinstance(o, Answer) and o.width == 100 for o in outcomes)


async def test_who_finds_one_width_after_another_unloaded_is_told_to_come_again() -> None:
    """As while a Triton restarts; that nothing has such a model would be no news of a fleet that has served it."""

    class Restarting(FakeServer):
        restarts = False

        async def infer_batch(self, model: ServedModel, batch: Any) -> Any:
            if self.restarts:
                raise ModelNotFoundError("Request for unknown model: it has no available versions")
            return await super().infer_batch(model, batch)

    server = Restarting()
    async with routed({"a": server}, policy="lert:slack") as router:
        server.restarts = True
        with pytest.raises(ServerUnavailableError, match="no available versions; it was loaded until now") as refused:
            await router.infer(item(0))
    assert not refused.value.executed


async def test_a_width_that_is_gone_everywhere_is_an_error() -> None:
    server = FakeServer()
    async with routed({"a": server}, policy="lert", request_timeout_s=3) as router:
        server.models = server.models[:3]
        with pytest.raises((ModelNotFoundError, DeadlineError)):
            await router.infer(item(0), width=Width(100))


async def test_the_earliest_deadline_goes_first_over_all_queues() -> None:
    order: list[str] = []

    async def call(router: Router, name: str, deadline_ms: float, **arguments: Any) -> None:
        await router.infer(item(0), deadline_ms=deadline_ms, **arguments)
        order.append(name)

    server = FakeServer(max_batch_size=1)
    async with routed({"a": server}, policy="lert", in_flight_groups=1) as router, asyncio.TaskGroup() as batch:
        for name, deadline_ms in (("a1", 100), ("a2", 200), ("a3", 300)):
            batch.create_task(call(router, name, deadline_ms))
        batch.create_task(call(router, "b", 9000, min_accuracy=0.92))
    assert order == ["a1", "a2", "a3", "b"]


async def test_a_deadline_without_end_is_none_and_what_is_no_time_is_refused() -> None:
    async with routed({"a": FakeServer()}) as router:
        assert (await router.infer(item(0), deadline_ms=math.inf)).width == 100
        for deadline_ms in (math.nan, -math.inf):
            with pytest.raises(ConfigError, match="is no time"):
                await router.infer(item(0), deadline_ms=deadline_ms)
        for deadline_ms in (0, -5):
            with pytest.raises(DeadlineError, match="has passed"):
                await router.infer(item(0), deadline_ms=deadline_ms)


async def test_families_on_one_server_keep_their_own_times() -> None:
    class TwoFamilies(FakeServer):
        def __init__(self) -> None:
            super().__init__()
            self.models += FakeServer(family="big").models

        def service_s(self, width: int, items: int) -> float:
            return super().service_s(width, items)

        async def infer_batch(self, model: ServedModel, batch: Any) -> Any:
            if model.family == "big":
                await asyncio.sleep(0.5)
            return await super().infer_batch(model, batch)

    async with routed({"a": TwoFamilies()}, policy="lert:slack", overload={"shed_late": False}) as router:
        assert len(router.inspect().latency.fits) == 8
        assert (await router.infer(item(0), family="fashion", deadline_ms=50)).width == 100
        assert (await router.infer(item(0), family="big", deadline_ms=400)).width == 25


async def test_an_accuracy_floor_holds_where_servers_have_different_versions() -> None:
    old, new = FakeServer(per_item_s=0.001), FakeServer(per_item_s=0.01)

    old.models = tuple(dataclasses.replace(m, accuracy=m.accuracy - 0.02) for m in old.models)
    async with routed({"a": old, "b": new}, policy="lert") as router:
        answers = await ask(router, 30, min_accuracy=0.92)
    assert {answer.server for answer in answers} == {"b"}
    assert all(answer.expected_accuracy >= 0.92 for answer in answers)


async def test_a_batch_may_be_as_large_as_the_most_capable_server_takes() -> None:

    servers = {"a": FakeServer(max_batch_size=8), "b": FakeServer(max_batch_size=64)}
    async with routed(servers, policy="lert") as router:
        answer = await router.infer(np.zeros((32, 1, 2, 2), np.float32))
    assert answer.server == "b"


async def test_callers_that_gave_up_do_not_fill_the_queue() -> None:
    server = FakeServer(per_item_s=0.5)
    async with routed({"a": server}, queue_limit=10, in_flight_groups=1, policy="lert", warm_up=False) as router:
        first = asyncio.create_task(router.infer(item(0)))
        await asyncio.sleep(0.1)
        waiting = [asyncio.create_task(router.infer(item(n))) for n in range(10)]
        await asyncio.sleep(0)
        with pytest.raises(CapacityError):
            await router.infer(item(0))
        for task in waiting[1:]:
            task.cancel()
        await asyncio.sleep(0)
        again = asyncio.create_task(router.infer(item(3)))
        assert right(await again, 3)
        assert right(await waiting[0], 0)
        await first


async def test_closing_that_is_cancelled_closes_all_the_same() -> None:
    server = FakeServer(per_item_s=5)
    router = Router(
        RouterSettings(policy="lert", warm_up=False, drain_s=60, guard=NO_TIME_LIMITS), {ServerName("a"): server}
    )

    async def use() -> None:
        async with router:
            asyncio.get_running_loop().call_later(0.2, asyncio.current_task().cancel)  # type: ignore[union-attr]
            call = asyncio.create_task(router.infer(item(0)))
            await asyncio.sleep(0.1)
            call.add_done_callback(lambda done: done.exception())

    with pytest.raises(asyncio.CancelledError):
        await use()
    assert server.closed
    assert not [task for task in asyncio.all_tasks() if "ServerWatch" in repr(task.get_coro())]
