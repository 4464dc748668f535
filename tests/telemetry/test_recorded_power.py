"""Joules of what ran, from what NVML told of a GPU that served requests.

The recording is of an A100 (80 GiB) that served a language model: board power and utilisation each 250 ms for 25 s, at
rest, with a short burst of work, at rest again, then busy with peaks of 490 W. It is the beginning of a run of
powertrace-sim (Wilkins; github.com/grantwilkins/powertrace-sim, commit 96361ef, `data/runs/
arrival_pattern_qwen3-8b_a100_bursty`). How the board's own energy counter went is not in it; here it is the recorded
power over time, told in whole millijoules as NVML does.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from orchestrator.planner.energy import CounterReading, EnergyAccount
from orchestrator.planner.rates import Rates
from orchestrator.snapshot import ModelName
from tests.telemetry.gpu import FakeGpu, value

PERIOD_S = 0.25
SAMPLES_A_READING = 4
"""A controller looks each second."""
SECOND_WORK_S = 13.0
FIRST, SECOND = ModelName("first_w100"), ModelName("second_w100")


def recorded() -> tuple[list[float], list[float]]:
    """Return the watts of all samples, and the seconds in which the GPU was busy up to each."""
    with Path(__file__).with_name("recorded_power.csv").open() as lines:
        rows = list(csv.DictReader(lines))
    ratios = [float(row["utilisation_percent"]) / 100 for row in rows]
    # Utilisation is that of the time before a reading.
    return [float(row["power_w"]) for row in rows], [ratio * PERIOD_S for ratio in (*ratios[1:], ratios[-1])]


def energy_j(power_w: list[float]) -> list[float]:
    """Return the joules up to each sample, by trapezoids."""
    total_j = [0.0]
    for before_w, after_w in pairwise(power_w):
        total_j.append(total_j[-1] + (before_w + after_w) / 2 * PERIOD_S)
    return total_j


def rates_of(busy_s: float, at_s: float) -> dict[ModelName, Rates]:
    """Return the rates of what ran in the second before: of one model in the first burst, of another afterwards."""
    if busy_s == 0:
        return {}
    ran = Rates(window_s=1.0, requests_per_s=10.0, executions_per_s=1.0, service_s=busy_s)
    return {FIRST if at_s < SECOND_WORK_S else SECOND: ran}


def accounts(gpu: FakeGpu, *, has_counter: bool) -> Iterator[EnergyAccount]:
    """Yield the account after each reading."""
    power_w, busy_s = recorded()
    counter_j, account = energy_j(power_w), EnergyAccount()
    for index in range(0, len(power_w), SAMPLES_A_READING):
        gpu.answer(
            nvmlDeviceGetFieldValues=f"0 186 0 {power_w[index] * 1e3:.0f}",
            nvmlDeviceGetTotalEnergyConsumption=f"0 {counter_j[index] * 1e3:.0f}" if has_counter else "3",
        )
        drawn_j, source = value(gpu.read(after_s=SAMPLES_A_READING * PERIOD_S), "energy_j")
        at_s = index * PERIOD_S
        ran_s = sum(busy_s[max(0, index - SAMPLES_A_READING) : index])
        account = account.follow(CounterReading(source, at_s, drawn_j), rates_of(ran_s, at_s))
        yield account


def test_shares_and_idle_equal_the_counter_of_a_recorded_gpu(gpu: FakeGpu) -> None:
    power_w, _ = recorded()
    counter_j = energy_j(power_w)
    for reading, account in enumerate(accounts(gpu, has_counter=True)):
        shared_j = account.idle_j + sum(account.models_j.values())
        assert shared_j == pytest.approx(counter_j[reading * SAMPLES_A_READING], rel=0.02)
    assert account.idle_w == pytest.approx(82.0, rel=0.01)
    above_j = counter_j[96] - 82.0 * 96 * PERIOD_S
    assert sum(account.models_j.values()) == pytest.approx(above_j, rel=0.02)
    assert 0 < account.models_j[FIRST] < account.models_j[SECOND] / 10


def test_power_read_each_second_makes_up_for_a_counter_that_is_missing(gpu: FakeGpu) -> None:
    *_, account = accounts(gpu, has_counter=False)
    assert account.last is not None
    assert account.last.source == "nvml-power-integrated"
    power_w, _ = recorded()
    of_counter_j = energy_j(power_w)[96]
    shared_j = account.idle_j + sum(account.models_j.values())
    assert shared_j == pytest.approx(of_counter_j, rel=0.05), "peaks between two readings are missed"
