"""A learned policy in the live router: obeyed, guarded, or in the shadow."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from orchestrator.config import GuardSettings
from orchestrator.decision import Dispatch, Hold, Reason
from orchestrator.errors import ConfigError, UntrustedError
from orchestrator.policies.circuit_breaker import Fault
from orchestrator.policies.learned import features as feat
from orchestrator.policies.learned.policy_file import PolicyFile, write_policy_file
from orchestrator.policies.parsing import parse_policy
from orchestrator.policies.protocol import Binding
from orchestrator.router.dispatch.decision_log import find_decision
from orchestrator.router.dispatch.guarded_policy import Shadow
from orchestrator.router.observer import RouterObserver
from orchestrator.snapshot import Preference, Width
from tests.fakes.servers import NO_TIME_LIMITS, FakeServer, item
from tests.policies.learned.test_policy import slim
from tests.policies.test_policies import candidate, situation
from tests.router.dispatch.test_guarded_policy import Scripted, raises
from tests.router.test_router import right, routed

pytestmark = pytest.mark.virtual_time


class Seen(RouterObserver):
    def __init__(self) -> None:
        self.fallbacks: Counter[str] = Counter()
        self.shadows: Counter[str] = Counter()

    def on_fallback(self, reason: str) -> None:
        self.fallbacks[reason] += 1

    def on_shadow(self, outcome: str) -> None:
        self.shadows[outcome] += 1


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return put(tmp_path / "policy.npz", slim())


def put(path: Path, policy: PolicyFile) -> Path:
    write_policy_file(path, policy)
    return path


def out_of_range() -> PolicyFile:
    never = np.full(len(slim().low), -1, np.float32)
    return replace(slim(), low=never, high=never)


def pair() -> dict[str, FakeServer]:
    return {"a": FakeServer(), "b": FakeServer(per_item_s=0.02)}


async def test_a_learned_policy_leaves_requests_with_a_preference_to_the_rule_for_preferences(file: Path) -> None:
    seen = Seen()
    async with routed(pair(), observer=seen, policy="ppo-slim", policy_file=file) as router:
        options = [None, Preference(0.2, 0.2, 0.6)] * 20
        answers = await asyncio.gather(*(router.infer(item(n), preference=asked) for n, asked in enumerate(options)))
    assert all(right(answer, n) for n, answer in enumerate(answers))
    assert [answer.policy for answer in answers] == ["ppo-slim", "preferred"] * 20
    assert not seen.fallbacks


async def test_what_it_was_not_trained_on_is_decided_by_the_fallback(tmp_path: Path, caplog: Any) -> None:
    seen = Seen()
    path = put(tmp_path / "narrow.npz", out_of_range())
    async with routed(pair(), observer=seen, policy="ppo-slim", policy_file=path) as router:
        answers = [await router.infer(item(n)) for n in range(3)]
    assert {answer.policy for answer in answers} == {"lert:reserve"}
    assert set(seen.fallbacks) == {Fault.OUT_OF_RANGE}
    assert "all that ppo-slim was trained on" in caplog.text


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"policy": "ppo-slim", "policy_file": Path("nowhere.npz")}, "can't read the policy nowhere.npz"),
        ({"policy": "ppo-paper", "policy_file": ...}, "holds ppo-slim, not ppo-paper"),
        ({"policy": "ppo-slim", "policy_file": ..., "binding": "early"}, "was trained to bind late"),
        ({"shadow_policy": "ppo-slim,speed=1", "policy_file": ...}, "speed=1' is no knob"),
    ],
)
async def test_what_can_not_be_used_is_refused_before_anything_runs(
    file: Path, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        async with routed(pair(), **{k: file if v is ... else v for k, v in settings.items()}):
            pass


async def test_a_shadow_is_compared_and_logged_and_changes_nothing(tmp_path: Path) -> None:
    seen = Seen()
    log = {"directory": tmp_path / "log", "sample_ratio": 1.0}
    learned = replace(slim("lert:narrowest"))
    path = put(tmp_path / "narrow.npz", learned)
    async with routed(
        pair(), observer=seen, policy="lert:widest", shadow_policy="ppo-slim", policy_file=path, decision_log=log
    ) as router:
        answers = [await router.infer(item(n)) for n in range(5)]
    assert {(answer.policy, answer.width) for answer in answers} == {("lert:widest", 100)}
    assert seen.shadows == {"other": 5}
    record = find_decision(tmp_path / "log", answers[0].decision_id)
    assert record["shadow"]["policy"] == "ppo-slim"
    assert record["shadow"]["choice"]["width"] == 25
    assert (record["shadow"]["outcome"], record["choice"]["width"]) == ("other", 100)


async def test_a_shadow_that_would_do_the_same_is_counted_so(tmp_path: Path) -> None:
    seen, file = Seen(), put(tmp_path / "policy.npz", slim("lert:reserve"))  # untrained, so it is that policy
    async with routed(
        pair(), observer=seen, policy="lert:reserve", shadow_policy="ppo-slim", policy_file=file
    ) as router:
        await asyncio.gather(*(router.infer(item(n)) for n in range(30)))
    assert set(seen.shadows) == {"same"}


def shadow(choose: Any, **settings: Any) -> tuple[Shadow, Seen]:
    seen, ticks = Seen(), iter(range(10**6))
    guard = GuardSettings(faults=3, pause_s=5, policy_time_budget_ms=None, **settings)
    return Shadow(Scripted(choose), guard, seen, clock=lambda: float(next(ticks))), seen


def test_a_shadow_that_fails_costs_nothing_and_is_not_asked_for_a_while() -> None:
    made, seen = shadow(raises)
    decision = parse_policy("lert").choose([candidate()], situation())
    compared = [made.compare(decision, [candidate()], situation(), is_idle=True) for _ in range(5)]
    assert compared[0] == {"policy": "scripted", "outcome": "fault", "fault": "raised", "reason": None, "choice": None}
    assert compared[3:] == [None, None]
    assert seen.shadows == {"fault": 3}
    later = replace(situation(), now_s=6.0)
    assert made.compare(decision, [candidate()], later, is_idle=True) is not None


def test_a_shadow_sums_up_once_in_a_while(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    offered = candidate()
    turns = iter([Dispatch(offered, Reason.DRAWN), Hold(Reason.BETTER_SERVER_BUSY), Hold(Reason.BETTER_SERVER_BUSY)])
    made, _ = shadow(lambda candidates, situation: next(turns))
    decision = Dispatch(offered, Reason.LEAST_COMPLETION)
    for now_s in (0.0, 1.0, 61.0):
        made.compare(decision, [offered], replace(situation(), now_s=now_s), is_idle=False)
    assert made.policy.binding is Binding.LATE
    assert "would have decided the same in 1 of 3 decisions, otherwise in 2, and failed in 0" in caplog.text


async def test_requests_that_it_was_not_trained_on_are_nobody_elses(tmp_path: Path) -> None:
    """One client's lower bound on accuracy has the fallback decide for that client, and for no other."""
    seen, place = Seen(), feat.FEATURES + feat.CONTEXT_NAMES.index("min_accuracy")
    high = slim().high.copy()
    high[place] = 0
    path = put(tmp_path / "narrow.npz", slim(high=high))
    async with routed(pair(), observer=seen, policy="ppo-slim", policy_file=path, guard=NO_TIME_LIMITS) as router:
        limit = NO_TIME_LIMITS.faults
        out_of_distribution = [await router.infer(item(n), min_accuracy=0.9) for n in range(2 * limit)]
        usual = await router.infer(item(1))
        preferring = await router.infer(item(2), min_accuracy=0.9, preference=Preference(0.2, 0.2, 0.6))
    assert {answer.policy for answer in out_of_distribution} == {"lert:reserve"}
    assert usual.policy == "ppo-slim"
    assert preferring.policy == "preferred"
    assert seen.fallbacks == {Fault.OUT_OF_RANGE: 2 * limit}


def test_a_shadow_that_does_not_trust_itself_is_asked_again() -> None:
    def distrusts(candidates: Any, situation: Any) -> Any:
        raise UntrustedError("too long a queue")

    made, seen = shadow(distrusts)
    decision = parse_policy("lert").choose([candidate()], situation())
    compared = [made.compare(decision, [candidate()], situation(), is_idle=True) for _ in range(5)]
    assert [each and each["fault"] for each in compared] == ["out_of_range"] * 5
    assert seen.shadows == {"fault": 5}


def two(**values: Any) -> dict[str, FakeServer]:
    return {"a": FakeServer(**values), "b": FakeServer(per_item_s=0.03, **values)}


@pytest.mark.parametrize(
    ("servers", "gap_s", "options"),
    [
        (two(), 0.003, {}),
        (two(), 0.0005, {}),
        (two(), 0.5, {}),
        (two(), 0.003, {"deadline_ms": 20}),
        (two(), 0.003, {"deadline_ms": 5000}),
        (two(), 0.003, {"min_accuracy": 0.5}),
        (two(), 0.003, {"width": Width(50)}),
        (two(), 0.003, {"preference": Preference(1, 0, 0)}),
        (two(), 0.003, {"preference": Preference(0, 1, 0)}),
        (two(), 0.003, {"preference": Preference(0, 0, 1)}),
        (two(instances=4), 0.003, {}),
        ({"a": FakeServer(widths=(100,))}, 0.003, {}),
        (two(max_batch_size=1), 0.003, {}),
        (two(max_batch_size=128), 0.003, {}),
    ],
    ids=[
        "steady",
        "crowd",
        "lull",
        "short deadline",
        "long deadline",
        "accuracy floor",
        "width",
        "prefers accuracy",
        "prefers latency",
        "prefers energy",
        "many instances",
        "one width",
        "no batches",
        "large batches",
    ],
)
async def test_what_routers_see_every_day_is_decided_by_the_policy_that_ships_or_by_what_is_preferred(
    servers: dict[str, FakeServer], gap_s: float, options: dict[str, Any]
) -> None:
    seen = Seen()
    async with routed(servers, observer=seen, policy="ppo-slim", guard=NO_TIME_LIMITS) as router:
        calls = []
        for number in range(20):
            calls.append(asyncio.create_task(router.infer(item(number), **options)))
            await asyncio.sleep(gap_s)
        answers = await asyncio.gather(*calls)
    assert not seen.fallbacks
    assert {answer.policy for answer in answers} == {"preferred" if "preference" in options else "ppo-slim"}


async def test_a_lull_after_a_crowd_and_deadlines_unlike_each_other_are_in_distribution() -> None:
    seen = Seen()
    async with routed(two(), observer=seen, policy="ppo-slim", guard=NO_TIME_LIMITS) as router:
        for count, gap_s, deadline_ms in ((100, 0.0007, 100), (3, 0.5, 100), (20, 0.02, 5000), (20, 0.02, 60)):
            calls = []
            for number in range(count):
                calls.append(asyncio.create_task(router.infer(item(number), deadline_ms=deadline_ms)))
                await asyncio.sleep(gap_s)
            await asyncio.gather(*calls, return_exceptions=True)
    assert not seen.fallbacks


@pytest.mark.parametrize("count", [1, 2, 4])
async def test_callers_who_wait_for_their_answers_are_not_held_for_a_batch_that_never_fills(count: int) -> None:
    took_s: dict[str, float] = {}
    for policy in ("thrift", "ppo-slim"):
        servers = {"a": FakeServer(per_item_s=0.003, fixed_s=0.001), "b": FakeServer(per_item_s=0.009, fixed_s=0.003)}
        async with routed(servers, policy=policy, guard=NO_TIME_LIMITS) as router:
            clock = asyncio.get_running_loop().time

            async def loop() -> None:
                for number in range(50):
                    await router.infer(item(number))

            began_s = clock()
            await asyncio.gather(*(loop() for _ in range(count)))
            took_s[policy] = clock() - began_s
    assert took_s["ppo-slim"] <= 1.1 * took_s["thrift"]
