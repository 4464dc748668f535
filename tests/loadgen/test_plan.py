"""When requests are due."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from orchestrator.errors import ConfigError
from orchestrator.loadgen.plan import Load, arrivals_s

LOAD = Load("poisson", 500.0, 20.0, 0.1)


@pytest.mark.parametrize(
    "workload", ["poisson", "steady", "gamma:8", "flash-crowd:4", "ramp:0.5:2", "rise-and-fall:0.5:2"]
)
def test_arrivals_ascend_at_the_mean_rate_and_repeat_with_the_seed(workload: str) -> None:
    load = replace(LOAD, workload=workload)
    due_s = arrivals_s(load)
    assert (np.diff(due_s) >= 0).all()
    assert due_s[-1] < load.seconds
    assert len(due_s) == pytest.approx(10_000, rel=0.1)
    assert np.array_equal(due_s, arrivals_s(load))
    assert workload == "steady" or not np.array_equal(due_s, arrivals_s(replace(load, seed=1)))


def test_a_rate_that_rises_and_falls_is_highest_in_the_middle() -> None:
    due_s = arrivals_s(replace(LOAD, workload="rise-and-fall:1:4"))
    counts, _ = np.histogram(due_s, bins=5, range=(0, LOAD.seconds))
    assert counts[0] < counts[1] < counts[2] > counts[3] > counts[4]
    assert counts[2] == pytest.approx(2.5 * counts[0], rel=0.15)  # 3.7 to 1.3 of the mean of the bin


def test_a_burst_is_due_at_once() -> None:
    assert arrivals_s(replace(LOAD, workload="burst:1000")).tolist() == [0.0] * 1000


def test_a_recorded_workload_is_stretched_to_the_rate(tmp_path: Path) -> None:
    file = tmp_path / "times.txt"
    file.write_text("\n".join(str(t) for t in (0, 1, 1.5, 4)))
    due_s = arrivals_s(replace(LOAD, workload=f"replay:{file}"))
    assert len(due_s) == pytest.approx(10_000, rel=0.1)
    assert np.diff(due_s).max() / np.median(np.diff(due_s)) > 1.5


@pytest.mark.parametrize(
    ("workload", "problem"),
    [
        ("poison", "unknown workload 'poison'; known are poisson"),
        ("gamma", "needs 1 numbers"),
        ("gamma:many", "needs 1 numbers"),
        ("gamma:-1", "from 0 on"),
        ("poisson:3", "needs 0 numbers"),
        ("ramp:1", "needs 2 numbers"),
        ("burst:nan", "needs 1 numbers"),
        ("replay:/nowhere", "can't read"),
    ],
)
def test_a_workload_that_is_none_is_refused_with_what_is_known(workload: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        arrivals_s(replace(LOAD, workload=workload))
