from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from orchestrator.errors import ConfigError
from orchestrator.simulation.scenario import workloads
from orchestrator.simulation.scenario.workloads import Shape, Times, scaled

COUNT = 200_000


def drawn(shape: Shape, count: int = COUNT, seed: int = 0) -> Times:
    times = scaled(shape, count, 50.0, np.random.default_rng(seed))
    assert times.shape == (count,)
    assert (np.diff(times) >= 0).all()
    assert times[0] >= 0
    return times


@pytest.mark.parametrize(
    "shape",
    [
        workloads.gamma(1.0),
        workloads.gamma(4.0),
        workloads.gamma(0.0),
        workloads.mmpp((0.5, 1.0, 3.0), 50),
        workloads.mmpp((1.0,), 50),
        workloads.ramp(1.0, 3.0),
        workloads.diurnal(0.8, 3),
        workloads.flash_crowd(5.0, 0.4, 0.1),
    ],
)
def test_every_shape_is_stretched_to_the_rate_that_is_asked_for(shape: Shape) -> None:
    assert COUNT / drawn(shape)[-1] == pytest.approx(50, rel=0.03)
    assert np.array_equal(drawn(shape, 100), drawn(shape, 100))


@pytest.mark.parametrize("cv2", [0.0, 0.5, 1.0, 4.0, 16.0])
def test_gamma_gaps_have_the_variation_that_is_asked_for(cv2: float) -> None:
    gaps = np.diff(drawn(workloads.gamma(cv2)))
    assert gaps.var() / gaps.mean() ** 2 == pytest.approx(cv2, rel=0.1, abs=1e-6)


def test_an_mmpp_is_poisson_within_a_state_and_bursty_over_all() -> None:
    times = drawn(workloads.mmpp((0.2, 1.8), 1000))
    counts = np.histogram(times, bins=np.arange(0, times[-1], 1.0))[0]
    assert counts.var() / counts.mean() > 10  # of Poisson it is 1
    calm, busy = np.percentile(counts, [20, 80])
    assert calm == pytest.approx(10, rel=0.5)
    assert busy == pytest.approx(90, rel=0.2)


def test_states_without_requests_are_times_without_any() -> None:
    gaps = np.diff(drawn(workloads.mmpp((0.0, 2.0), 200)))
    assert gaps.max() > 100 * gaps.mean()


def test_self_similar_arrivals_stay_uneven_when_they_are_averaged_over_longer_times() -> None:
    def slope(tail: float | None) -> float:
        """Return how the logarithm of the counts' relative variance falls with that of the length of time."""
        found = []
        for seed in range(8):
            times = drawn(workloads.mmpp((0.0, 2.0), 20, tail=tail), seed=seed)
            counts = [np.histogram(times, bins=np.arange(0, times[-1], width))[0] for width in (4.0, 64.0)]
            found.append(np.diff([np.log(c.var() / c.mean() ** 2) for c in counts])[0] / np.log(16))
        return float(np.mean(found))

    assert slope(None) == pytest.approx(-1.0, abs=0.15)  # independent in the long run
    assert slope(1.4) == pytest.approx(2 * 0.8 - 2, abs=0.2)  # by Hurst's parameter


def test_rates_over_time_are_those_of_the_shape() -> None:
    def thirds(shape: Shape) -> list[float]:
        times = drawn(shape)
        return [float(n) / COUNT for n in np.histogram(times, bins=np.linspace(0, times[-1], 4))[0]]

    assert thirds(workloads.ramp(1.0, 3.0)) == pytest.approx([4 / 18, 6 / 18, 8 / 18], abs=0.01)
    assert thirds(workloads.flash_crowd(4.0, 0.0, 1 / 3)) == pytest.approx([4 / 6, 1 / 6, 1 / 6], abs=0.01)
    times = drawn(workloads.diurnal(1.0, 1.0))
    halves = np.histogram(times, bins=np.linspace(0, times[-1], 3))[0] / COUNT
    assert halves[0] == pytest.approx(0.5 + 1 / np.pi, abs=0.01)


def test_a_file_of_timestamps_is_replayed_at_another_rate_and_from_the_beginning_again(tmp_path: Path) -> None:
    path = tmp_path / "times.txt"
    path.write_text("# seconds\n100\n101\n\n103\n106\n")
    gaps = np.diff(drawn(workloads.replay(path), 9))
    assert gaps / gaps[0] == pytest.approx([1, 2, 3, 2, 1, 2, 3, 2])
    assert drawn(workloads.replay(path), 4000)[-1] == pytest.approx(4000 / 50)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("1\n3\n2\n", "line 3: 2 is before 3 above it; sort the file"),
        ("1700000018.5\n1700000018.25\n", r"line 2: 1700000018\.25 is before 1700000018\.5 above it"),
        ("1\nsoon\n", "line 2: 'soon' is no time in seconds; one number a line"),
        ("1\nnan\n", "line 2: nan is no time; it must be finite"),
        ("1\n", "holds 1 timestamps; two different ones at least make a rate"),
        ("2\n2\n", "two different ones at least"),
    ],
)
def test_files_that_are_no_trace_are_refused(tmp_path: Path, text: str, problem: str) -> None:
    path = tmp_path / "times.txt"
    path.write_text(text)
    with pytest.raises(ConfigError, match=problem):
        workloads.replay(path)
    with pytest.raises(ConfigError, match=r"can't read the timestamps in .*missing"):
        workloads.replay(tmp_path / "missing.txt")


@pytest.mark.parametrize("shape", [workloads.ramp(2.0, 0.0), workloads.diurnal(1.0, 0.75)])
@pytest.mark.parametrize("seed", range(8))
def test_a_rate_that_falls_to_nothing_lets_the_last_come_all_the_same(shape: Shape, seed: int) -> None:
    assert drawn(shape, 10_000, seed)[-1] < 1.5 * 10_000 / 50.0
