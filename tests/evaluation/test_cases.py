from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from orchestrator.errors import ConfigError
from orchestrator.evaluation.cases import head_of, is_learned, make_entry, open_own_policy
from orchestrator.evaluation.runs import Cell, run_cell
from orchestrator.policies.learned.policy_file import PolicyFile, write_policy_file
from tests.evaluation.example_suites import digest_of, write_suite
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
    open_own_policy.cache_clear()
    assert make_entry("x", spec).identity != before
    assert make_entry("x", "lert:slack").identity == "lert:slack"


def test_a_learned_policy_runs_with_its_guard_and_tells_how_often_its_base_decided(tmp_path: Path) -> None:
    file = slim(weights=trained())
    narrow = replace(file, low=np.full_like(file.low, -1), high=np.full_like(file.high, -0.5))
    scenario = write_suite(tmp_path / "scenarios", stems=("calm",)) / "test" / "own" / "calm.yaml"
    figures = {}
    for name, each in (("trusting", file), ("narrow", narrow)):
        entry = make_entry(name, f"ppo-slim:{written(tmp_path / f'{name}.npz', each)}")
        result = run_cell(Cell(digest_of(scenario), scenario, 300, entry, 0, 2, True))
        assert len(result.runs) == 1  # it draws no random numbers
        assert result.decision_s is not None
        figures[name] = result.runs[0].figures
    base = (
        run_cell(Cell(digest_of(scenario), scenario, 300, make_entry("b", "lert:slack"), 0, 1, False)).runs[0].figures
    )
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
