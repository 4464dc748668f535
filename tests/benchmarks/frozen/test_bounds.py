"""The bound of each moment: what it is where it can be told by hand, and that no policy is above it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml

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


def wild(tmp_path: Path, load: float, **workload: object) -> Path:
    """Return the file of a scenario, with some keys of its workload beside."""
    values = yaml.safe_load(SCENARIO.format(name="wild", load=load, requests=4000))
    values["workload"] |= workload
    path = tmp_path / "wild.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def test_callers_who_wait_have_none(tmp_path: Path) -> None:
    cases = plan([wild(tmp_path, 0.5, callers=3)], 1, {}, ("thrift",))
    with Records(tmp_path / "runs.jsonl", seeds=1, resume=True) as records:
        run_campaign(cases, records, seeds=1)
    (scenario,) = score_cases(cases, records.results)
    assert bound_of_moments(scenario) is None


@pytest.mark.parametrize("workload", [{}, {"deadlines_ms": {20: 1, 400: 1}}, {"classes": [{"deadline_ms": 400}, {}]}])
@pytest.mark.parametrize("load", [0.2, 0.9])
def test_no_policy_is_above_it(tmp_path: Path, load: float, workload: dict[str, object]) -> None:
    path = wild(tmp_path, load, **workload)
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
