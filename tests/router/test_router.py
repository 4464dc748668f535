from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import pytest

from orchestrator.config import RouterSettings
from orchestrator.errors import (
    CapacityError,
    ConfigError,
    ConnectionLostError,
    DeadlineError,
    PermanentError,
    ServerUnavailableError,
    TransientError,
    WrongAnswerError,
)
from orchestrator.router import Answer, Router
from orchestrator.router.observer import RouterObserver
from orchestrator.snapshot import ServerName, Width
from tests.fakes.servers import CLASSES, NO_TIME_LIMITS, FakeServer, item

pytestmark = pytest.mark.virtual_time


@asynccontextmanager
async def routed(
    servers: Mapping[str, FakeServer], *, observer: RouterObserver | None = None, **settings: Any
) -> AsyncIterator[Router]:
    named = {ServerName(name): server for name, server in servers.items()}
    settings.setdefault("guard", NO_TIME_LIMITS)
    async with Router(RouterSettings(**settings), named, observer=observer or RouterObserver()) as router:
        for server in servers.values():
            server.batches.clear()  # those of the warm-up
        yield router


def right(answer: Answer, mark: int) -> bool:
    return int(answer.output.argmax()) == mark % CLASSES


async def test_each_caller_gets_the_answer_to_its_own_item() -> None:
    async with routed({"a": FakeServer(), "b": FakeServer()}) as router:
        answers = await asyncio.gather(*(router.infer(item(n)) for n in range(200)))
    assert all(right(answer, n) for n, answer in enumerate(answers))


async def test_callers_that_arrive_together_share_a_batch() -> None:
    server = FakeServer()
    async with routed({"a": server}, policy="lert", deadline_ms=10_000) as router:
        answers = await asyncio.gather(*(router.infer(item(n)) for n in range(20)))
    assert server.batches == [(100, 20)]
    assert {answer.batch for answer in answers} == {20}
    assert len({answer.decision_id for answer in answers}) == 1


async def test_a_batch_never_exceeds_the_models_largest_and_what_comes_as_one_is_never_split() -> None:
    server = FakeServer(max_batch_size=8)
    async with routed({"a": server}, policy="lert:25", deadline_ms=10_000) as router:
        batches = [np.concatenate([item(n)[None]] * 3) for n in range(10)]
        answers = await asyncio.gather(*(router.infer(batch) for batch in batches))
    assert all(answer.output.shape == (3, CLASSES) for answer in answers)
    assert all(int(row.argmax()) == n for n, answer in enumerate(answers) for row in answer.output)
    assert {items for _, items in server.batches} <= {3, 6}


async def test_a_single_item_gives_scores_without_a_batch_dimension() -> None:
    async with routed({"a": FakeServer()}) as router:
        assert (await router.infer(item(3))).output.shape == (CLASSES,)
        assert (await router.infer(item(3)[None])).output.shape == (1, CLASSES)


async def test_the_answer_says_what_was_decided() -> None:
    async with routed({"a": FakeServer()}, policy="lert:50") as router:
        answer = await router.infer(item(7), deadline_ms=50)
    assert (answer.server, answer.width, answer.batch, answer.policy) == ("a", 50, 1, "lert:50")
    assert answer.expected_accuracy == 0.917
    assert answer.labels[7] == "class 7"
    assert answer.deadline_met
    assert answer.latency_s == pytest.approx(0.0045, abs=1e-6)
    assert answer.queue_s == pytest.approx(0, abs=1e-6)


async def test_earlier_deadlines_go_first() -> None:
    server = FakeServer(max_batch_size=1)
    order: list[int] = []

    async def call(router: Router, mark: int, deadline_ms: float) -> None:
        await router.infer(item(mark), deadline_ms=deadline_ms)
        order.append(mark)

    async with routed({"a": server}, policy="lert", in_flight_groups=1) as router, asyncio.TaskGroup() as batch:
        for mark, deadline_ms in ((0, 900), (1, 500), (2, 700), (3, 100)):
            batch.create_task(call(router, mark, deadline_ms))
    assert order == [3, 1, 2, 0]


async def test_an_accuracy_floor_and_a_pinned_width_are_kept_under_any_load() -> None:
    async with routed({"a": FakeServer()}, deadline_ms=1) as router:
        floored, pinned, free = await asyncio.gather(
            asyncio.gather(*(router.infer(item(n), min_accuracy=0.92) for n in range(50))),
            asyncio.gather(*(router.infer(item(n), width=Width(50)) for n in range(50))),
            asyncio.gather(*(router.infer(item(n)) for n in range(50))),
        )
    assert {answer.width for answer in floored} <= {75, 100}
    assert {answer.width for answer in pinned} == {50}
    assert min(answer.width for answer in free) == 25


async def test_width_follows_slack() -> None:
    async with routed({"a": FakeServer()}, policy="lert:slack") as router:
        relaxed = await router.infer(item(0), deadline_ms=1000)
        tight = await router.infer(item(0), deadline_ms=6)
    assert relaxed.width == 100
    assert tight.width == 50
    assert tight.deadline_met


async def test_width_is_degraded_rather_than_deadlines_missed_when_load_exceeds_full_width() -> None:
    async def load(router: Router) -> list[Answer]:
        async with asyncio.TaskGroup() as batch:
            tasks = []
            for n in range(600):  # 200 a second; full width does 100
                tasks.append(batch.create_task(router.infer(item(n), deadline_ms=100)))
                await asyncio.sleep(0.005)
        return [task.result() for task in tasks]

    late_too = {"shed_late": False}
    async with routed({"a": FakeServer()}, policy="lert", overload=late_too) as router:
        full = await load(router)
    async with routed({"a": FakeServer()}, policy="lert:slack", overload=late_too) as router:
        adaptive = await load(router)
    assert sum(answer.deadline_met for answer in full) < 150
    assert sum(answer.deadline_met for answer in adaptive) > 590
    assert len({answer.width for answer in adaptive}) > 1


async def test_a_slow_server_is_used_only_when_waiting_for_the_fast_one_takes_longer() -> None:
    fast, slow = FakeServer(per_item_s=0.01), FakeServer(per_item_s=0.2)
    async with routed({"fast": fast, "slow": slow}, policy="lert", deadline_ms=10_000) as router:
        for _ in range(5):
            await router.infer(item(0))
        assert not slow.batches
        await asyncio.gather(*(router.infer(item(n)) for n in range(500)))
    assert slow.batches


async def test_round_robin_takes_turns_and_random_uses_everything() -> None:
    servers = {"a": FakeServer(), "b": FakeServer()}
    async with routed(servers, policy="round-robin") as router:
        answers = [await router.infer(item(0)) for _ in range(6)]
    assert [answer.server for answer in answers] == ["a", "b"] * 3
    async with routed({"a": FakeServer(), "b": FakeServer()}, policy="random") as router:
        answers = [await router.infer(item(0)) for _ in range(200)]
    pairs = {(answer.server, answer.width) for answer in answers}
    assert len(pairs) == 8


async def test_random_decisions_repeat_with_the_seed() -> None:
    async def choices(seed: int) -> list[tuple[str, int]]:
        async with routed({"a": FakeServer(), "b": FakeServer()}, policy="random", seed=seed) as router:
            return [(a.server, a.width) for a in [await router.infer(item(0)) for _ in range(30)]]

    assert await choices(1) == await choices(1) != await choices(2)


async def test_a_request_no_server_ran_is_sent_to_another() -> None:
    first, second = FakeServer(per_item_s=0.001), FakeServer(per_item_s=0.1)
    async with routed({"a": first, "b": second}, policy="lert") as router:
        first.failures = [ServerUnavailableError("connection refused", executed=False)]
        answer = await router.infer(item(4))
    assert right(answer, 4)
    assert answer.server == "b"


async def test_a_request_whose_answer_was_lost_is_asked_again_because_inference_is_pure() -> None:
    server, other = FakeServer(per_item_s=0.001), FakeServer()
    async with routed({"a": server, "b": other}, policy="lert") as router:
        server.failures = [ConnectionLostError("socket closed")]
        answer = await router.infer(item(4))
    assert right(answer, 4)
    assert (answer.server, server.batches) == ("b", [])


async def test_what_a_server_refuses_for_good_is_not_sent_again() -> None:
    server = FakeServer()
    async with routed({"a": server, "b": FakeServer()}, policy="jsq") as router:
        server.failures = [PermanentError("unexpected shape")]
        with pytest.raises(PermanentError, match="unexpected shape"):
            await router.infer(item(0))
    assert not server.batches


async def test_attempts_are_bounded() -> None:
    server = FakeServer()
    async with routed({"a": server}, max_attempts=3) as router:
        server.failures = [TransientError("not ready", executed=False)] * 5
        with pytest.raises(TransientError, match="not ready"):
            await router.infer(item(0))
    assert len(server.failures) == 2


async def test_a_lost_server_is_used_again_within_a_second_of_its_return() -> None:
    server = FakeServer()
    async with routed({"a": server}, request_timeout_s=1000) as router:
        server.is_up = False
        waiting = asyncio.create_task(router.infer(item(5)))
        await asyncio.sleep(60)
        assert not waiting.done()
        server.is_up = True
        back_s = asyncio.get_running_loop().time()
        assert right(await waiting, 5)
        assert asyncio.get_running_loop().time() - back_s < 1


async def test_requests_bound_to_a_server_that_dies_move_to_another() -> None:
    servers = {"a": FakeServer(per_item_s=1), "b": FakeServer(per_item_s=0.001)}
    async with routed(servers, policy="round-robin", request_timeout_s=1000) as router:
        calls = [asyncio.create_task(router.infer(item(n))) for n in range(200)]
        await asyncio.sleep(0.5)
        servers["a"].is_up = False
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
    assert all(isinstance(o, Answer) and right(o, n) for n, o in enumerate(outcomes))


async def test_an_unloaded_width_is_noticed() -> None:
    server = FakeServer()
    async with routed({"a": server}, policy="lert", discovery_period_s=1) as router:
        server.models = server.models[:2]
        await asyncio.sleep(2)
        assert (await router.infer(item(0))).width == 50


async def test_another_instance_count_is_followed_without_a_new_warm_up() -> None:
    server = FakeServer()
    async with routed({"a": server}, policy="lert", discovery_period_s=1) as router:
        server.models = tuple(dataclasses.replace(m, instances=3) for m in server.models)
        await asyncio.sleep(2)
        assert {model.instances for model in router.models()} == {3}
    assert server.batches == []


async def test_a_bug_in_discovery_takes_out_one_server_and_is_got_over(caplog: pytest.LogCaptureFixture) -> None:
    class Buggy(FakeServer):
        is_buggy = False

        async def served_models(self) -> Any:
            if self.is_buggy:
                raise ZeroDivisionError("bug")
            return await super().served_models()

    buggy = Buggy(per_item_s=0.0001)
    async with routed({"a": buggy, "b": FakeServer()}, policy="lert", discovery_period_s=1) as router:
        assert (await router.infer(item(0))).server == "a"
        buggy.is_buggy = True
        await asyncio.sleep(2)
        assert (await router.infer(item(0))).server == "b"
        buggy.is_buggy = False
        await asyncio.sleep(2)
        assert (await router.infer(item(0))).server == "a"
    assert "failed unexpectedly" in caplog.text


async def test_a_server_that_never_answers_the_warm_up_does_not_hold_up_the_others() -> None:
    servers = {"a": FakeServer(per_item_s=1e6), "b": FakeServer()}
    async with routed(servers, group_timeout_s=5, drain_s=0) as router:
        assert asyncio.get_running_loop().time() < 6
        assert (await router.infer(item(0))).server == "b"


async def test_a_full_queue_refuses_at_once() -> None:
    async with routed(
        {"a": FakeServer(per_item_s=0.5)}, queue_limit=10, in_flight_groups=1, policy="lert", warm_up=False
    ) as router:
        first = asyncio.create_task(router.infer(item(0)))
        await asyncio.sleep(0.1)
        calls = [asyncio.create_task(router.infer(item(n))) for n in range(11)]
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
        await first
    assert [type(o) for o in outcomes] == [Answer] * 10 + [CapacityError]


async def test_no_answer_in_time_is_an_error_that_names_the_limit() -> None:
    async with routed({"a": FakeServer(per_item_s=100)}, request_timeout_s=2, warm_up=False, drain_s=0) as router:
        with pytest.raises(DeadlineError, match="request_timeout_s = 2"):
            await router.infer(item(0))


async def test_a_request_that_is_late_says_who_had_it_last() -> None:
    async with routed({"a": FakeServer(per_item_s=100)}, warm_up=False, drain_s=0) as router:
        with pytest.raises(DeadlineError, match="it was sent, and what comes is dropped") as caught:
            await router.infer(item(0), deadline_ms=500)
        assert caught.value.sent_to is not None
        assert (caught.value.sent_to[0], caught.value.sent_to[1] in (25, 50, 75, 100)) == ("a", True)


async def test_a_caller_that_gives_up_costs_its_neighbours_nothing() -> None:
    server = FakeServer()
    async with routed({"a": server}, policy="lert", in_flight_groups=1, deadline_ms=10_000) as router:
        first = asyncio.create_task(router.infer(item(0)))
        await asyncio.sleep(0.001)
        calls = [asyncio.create_task(router.infer(item(n))) for n in range(9)]
        await asyncio.sleep(0.001)
        calls[0].cancel()
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
        await first
    assert isinstance(outcomes[0], asyncio.CancelledError)
    assert all(isinstance(o, Answer) and right(o, n) for n, o in enumerate(outcomes) if n)
    assert server.batches == [(100, 1), (100, 8)]


async def test_closing_answers_what_is_under_way_and_refuses_the_rest() -> None:
    server = FakeServer(per_item_s=0.5)
    async with routed({"a": server}, policy="lert", in_flight_groups=1) as router:
        sent = asyncio.create_task(router.infer(item(1)))
        await asyncio.sleep(0.1)
        queued = asyncio.create_task(router.infer(item(2)))
        await asyncio.sleep(0.1)
    assert right(await sent, 1)
    with pytest.raises(ServerUnavailableError, match="closing"):
        await queued
    assert server.closed
    with pytest.raises(ServerUnavailableError, match="closing"):
        await router.infer(item(3))


async def test_a_router_that_was_closed_is_not_opened_again() -> None:
    async with routed({"a": FakeServer()}) as router:
        pass
    with pytest.raises(RuntimeError, match="the router is closed; make another one"):
        async with router:
            pass


async def test_an_unexpected_exception_reaches_the_caller_as_ours(caplog: pytest.LogCaptureFixture) -> None:
    server = FakeServer()
    async with routed({"a": server}) as router:
        server.failures = [ZeroDivisionError("bug")]
        with pytest.raises(TransientError, match="ZeroDivisionError: bug"):
            await router.infer(item(0))
        assert right(await router.infer(item(1)), 1)
    assert "failed unexpectedly" in caplog.text


async def test_a_short_answer_is_refused() -> None:
    class Short(FakeServer):
        async def infer_batch(self, model: Any, batch: Any) -> Any:
            return tuple(output[:-1] for output in await super().infer_batch(model, batch))

    async with routed({"a": Short()}, warm_up=False) as router:
        with pytest.raises(WrongAnswerError, match="answered 0 items of 1"):
            await router.infer(item(0))
    async with routed({"a": Short(per_item_s=0.001), "b": FakeServer()}, warm_up=False, policy="lert") as router:
        assert right(await router.infer(item(3)), 3)


@pytest.mark.parametrize(
    ("array", "problem"),
    [
        (np.zeros((1, 3, 3), np.float32), r"takes \[1, 2, 2\] or \[n, 1, 2, 2\], got \[1, 3, 3\]"),
        (np.zeros((1, 2, 2), np.float64), "takes FP32, got float64"),
        (np.zeros((0, 1, 2, 2), np.float32), r"got \[0, 1, 2, 2\]"),
        (np.zeros((33, 1, 2, 2), np.float32), "33 items exceeds max_batch_size = 32"),
    ],
)
async def test_what_a_model_does_not_take_is_refused(array: Any, problem: str) -> None:
    async with routed({"a": FakeServer()}) as router:
        with pytest.raises(ConfigError, match=problem):
            await router.infer(array)


async def test_what_no_width_offers_is_refused_with_what_there_is() -> None:
    async with routed({"a": FakeServer()}) as router:
        with pytest.raises(ConfigError, match=r"served are 25 % \(0\.9050\), 50 %"):
            await router.infer(item(0), min_accuracy=0.99)
        with pytest.raises(ConfigError, match="unknown family 'cats'; the fleet serves fashion"):
            await router.infer(item(0), family="cats")


async def test_several_families_need_a_name() -> None:
    servers = {"a": FakeServer(), "b": FakeServer(family="other")}
    async with routed(servers) as router:
        with pytest.raises(ConfigError, match="name the family; the fleet serves fashion, other"):
            await router.infer(item(0))
        assert (await router.infer(item(0), family="other")).server == "b"


async def test_starting_without_any_server_says_why() -> None:
    server = FakeServer()
    server.is_up = False
    with pytest.raises(ServerUnavailableError, match="a: connection refused"):
        async with routed({"a": server}):
            pass
    assert server.closed
