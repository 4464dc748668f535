from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest

from orchestrator.decision import Candidate, Decision, Dispatch, Hold, Reason
from orchestrator.errors import ConfigError
from orchestrator.policies.protocol import Binding, Situation
from orchestrator.policies.registry import policy_names
from orchestrator.simulation.policy_contract import check_decisions, check_policy
from orchestrator.simulation.simulation import Simulation
from tests.simulation.worlds import scenario, servers, single

Choose = Callable[[Sequence[Candidate], Situation], Any]


@dataclass
class Policyish:
    """A policy that is one function."""

    decide: Choose
    name: str = "mine"
    binding: Binding = Binding.LATE

    def choose(self, candidates: Sequence[Candidate], situation: Situation) -> Decision:
        return self.decide(candidates, situation)  # type: ignore[no-any-return]


def holding_for_none(decide: Choose) -> Choose:
    return lambda candidates, situation: decide(candidates, situation) if candidates else Hold(Reason.NO_CANDIDATE)


def first(candidates: Sequence[Candidate], _: Situation) -> Dispatch:
    return Dispatch(candidates[0], Reason.DRAWN)


def nothing_but_holds(_: Sequence[Candidate], __: Situation) -> Hold:
    return Hold(Reason.BETTER_SERVER_BUSY)


def too_many(candidates: Sequence[Candidate], _: Situation) -> Decision:
    free = [c for c in candidates if c.has_room]
    if not free:
        return Hold(Reason.BETTER_SERVER_BUSY)
    return Dispatch(replace(free[0], items=free[0].max_batch_size + 1), Reason.DRAWN)


def no_reason(candidates: Sequence[Candidate], situation: Situation) -> Any:
    free = [c for c in candidates if c.has_room]
    return Dispatch(free[0], "because") if free else Hold(Reason.BETTER_SERVER_BUSY)  # type: ignore[arg-type]


def forgetful() -> Choose:
    asked: list[int] = []

    def decide(candidates: Sequence[Candidate], _: Situation) -> Decision:
        asked.append(1)
        free = [c for c in candidates if c.has_room]
        return Dispatch(free[len(asked) % len(free)], Reason.DRAWN) if free else Hold(Reason.BETTER_SERVER_BUSY)

    return decide


@pytest.mark.parametrize("name", [*policy_names(), "lert:brownout", "ppo-slim"])
def test_ours_keep_to_it(name: str) -> None:
    check_policy(name)


@pytest.mark.parametrize(
    ("decide", "problem"),
    [
        (first, "IndexError"),
        (lambda *_: None, "is asked about no candidates and decides None; hold or reject then"),
        (holding_for_none(first), "not_offered"),
        (holding_for_none(too_many), "not_offered"),
        (nothing_but_holds, "starving"),
        (holding_for_none(no_reason), "the reason 'because' is no Reason"),
        (holding_for_none(forgetful()), "and asked the same again"),
    ],
)
def test_what_a_policy_may_not_do_is_told(decide: Choose, problem: str) -> None:
    with pytest.raises((AssertionError, IndexError)) as caught:
        check_decisions(Policyish(decide))
    assert problem in f"{caught.typename}: {caught.value}"


def test_the_simulator_refuses_what_a_router_would_not_do() -> None:
    fleet = servers(1, single())
    with pytest.raises(ConfigError, match=r"policy 'mine' may not decide so \(not_offered\)"):
        Simulation(scenario(requests=50), fleet, Policyish(holding_for_none(too_many))).run()


@pytest.mark.parametrize("until_s", [-math.inf, 0.0, math.nan])
def test_the_simulator_refuses_holds_in_which_no_time_would_pass(until_s: float) -> None:
    def hold(_: Sequence[Candidate], situation: Situation) -> Hold:
        return Hold(Reason.BETTER_SERVER_BUSY, situation.now_s + until_s)

    with pytest.raises(ConfigError, match=r"policy 'mine' holds until .* s and it is .*; give a later one, or None"):
        Simulation(scenario(requests=50), servers(1, single()), Policyish(hold)).run()


def test_the_simulator_says_which_policy_raised_and_where() -> None:
    def choose(candidates: Sequence[Candidate], _: Situation) -> Decision:
        raise KeyError("width")

    message = r"policy 'mine' raised KeyError: 'width' \(.*test_policy_contract\.py, line \d+\); mend it"
    with pytest.raises(ConfigError, match=message):
        Simulation(scenario(requests=50), servers(1, single()), Policyish(choose)).run()
