"""The bound of each moment: what it is where it can be told by hand, and that no policy is above it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.frozen.bounds import bound_of_moments, earned_a_request
from benchmarks.frozen.judgement import plan
from orchestrator.evaluation.campaign import Records, run_campaign
from orchestrator.evaluation.scores import UTILITY, score_cases
from tests.evaluation.example_suites import SCENARIO

EARNED = np.array([0.0, 10.0, 20.0]), np.array([0.0, 8.0, 12.0])


def test_even_arrivals_earn_what_their_rate_earns() -> None:
    arrived_s = np.arange(0, 100, 0.1)
    # Eleven deadlines for what arrives in ten.
    assert earned_a_request(arrived_s, 1.0, 1, EARNED, idle=0.0) == pytest.approx(0.8, rel=0.01)
    assert earned_a_request(arrived_s, 1.0, 1, EARNED, idle=2.0) == pytest.approx(0.6, rel=0.01)


def test_a_crowd_earns_less_than_its_mean_rate_and_no_more_than_the_fleet_can() -> None:
    crowd_s = np.concatenate([np.linspace(0, 9.9, 900), np.linspace(10, 100, 100)])
    assert earned_a_request(crowd_s, 1.0, 1, EARNED, idle=0.0) < 0.3
    assert earned_a_request(np.linspace(0, 9.9, 900), 1.0, 1, EARNED, idle=0.0) == pytest.approx(12 * 11 / 900)


@pytest.mark.parametrize("load", [0.2, 0.9])
def test_no_policy_is_above_it(tmp_path: Path, load: float) -> None:
    path = tmp_path / "wild.yaml"
    path.write_text(SCENARIO.format(name="wild", load=load, requests=4000))
    cases = plan([path], 2, {}, ("thrift", "lert:brownout", "lert:widest", "lert:narrowest"))
    with Records(tmp_path / "runs.jsonl", seeds=1, resume=True) as records:
        run_campaign(cases, records, seeds=1)
    (scenario,) = score_cases(cases, records.results)
    bound = bound_of_moments(scenario)
    assert bound is not None
    best = max(float(score.figures[UTILITY].mean()) for score in scenario.scores.values())
    assert best < bound
    assert scenario.most_utility is not None
    assert bound < scenario.most_utility + 0.02
