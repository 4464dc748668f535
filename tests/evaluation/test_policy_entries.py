from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from orchestrator.config import RouterSettings
from orchestrator.errors import ConfigError
from orchestrator.evaluation.policy_entries import LEARNED, head_of, is_learned, make_entry, open_policy
from orchestrator.evaluation.runs import Cell, run_cell
from orchestrator.evaluation.suites.plan import FALLBACK, LEARNED_POINTS, POLICIES, Suite, entries_of
from orchestrator.policies.learned import PAPER, SLIM, PolicyFile, has_shipped, write_policy_file
from tests.evaluation.example_suites import write_suite
from tests.policies.learned.test_policy import slim, trained


def written(path: Path, file: PolicyFile) -> Path:
    write_policy_file(path, file)
    return path


def test_checkpoints_are_told_apart_by_what_is_in_them(tmp_path: Path) -> None:
    first = written(tmp_path / "first.npz", slim(weights=trained()))
    same = written(tmp_path / "same.npz", slim(weights=trained()))
    other = written(tmp_path / "other.npz", slim(weights=trained(), strength=3.0))
    ends = [make_entry("x", f"ppo-slim:{path}").identity.split()[-1] for path in (first, same, other)]
    assert ends[0] == ends[1] != ends[2]
    # Trained anew under the same name it is another policy.
    spec = f"ppo-slim:{first}"
    before = make_entry("x", spec).identity
    written(first, slim(weights=trained(), strength=4.0))
    open_policy.cache_clear()
    assert make_entry("x", spec).identity != before
    assert make_entry("x", "lert:slack").identity == "lert:slack"


def test_a_learned_policy_runs_with_its_guard_and_tells_how_often_its_base_decided(tmp_path: Path) -> None:
    file = slim(weights=trained())
    narrow = replace(file, low=np.full_like(file.low, -1), high=np.full_like(file.high, -0.5))
    scenario = write_suite(tmp_path / "scenarios", stems=("calm",)) / "test" / "standard" / "calm.yaml"
    figures = {}
    for name, each in (("trusting", file), ("narrow", narrow)):
        entry = make_entry(name, f"ppo-slim:{written(tmp_path / f'{name}.npz', each)}")
        result = run_cell(Cell("digest", scenario, 300, entry, 0, 2, True))
        assert len(result.runs) == 1  # it draws no lots
        assert result.decision_s is not None
        figures[name] = result.runs[0].figures
    base = run_cell(Cell("digest", scenario, 300, make_entry("b", "lert:slack"), 0, 1, False)).runs[0].figures
    assert figures["trusting"]["fallback_ratio"] == 0
    assert figures["narrow"]["fallback_ratio"] is not None
    assert figures["narrow"]["fallback_ratio"] > 0.1
    assert figures["narrow"]["p99_s"] == base["p99_s"]
    assert base["fallback_ratio"] is None


def test_a_checkpoint_that_is_missing_is_refused_before_anything_runs(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.npz"):
        make_entry("x", f"ppo-slim:{tmp_path / 'none.npz'}")


def test_labels_tell_what_they_are_of() -> None:
    assert head_of("ppo-slim:runs/a.npz,energy=1") == "ppo-slim"
    assert head_of("achq untuned") == "achq"
    kinds = {label: is_learned(label) for label in ("ppo-paper", "thrift,energy=1")}
    assert kinds == {"ppo-paper": True, "thrift,energy=1": False}


def test_every_suite_has_the_guards_own_fallback_and_each_contender_once() -> None:
    assert RouterSettings().guard.fallback == FALLBACK
    for suite, labels in POLICIES.items():
        assert len(set(labels)) == len(labels), suite
        assert FALLBACK in labels
        assert LEARNED in labels
    for suite in (Suite.PAPER, Suite.STANDARD):
        assert "lert:slack" in POLICIES[suite]


def test_learned_points_lie_along_one_frontier_at_weights_that_add_up_to_one() -> None:
    asked = [dict(part.split("=") for part in point.split(",")[1:]) for point in LEARNED_POINTS[1:]]
    weights = [[float(each[name]) for name in ("accuracy", "latency", "energy")] for each in asked]
    assert all(sum(own) == pytest.approx(1) for own in weights)
    assert [own[0] for own in weights] == sorted((own[0] for own in weights), reverse=True)
    assert [own[2] for own in weights] == sorted(own[2] for own in weights)
    assert len({make_entry(point, point).identity for point in LEARNED_POINTS}) == len(LEARNED_POINTS) == 9


def test_ppo_paper_meets_the_others_in_its_suite_when_one_ships() -> None:
    assert has_shipped(SLIM)
    assert (PAPER in entries_of(Suite.PAPER)) == has_shipped(PAPER)
    for suite in (Suite.STANDARD, Suite.GENERALISATION):
        assert entries_of(suite) == POLICIES[suite]
