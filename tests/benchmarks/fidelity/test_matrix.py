"""The runs on real servers held against virtual time: errors, ranks, and a run that is simulated."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from benchmarks.fidelity.matrix import (
    Figures,
    Pair,
    describe_repeats,
    draw_claims,
    draw_lateness_s,
    make_page,
    real_figures,
    simulate,
)
from benchmarks.real.cells import FLEETS, Cell
from benchmarks.real.results import Line
from orchestrator.simulation.scenario.fleet import SimulatedServer, linear_model

CELL = Cell("two unlike", 0, "steady", 0.6, 0.1)


def line(set_up: str = "default", *, in_time: float = 1.0, rate_rps: float = 200.0) -> Line:
    widths = {"25": 0.25, "100": 0.75}
    return Line(CELL, 0, set_up, rate_rps, 0.9, in_time, 0.0, 0.0, 0.9, 0.01, 0.02, 0.0, widths, 0.0, 0, 0, 0.1)


def pair(policy: str, real: float, simulated: float, *, slower: float = 1.0) -> Pair:
    return Pair(CELL, 0, policy, Figures(real, 0.01, 0.02), Figures(simulated, 0.01 * slower, 0.02 * slower))


def test_answers_in_time_count_for_what_their_widths_are_on_average() -> None:
    found = real_figures(line(in_time=0.8), {25: 0.9, 100: 0.94})
    assert found == Figures(pytest.approx(0.8 * 0.93), 0.01, 0.02)
    assert real_figures(line(in_time=0.005), {25: 0.9, 100: 0.94}).p99_s is None  # of next to no answers


def test_what_is_the_same_meets_every_bar() -> None:
    pairs = [pair("default", 0.94, 0.94), pair("thrift", 0.8, 0.81), pair("lert:25", 0.6, 0.6)]
    claims = draw_claims(pairs)
    assert [claim.value for claim in claims] == [100, 100, 100, 1.0]
    assert all(claim.is_met for claim in claims)


def test_errors_ranks_and_ties_are_told_apart() -> None:
    pairs = [pair("default", 0.94, 0.90), pair("thrift", 0.8, 0.92, slower=1.1), pair("lert:25", 0.798, 0.6)]
    right, mean, p99, tau = draw_claims(pairs)
    assert right.value == 0  # 4, 12 and 20 points
    assert (mean.value, p99.value) == (pytest.approx(200 / 3), 100)  # 10 % is too much of a mean
    assert tau.value == 0  # one of two pairs is turned round; thrift and lert:25 are a tie on the real side
    page = list(make_page(pairs, [right, mean, p99, tau], {}))
    assert "80.0 → 92.0" in str(page)


def test_how_alike_two_real_runs_are_is_said_where_there_were_two() -> None:
    first = [pair("default", 0.94, 0.94), pair("thrift", 0.8, 0.8), pair("lert:25", 0.6, 0.6)]
    assert describe_repeats(first) == ""
    again = [replace(first[0], round=1), replace(first[1], round=1, real=Figures(0.7, 0.0107, 0.021))]
    assert describe_repeats([*first, *again]) == (
        "Two runs of the same on the real servers are within 3 points in 50 %, within 5 % of the mean in 50 %, within "
        "15 % of the p99 in 100 % of 2 cells and policies."
    )


def linear_fleet() -> list[SimulatedServer]:
    """Return the servers of the cell's fleet; at full width they answer some 650 and 220 items a second."""
    return [
        SimulatedServer(f"s{number}", tuple(
            linear_model(width, per_item_s=slow * width * 4e-6, fixed_s=slow * 3e-4, max_batch_size=64, accuracy=0.9)
            for width in (25, 100)
        ))
        for number, slow in enumerate(FLEETS[CELL.fleet])
    ]  # fmt: skip


@pytest.mark.parametrize(("rate_rps", "is_light"), [(150.0, True), (4000.0, False)])
def test_a_fleet_that_is_asked_for_more_than_it_can_answers_less(rate_rps: float, is_light: bool) -> None:
    found = simulate(line("always 100 %", rate_rps=rate_rps), linear_fleet(), seconds=2.0)
    assert (found.right > 0.89) == is_light


def test_who_asks_for_a_width_is_not_kept_waiting_for_a_narrower_one() -> None:
    """At twice what the fleet answers at that width nearly half is answered in time; all at the narrow one."""
    pinned = simulate(line("always 100 %", rate_rps=1740.0), linear_fleet(), seconds=2.0)
    free = simulate(line("default", rate_rps=1740.0), linear_fleet(), seconds=2.0)
    assert 0.9 * 0.4 < pinned.right < 0.9 * 0.55
    assert free.right > 0.9 * 0.95


def test_callers_who_are_late_wait_for_longer_since_they_were_due() -> None:
    on_time = simulate(line("always 25 %", rate_rps=150.0), linear_fleet(), seconds=2.0)
    late = simulate(replace(line("always 25 %", rate_rps=150.0), sender_mean_late_s=0.05), linear_fleet(), seconds=2.0)
    assert on_time.mean_s is not None and late.mean_s == pytest.approx(on_time.mean_s + 0.05)


def test_callers_are_as_late_as_the_real_ones_on_average_and_at_the_99th_percentile() -> None:
    found = draw_lateness_s(replace(line("always 25 %"), sender_mean_late_s=6e-4, sender_late_s=1.5e-3), 100_000)
    assert found.mean() == pytest.approx(6e-4, rel=0.01)
    assert np.quantile(found, 0.99) == pytest.approx(1.5e-3, rel=0.02)
    assert (draw_lateness_s(replace(line("always 25 %"), sender_mean_late_s=0.0), 10) == 0).all()


def test_requests_of_a_metronome_meet_where_callers_are_not_equally_late() -> None:
    """The quicker server takes almost as long for one request as the next one takes to come."""
    metronome = replace(line("always 100 %", rate_rps=340.0), sender_mean_late_s=6e-4, sender_late_s=6e-4)
    equally = simulate(metronome, linear_fleet(), seconds=2.0)
    unequally = simulate(replace(metronome, sender_late_s=1.5e-3), linear_fleet(), seconds=2.0)
    assert equally.mean_s is not None and unequally.mean_s is not None
    assert unequally.mean_s > 1.1 * equally.mean_s
