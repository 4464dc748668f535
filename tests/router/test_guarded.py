"""A router goes on whatever its policy does, and any policy can bind early or late."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from orchestrator.config import GuardSettings
from orchestrator.decision import Dispatch, Hold, Reason, Reject
from orchestrator.errors import CapacityError, PermanentError
from orchestrator.router import Answer, Router
from orchestrator.router.guarded import GuardedPolicy
from orchestrator.router.observer import RouterObserver
from orchestrator.routing import Binding, Fault, parse_policy, policy_names
from tests.fakes.servers import FakeServer, item
from tests.router.test_router import right, routed
from tests.routing.test_policies import candidate, situation

pytestmark = pytest.mark.virtual_time


class Faults(RouterObserver):
    """Counts decisions, and fallbacks by reason."""

    def __init__(self) -> None:
        self.decisions = 0
        self.counts: Counter[str] = Counter()

    def on_decision(self, policy_s: float) -> None:
        self.decisions += 1

    def on_fallback(self, reason: str) -> None:
        self.counts[reason] += 1


class Scripted:
    """Decides by a function of candidates and situation."""

    name = "scripted"

    def __init__(self, choose: Callable[[Any, Any], Any], binding: Binding = Binding.LATE) -> None:
        self.binding = binding
        self.choose = choose


def install(router: Router, choose: Callable[[Any, Any], Any], *, fallback: str = "lert:slack") -> None:
    guarded = router._dispatcher._policies[False]
    guarded.policy = Scripted(choose)
    guarded.fallback = parse_policy(fallback)


def raises(candidates: Any, situation: Any) -> Any:
    raise ZeroDivisionError("bug")


def holds(candidates: Any, situation: Any) -> Any:
    return Hold(Reason.BETTER_SERVER_BUSY)


def invents(candidates: Any, situation: Any) -> Any:
    return Dispatch(candidate("nowhere"), Reason.DRAWN)


@pytest.mark.parametrize(
    ("choose", "fault"), [(raises, Fault.RAISED), (holds, Fault.STARVING), (invents, Fault.NOT_OFFERED)]
)
async def test_the_fallback_decides_at_once_in_place_of_a_policy_that_fails(
    choose: Callable[[Any, Any], Any], fault: Fault, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    observer = Faults()
    async with routed({"a": FakeServer()}, observer=observer) as router:
        install(router, choose)
        answers = [await router.infer(item(n)) for n in range(3)]
        assert all(right(answer, n) and answer.deadline_met for n, answer in enumerate(answers))
        assert {answer.policy for answer in answers} == {"lert:slack"}
    assert observer.counts == {fault: 3}
    assert caplog.text.count(f"policy scripted failed, lert:slack decides: {fault}") == 1


async def test_after_repeated_faults_the_policy_is_not_asked_for_a_while() -> None:
    observer, asked = Faults(), []

    def counted(candidates: Any, situation: Any) -> Any:
        asked.append(situation.now_s)
        raise ZeroDivisionError("bug")

    guard = {"faults": 3, "pause_s": 5, "policy_time_budget_ms": None}
    async with routed({"a": FakeServer()}, observer=observer, guard=guard) as router:
        install(router, counted)
        for n in range(10):
            assert right(await router.infer(item(n)), n)
        assert len(asked) == 3
        assert observer.counts == {Fault.RAISED: 3, Fault.CIRCUIT_OPEN: 7}
        await asyncio.sleep(5)
        await router.infer(item(0))
        await router.infer(item(0))
        assert len(asked) == 4, "one trial, which failed"
        install(router, parse_policy("lert").choose)
        await asyncio.sleep(5)
        assert (await router.infer(item(0))).policy == "scripted"


async def test_a_fallback_that_fails_too_fails_the_request_and_not_the_router() -> None:
    async with routed({"a": FakeServer()}) as router:
        install(router, raises)
        router._dispatcher._policies[False].fallback = Scripted(raises)
        with pytest.raises(PermanentError, match="policy scripted and its fallback failed: ZeroDivisionError"):
            await router.infer(item(0))
        install(router, parse_policy("lert").choose)
        assert right(await router.infer(item(1)), 1)


async def test_a_policy_may_hold_until_a_time_and_reject() -> None:
    clock = asyncio.get_running_loop().time

    def patient(candidates: Any, situation: Any) -> Any:
        if situation.queue.items < 3 and situation.now_s < begun_s + 0.05:
            return Hold(Reason.BETTER_SERVER_BUSY, until_s=begun_s + 0.05)
        return Dispatch(candidates[-1], Reason.LARGEST_BATCH)

    observer = Faults()
    async with routed({"a": FakeServer()}, observer=observer) as router:
        install(router, patient)
        begun_s = clock()
        answer = await router.infer(item(0), deadline_ms=500)
        assert answer.queue_s == pytest.approx(0.05, abs=1e-3)
        begun_s = clock()
        early = asyncio.create_task(router.infer(item(0), deadline_ms=500))
        await asyncio.sleep(0.01)
        answers = await asyncio.gather(early, *(router.infer(item(n), deadline_ms=500) for n in (1, 2)))
        assert [answer.batch for answer in answers] == [3, 3, 3]
        assert answers[0].queue_s == pytest.approx(0.01, abs=1e-3)
        install(router, lambda candidates, situation: Reject(Reason.NONE_IN_TIME))
        with pytest.raises(CapacityError, match="policy scripted gave it up: nothing is in time") as refusal:
            await router.infer(item(0))
        assert refusal.value.retry_after_s is not None
    assert not observer.counts


async def test_a_slow_decision_is_not_used() -> None:
    times_s = iter((0.0, 0.001, 1.0, 1.011, 2.0, 2.001))
    observer = Faults()
    slow = Scripted(lambda candidates, situation: Dispatch(candidates[0], Reason.DRAWN))
    guarded = GuardedPolicy(slow, parse_policy("lert"), GuardSettings(), observer, clock=lambda: next(times_s))
    options = [candidate("a", completion_s=0.5), candidate("b", completion_s=0.1)]
    names = [guarded.choose(options, situation(), is_idle=True)[1] for _ in range(3)]
    assert names == ["scripted", "lert", "scripted"]
    assert observer.counts == {Fault.SLOW: 1}
    assert observer.decisions == 3


@pytest.mark.parametrize("binding", ["late", "early"])
@pytest.mark.parametrize("policy", policy_names())
async def test_every_policy_binds_early_or_late_as_told(policy: str, binding: str) -> None:
    observer = Faults()
    servers = {"a": FakeServer(item_s=0.004), "b": FakeServer()}
    async with routed(servers, policy=policy, binding=binding, in_flight_groups=1, observer=observer) as router:
        calls = []
        for n in range(40):
            calls.append(asyncio.create_task(router.infer(item(n))))
            await asyncio.sleep(0.001)
            is_bound = any(key.bound_to is not None for key in router._lanes._lanes)
            assert not (binding == "late" and is_bound)
            if binding == "early":
                assert all(key.bound_to for key in router._lanes._lanes if router._lanes._lanes[key].items)
        answers = await asyncio.gather(*calls)
    assert all(isinstance(answer, Answer) and right(answer, n) for n, answer in enumerate(answers))
    assert {answer.policy for answer in answers} == {policy}
    assert not observer.counts
