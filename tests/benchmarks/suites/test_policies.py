from __future__ import annotations

import pytest

from benchmarks.suites import find_suite
from benchmarks.suites.policies import DEFAULT, FALLBACK, LEARNED_POINTS
from orchestrator.config import RouterSettings
from orchestrator.evaluation.cases import LEARNED, make_entry
from orchestrator.policies.learned.policy import has_shipped
from orchestrator.policies.learned.policy_file import PAPER, SLIM

POLICIES = {name: find_suite(name).policies for name in ("paper", "own")}


def test_every_suite_has_the_guards_own_fallback_and_each_policy_once() -> None:
    assert RouterSettings().guard.fallback == FALLBACK
    for suite, labels in POLICIES.items():
        assert len(set(labels)) == len(labels), suite
        assert {FALLBACK, LEARNED, "lert:slack"} <= set(labels)
    assert RouterSettings().policy == DEFAULT in POLICIES["own"]


def test_learned_points_lie_along_one_frontier_at_weights_that_add_up_to_one() -> None:
    asked = [dict(part.split("=") for part in point.split(",")[1:]) for point in LEARNED_POINTS[1:]]
    weights = [[float(each[name]) for name in ("accuracy", "latency", "energy")] for each in asked]
    assert all(sum(own) == pytest.approx(1) for own in weights)
    assert [own[0] for own in weights] == sorted((own[0] for own in weights), reverse=True)
    assert [own[2] for own in weights] == sorted(own[2] for own in weights)
    assert len({make_entry(point, point).identity for point in LEARNED_POINTS}) == len(LEARNED_POINTS) == 9


def test_ppo_paper_meets_the_others_in_its_suite_when_one_ships() -> None:
    assert has_shipped(SLIM)
    assert (PAPER in POLICIES["paper"]) == has_shipped(PAPER)
    assert PAPER not in POLICIES["own"]
