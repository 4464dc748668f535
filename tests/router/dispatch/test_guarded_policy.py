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
from orchestrator.policies.circuit_breaker import Fault
from orchestrator.policies.fleet.candidate_set import CandidateSet
from orchestrator.policies.fleet.fleet_tables import FleetTables
from orchestrator.policies.parsing import parse_policy
from orchestrator.policies.protocol import Binding
from orchestrator.policies.registry import policy_names
from orchestrator.router import Answer, Router
from orchestrator.router.dispatch.guarded_policy import GuardedPolicy
from orchestrator.router.observer import RouterObserver
from orchestrator.snapshot import ServerName, ServerState
from tests.fakes.servers import FakeServer, item, served_model
from tests.fakes.troubled import TroubledServer
from tests.policies.test_policies import candidate, situation
from tests.router.test_router import right, routed

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
    guarded = router._dispatcher.deciders.policies[False]
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
    assert caplog.text.count(f"in place of policy scripted, lert:slack decides: {fault}") == 1


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
        router._dispatcher.deciders.policies[False].fallback = Scripted(raises)
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


async def test_on_stale_telemetry_the_fallback_decides_until_the_server_is_heard_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.WARNING)
    observer, silent = Faults(), TroubledServer()
    settings = {"discovery_period_s": 1, "connect_timeout_s": 60, "probes": None}
    guard = GuardSettings(policy_time_budget_ms=None)
    async with routed({"a": silent}, observer=observer, guard=guard, **settings) as router:
        install(router, parse_policy("lert").choose)
        await asyncio.sleep(10)  # idle, but asked what it serves
        assert (await router.infer(item(1))).policy == "scripted"
        silent.hangs = True
        await asyncio.sleep(4)
        waiting = asyncio.create_task(router.infer(item(2)))
        await asyncio.sleep(0.1)
        silent.hangs = False
        assert (await waiting).policy == "lert:slack"
        assert observer.counts == {Fault.STALE: 1}
        assert "lert:slack decides: stale, nothing heard of a for more than 2.5 s" in caplog.text
        for _ in range(20):
            assert (await router.infer(item(3))).policy == "scripted", "no fault of the policy: it is asked again"


async def test_a_server_that_is_silent_is_no_reason_while_others_are_chosen_from() -> None:
    observer, silent = Faults(), TroubledServer(per_item_s=0.001)
    servers: dict[str, FakeServer] = {"a": silent, "b": FakeServer()}
    async with routed(servers, observer=observer, policy="lert", discovery_period_s=1, probes=None) as router:
        silent.hangs = True
        assert (await router.infer(item(1))).server == "b", "a is suspect"
        await asyncio.sleep(4)
        for n in range(10):
            assert right(await router.infer(item(n)), n)
    assert not observer.counts


async def test_a_slow_decision_is_not_used() -> None:
    times_s = iter((0.0, 0.001, 1.0, 1.011, 2.0, 2.001))
    observer = Faults()
    slow = Scripted(lambda candidates, situation: Dispatch(candidates[0], Reason.DRAWN))
    guarded = GuardedPolicy(slow, parse_policy("lert"), GuardSettings(), observer, clock=lambda: next(times_s))
    tables = FleetTables([ServerState(ServerName(name), (served_model(100),)) for name in ("a", "b")])
    names = [guarded.decide(CandidateSet(tables, situation()), is_idle=True)[1] for _ in range(3)]
    assert names == ["scripted", "lert", "scripted"]
    assert observer.counts == {Fault.SLOW: 1}
    assert observer.decisions == 3


@pytest.mark.parametrize("binding", ["late", "early"])
@pytest.mark.parametrize("policy", policy_names())
async def test_every_policy_binds_early_or_late_as_set(policy: str, binding: str) -> None:
    observer = Faults()
    servers = {"a": FakeServer(per_item_s=0.004), "b": FakeServer()}
    async with routed(servers, policy=policy, binding=binding, in_flight_groups=1, observer=observer) as router:
        calls = []
        for n in range(40):
            calls.append(asyncio.create_task(router.infer(item(n), deadline_ms=5_000)))  # so that nobody gives it up
            await asyncio.sleep(0.001)
            is_bound = router._queues.has_bound
            assert not (binding == "late" and is_bound)
            if binding == "early" and policy not in ("nexus", "control-limit"):  # which wait for a batch
                bound = [queued for name in servers for queued in router._queues.bound_items(ServerName(name))]
                assert sum(items for _, _, items in bound) == router.inspect().backlog.items
        answers = await asyncio.gather(*calls)
    assert all(isinstance(answer, Answer) and right(answer, n) for n, answer in enumerate(answers))
    assert {answer.policy for answer in answers} == {policy}
    assert not observer.counts


async def test_a_policy_learns_what_becomes_of_its_batches_and_remembers_it() -> None:
    async with routed({"a": FakeServer()}, policy="clipper-aimd", in_flight_groups=1) as router:
        sizes = []
        for _ in range(4):
            answers = await asyncio.gather(*(router.infer(item(n), deadline_ms=5_000) for n in range(8)))
            sizes.append(max(answer.batch for answer in answers))
    assert sizes == [3, 4, 5, 6]  # 1 + 2 + 3 + 2, then 4 + 4, 5 + 3, 6 + 2


@pytest.mark.parametrize("policy", [name for name in policy_names() if name != "control-limit"])
async def test_no_rule_is_at_fault_when_more_comes_than_can_be_answered(policy: str) -> None:
    """As it would be with a batch that the router refuses; a simulator sends whatever a policy says.

    Not control-limit, which waits for its limit whatever is under way.
    """
    observer = Faults()
    servers = {"a": FakeServer(widths=(100,)), "b": FakeServer(widths=(100,), per_item_s=0.03)}
    async with routed(servers, observer=observer, policy=policy) as router:
        calls = []
        for number in range(60):
            calls.append(asyncio.create_task(router.infer(item(number))))
            await asyncio.sleep(0.003)
        await asyncio.gather(*calls, return_exceptions=True)
    assert not observer.counts
