"""When requests are due."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from orchestrator.errors import ConfigError
from orchestrator.loadgen.plan import Load, arrivals_of_families_s, arrivals_s
from orchestrator.loadgen.target import FamilyShare, parse_families
from tests.plugged import install

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


def test_families_have_their_shares_of_a_load_and_drift() -> None:
    cats_s, dogs_s = arrivals_of_families_s(LOAD, [1.0, 3.0])
    assert np.array_equal(np.sort(np.concatenate([cats_s, dogs_s])), arrivals_s(LOAD))
    assert len(dogs_s) == pytest.approx(3 * len(cats_s), rel=0.1)
    drifting = arrivals_of_families_s(LOAD, [1.0, 1.0], drift_amplitude=5.0)
    counts = np.array([np.histogram(due_s, bins=10, range=(0, LOAD.seconds))[0] for due_s in drifting])
    assert (counts.min(axis=1) == 0).all(), "each has a time without requests"
    with pytest.raises(ConfigError, match="1 requests are too few for 2 families"):
        arrivals_of_families_s(replace(LOAD, rate_rps=0.05, workload="steady", seconds=25.0), [1.0, 1.0])


def test_families_are_named_with_a_share_and_a_sample() -> None:
    found = parse_families(["cats", "dogs:2.5=some/dogs.npz"])
    assert found == [FamilyShare("cats"), FamilyShare("dogs", 2.5, Path("some/dogs.npz"))]
    for text in (":2", "cats:", "cats:no", "cats:0", "cats:-1", "cats:nan", "cats:inf", "cats="):
        with pytest.raises(ConfigError, match="is no NAME"):
            parse_families([text])
    with pytest.raises(ConfigError, match="cats is given 2 times"):
        parse_families(["cats", "cats:2"])


PULSES = """
import numpy as np


def pulses(size, gap=1.0):
    if size < 1:
        raise ValueError(f"pulses of {size:g}; give 1 or more")
    return lambda count, rng: np.floor(np.arange(count) / size) * size * gap


def descends():
    return lambda count, rng: np.arange(count)[::-1]


def short():
    return lambda count, rng: np.zeros(count - 1)


def ends():
    raise SystemExit(3)
"""


@pytest.fixture
def pulses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    points = {name: name for name in ("pulses", "descends", "short", "ends", "gone")} | {"poisson": "descends"}
    install(tmp_path, "pulses_one", PULSES, points, "slimsched.workloads")
    monkeypatch.syspath_prepend(tmp_path)


@pytest.mark.usefixtures("pulses")
def test_another_package_brings_a_shape_of_arrivals_and_none_takes_the_name_of_one_of_ours() -> None:
    due_s = arrivals_s(replace(LOAD, workload="pulses:100"))
    assert (len(due_s), len(np.unique(due_s))) == (10_000, 100)
    assert (np.diff(arrivals_s(LOAD)) >= 0).all()


@pytest.mark.usefixtures("pulses")
@pytest.mark.parametrize(
    ("workload", "problem"),
    [
        ("poison", r"unknown workload 'poison'; known are poisson.*; of other packages descends, ends, gone, poisson,"),
        ("pulses:0", r"'pulses' of pulses_one can't be made .ValueError: pulses of 0; give 1 or more.; mend the pack"),
        ("pulses", r"'pulses' of pulses_one can't be made .TypeError"),
        ("pulses:x", "'pulses:x' needs 1 numbers from 0 on"),
        ("ends", r"'ends' of pulses_one can't be made .SystemExit: 3"),
        ("gone", r"'gone' of pulses_one can't be imported .AttributeError"),
        ("descends", r"'descends' of pulses_one drew \[10000\] times for 10000 arrivals, or times that .* descend"),
        ("short", r"'short' of pulses_one drew \[9999\] times for 10000 arrivals"),
    ],
)
def test_a_package_with_a_broken_shape_is_named_with_the_reason(workload: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem) as caught:
        arrivals_s(replace(LOAD, workload=workload))
    assert "\n" not in str(caught.value)
