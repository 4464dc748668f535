"""The bars of the frozen test, each on scores that are written out by hand."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.frozen.bars import (
    EVOLUTION,
    FITTED,
    PPO,
    best_single,
    frozen_claims,
    is_ahead_of_all,
    joules_less,
    mean_estimate,
    share_of_gap,
    worst_loss,
)
from benchmarks.suites.policies import FALLBACK
from orchestrator.evaluation.scores import ScenarioScores, Score
from orchestrator.reporting.claim import Claim, Interval
from orchestrator.reporting.student import half_interval
from tests.evaluation.example_suites import scenario_scores, score

SINGLE, DEFAULT = "thrift", "lert:brownout"
NOISE = [0.002, -0.002, 0.001, -0.001, 0.002, -0.002, 0.001, -0.001]


def policy(label: str, utility: float, *, in_time: float = 0.99, accuracy: float = 0.8, joules: float = 0.5) -> Score:
    values = [utility + noise for noise in NOISE]
    figures = {"attainment_ratio": in_time, "accuracy": accuracy, "joules_per_answer": joules}
    return score(label, utility=values, effective_accuracy=0.8, **figures)


def scenario(
    stem: str, fitted: float, *, ppo: float = 0.7, joules: float = 0.5, in_time: float = 0.99
) -> ScenarioScores:
    return scenario_scores(
        stem,
        [
            policy(SINGLE, 0.70),
            policy(FALLBACK, 0.68),
            policy(EVOLUTION, 0.72),
            policy(PPO, ppo),
            policy(FITTED, fitted, joules=joules, in_time=in_time),
        ],
    )


def worlds(*losses: float) -> list[ScenarioScores]:
    return [
        scenario_scores(f"w{at}", [policy(DEFAULT, 0.5 - 0.8 * loss), policy(FALLBACK, 0.5)])
        for at, loss in enumerate(losses)
    ]


def claims(
    tests: Sequence[ScenarioScores], *, bound: float | None = 0.74, losses: Sequence[float] = (0.0,)
) -> dict[str, Claim]:
    found = frozen_claims(tests, SINGLE, {t.case.stem: bound for t in tests}, worlds(*losses), DEFAULT)
    names = ("mean", "better", "worst", "in time", "gap", "above", "joules", "ppo", "behind", "small", "drawn")
    return dict(zip(names, found, strict=True))


def test_what_is_better_everywhere_and_frugal_meets_every_bar() -> None:
    found = claims([scenario(stem, 0.725, ppo=0.73, joules=0.4) for stem in "abc"])
    assert all(claim.is_met for claim in found.values()), [c.name for c in found.values() if not c.is_met]
    assert found["mean"].value == pytest.approx(0.025)
    assert found["mean"].interval is not None
    assert found["gap"].value == pytest.approx(0.025 / 0.04)


def test_each_bar_is_missed_by_what_it_is_about() -> None:
    good = [scenario(stem, 0.73, ppo=0.73, joules=0.4) for stem in "abc"]
    missed = {
        "mean": claims([scenario(stem, 0.714) for stem in "abc"]),
        "better": claims([*good, scenario("d", 0.70)]),
        "worst": claims([*good, *good, scenario("d", 0.697)]),
        "in time": claims([scenario(stem, 0.73, in_time=0.98) for stem in "abc"]),
        "gap": claims(good, bound=0.8),
        "above": claims(good, bound=0.729),
        "joules": claims([*good[:1], *(scenario(stem, 0.73) for stem in "defg")]),
        "ppo": claims([scenario(stem, 0.73, ppo=0.709) for stem in "abc"]),
        "behind": claims([scenario(stem, 0.73, ppo=0.717) for stem in "abc"]),
        "small": claims([*good[:1], *(scenario(stem, 0.73, ppo=0.72) for stem in "def")]),
        "drawn": claims(good, losses=(0.0, 0.03)),
    }
    for name, found in missed.items():
        assert not found[name].is_met, name
    assert found["drawn"].note == "in w1, of 2 worlds"


def test_the_best_single_policy_has_the_most_mean_utility_and_is_the_same_everywhere() -> None:
    calm = scenario_scores("calm", [policy("a", 0.9), policy("b", 0.8), policy("c", 0.99)])
    wild = scenario_scores("wild", [policy("a", 0.3), policy("b", 0.5)])
    assert [label for label, _ in best_single([calm, wild])] == ["b", "a"]


def test_a_gap_that_is_none_has_no_share() -> None:
    own = scenario("a", 0.72)
    assert share_of_gap(own, SINGLE, None) is None
    assert share_of_gap(own, SINGLE, 0.701) is None
    assert share_of_gap(own, SINGLE, 0.74) == pytest.approx(0.5)


def test_joules_count_on_equal_terms_only() -> None:
    assert joules_less(scenario("a", 0.7, joules=0.4), SINGLE) == pytest.approx(0.2)
    assert joules_less(scenario("a", 0.7, joules=0.4, in_time=0.98), SINGLE) is None


def test_ahead_of_all_is_surely_ahead_of_each() -> None:
    assert is_ahead_of_all(scenario("a", 0.7, ppo=0.73), PPO)
    assert not is_ahead_of_all(scenario("a", 0.7, ppo=0.72), PPO)  # of evolution it is not
    unsure = [0.74 if at % 4 else 0.69 for at in range(8)]
    tests = scenario_scores(
        "a", [policy(SINGLE, 0.72), score(PPO, utility=unsure, accuracy=1.0, joules_per_answer=0.1)]
    )
    assert not is_ahead_of_all(tests, PPO)


def test_the_worst_loss_is_that_of_the_world_where_most_is_lost() -> None:
    loss = worst_loss(worlds(0.01, 0.05, -0.1), DEFAULT)
    assert loss == (pytest.approx(0.05), "w1")
    assert worst_loss([], DEFAULT) is None


def test_a_loss_is_of_what_answers_in_time_are_worth_because_utility_may_be_nothing_or_less() -> None:
    world = scenario_scores("w", [policy(DEFAULT, -0.17), policy(FALLBACK, -0.18)])
    loss = worst_loss([world], DEFAULT)
    assert loss is not None
    assert loss[0] == pytest.approx(-0.01 / 0.8)
    nothing = score(FALLBACK, utility=-0.1, effective_accuracy=0.0)
    assert worst_loss([scenario_scores("w", [policy(DEFAULT, -0.2), nothing])], DEFAULT) is None


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 2**32 - 1))
def test_the_interval_of_few_traces_holds_as_often_as_it_says(seed: int) -> None:
    random = np.random.default_rng(seed)
    samples = [random.standard_normal(5) for _ in range(400)]
    intervals = [mean_estimate([sample]).interval for sample in samples]
    assert np.mean([i is not None and i.low <= 0 <= i.high for i in intervals]) > 0.91
    one = mean_estimate(samples[:1]).interval
    assert one is not None
    assert (one.high - one.low) / 2 == pytest.approx(half_interval(samples[0].tolist()))
    many = mean_estimate(samples).interval
    assert many is not None
    assert many.high - many.low < 0.15


def test_traces_that_do_not_differ_leave_nothing_unsure_and_one_trace_all() -> None:
    assert mean_estimate([np.ones(5), np.ones(5)]).interval == Interval(1.0, 1.0)
    assert mean_estimate([np.ones(1)]).interval is None
