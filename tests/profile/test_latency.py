from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.profile.fit import FADED_WEIGHT, LatencyFit, LatencyTable, Run, faded_sums, fitted_line, merge_runs
from orchestrator.snapshot import ServerName
from tests.fakes.servers import served_model

A = ServerName("a")
sizes = st.lists(st.integers(1, 64), min_size=2, max_size=30).filter(lambda ns: ns[0] != ns[1])


def fit(observations: list[tuple[int, float]]) -> LatencyFit:
    result = LatencyFit()
    for items, service_s in observations:
        result = result.observe(items, service_s)
    return result


@given(sizes, st.floats(1e-4, 0.1), st.floats(1e-4, 0.1))
def test_a_straight_line_is_found_exactly(ns: list[int], slope_s: float, fixed_s: float) -> None:
    found = fit([(n, slope_s * n + fixed_s) for n in ns]).line()
    assert found == pytest.approx((slope_s, fixed_s), rel=1e-4, abs=1e-7)


@given(st.lists(st.tuples(st.integers(1, 64), st.floats(0, 1)), min_size=1, max_size=30))
def test_neither_part_is_ever_negative(observations: list[tuple[int, float]]) -> None:
    slope_s, fixed_s = fit(observations).line()
    assert slope_s >= 0
    assert fixed_s >= 0


def test_nothing_observed_is_instant() -> None:
    assert LatencyFit().line() == (0, 0)


def test_batches_of_one_size_lay_the_time_on_the_items_where_nothing_else_is_known() -> None:
    assert fit([(4, 0.2), (4, 0.2)]).line() == pytest.approx((0.05, 0))


def after_equal_ones(odd: int, stalled: float, slower: float = 1.0) -> LatencyFit:
    """Return what began with START, after 60 batches of 64 items and one of ``odd``, which took longer than they."""
    found = fit([(n, START[0] * n + START[1]) for n in (1, 8) * 10]).begun()
    for items, times in [*[(64, 1.0)] * 60, (odd, stalled)]:
        found = found.observe(items, slower * times * (START[0] * items + START[1]))
    return found


@given(st.floats(0.5, 5.0), st.integers(40, 60), st.floats(1.0, 1.7))
def test_an_odd_batch_among_equal_ones_says_little_of_what_a_single_item_takes(
    slower: float, odd: int, stalled: float
) -> None:
    assert sum(after_equal_ones(odd, stalled, slower).line()) < 6 * slower * sum(START)


def test_without_a_start_an_odd_batch_makes_a_server_look_too_slow_for_single_items() -> None:
    found = after_equal_ones(50, 1.6)
    assert sum(fitted_line(*found.sums, (0.0, 0.0))) > 10 * sum(START)
    assert sum(found.line()) < 5 * sum(START)


def test_falling_times_are_a_constant_and_a_negative_start_is_none() -> None:
    slope_s, fixed_s = fit([(1, 0.2), (8, 0.1)]).line()
    assert slope_s == 0
    assert 0.1 < fixed_s < 0.2
    slope_s, fixed_s = fit([(1, 0.01), (8, 0.8)]).line()
    assert fixed_s == 0
    assert 0.09 < slope_s < 0.1


def test_one_stall_does_not_make_a_server_look_slow_for_good_but_being_slow_does() -> None:
    usual = [(n, 0.01 * n) for n in (1, 8)] * 20
    slope_s, fixed_s = fit([*usual, (8, 5.0)]).line()
    assert slope_s * 8 + fixed_s < 0.11
    assert fit([*usual, *[(n, 0.5 * n) for n in (1, 8)] * 60]).line() == pytest.approx((0.5, 0), rel=0.2, abs=0.1)


def test_a_machine_that_throttles_is_noticed() -> None:
    before = [(n, 0.01 * n + 0.002) for n in (1, 8)] * 50
    after = [(n, 0.02 * n + 0.004) for n in (1, 8)] * 30
    assert fit(before + after).line() == pytest.approx((0.02, 0.004), rel=0.1)


START = (0.01, 0.002)


def slowed(times: float, batches: int = 30) -> LatencyFit:
    """Return what was last observed at 0 s and began with START, after so many batches of some times as long."""
    found = fit([(n, START[0] * n + START[1]) for n in (1, 8) * 10]).begun()
    for _ in range(batches):
        for items in (1, 8):
            found = found.observe(items, times * (START[0] * items + START[1]), now_s=0.0)
    return found


def test_what_looks_slower_than_at_the_start_goes_back_there_while_nothing_is_observed() -> None:
    for times, later in ((3.0, 1.73), (1.5, 1.41)):
        slow = slowed(times)
        assert slow.line() == pytest.approx((times * START[0], times * START[1]), rel=0.1)
        faded = slow.fade(now_s=120.0, since_s=-1.0)
        assert faded.line() == pytest.approx((later * START[0], later * START[1]), rel=0.03)
        assert slow.fade(now_s=144_000.0, since_s=-1.0).line() == pytest.approx(START, rel=0.05)


def test_what_looks_quicker_than_at_the_start_or_was_just_observed_does_not_fade() -> None:
    for fits in (slowed(0.5), LatencyFit(), fit([(4, 0.2)])):
        assert fits.fade(now_s=1e3, since_s=-1.0) is fits
    slow = slowed(4.0)
    assert slow.fade(now_s=0.0, since_s=-1.0) is slow


def test_what_has_faded_is_soon_known_to_be_slow_where_it_is() -> None:
    found, slow_s = slowed(4.0).fade(now_s=3000.0, since_s=-1.0), 4 * (START[0] * 8 + START[1])
    assert found.weight == pytest.approx(FADED_WEIGHT)
    for _ in range(4):
        found = found.observe(8, slow_s, now_s=3000.0)
    slope_s, fixed_s = found.line()
    assert slope_s * 8 + fixed_s > 0.6 * slow_s


@given(st.floats(1.01, 50), st.floats(0, 40), st.floats(0, 40), st.floats(0.5, 30))
def test_to_fade_in_two_steps_is_to_fade_at_once(times: float, first_s: float, then_s: float, weight: float) -> None:
    sums = (weight, 4.5 * weight, 30.0 * weight, times * 0.047 * weight, times * 0.3 * weight)
    apart = faded_sums(faded_sums(sums, START, first_s), START, then_s)
    assert apart == pytest.approx(faded_sums(sums, START, first_s + then_s), rel=1e-6)


def test_a_model_begins_with_its_first_two_batches_or_with_its_profile() -> None:
    assert fit([(1, 0.012), (8, 0.082), (8, 0.5)]).start == pytest.approx(START)
    table = LatencyTable().start(A, served_model(100).name, fit([(1, 0.012), (8, 0.082)] * 5))
    assert table.fits[A, served_model(100).name].start == pytest.approx(START)


def test_a_width_never_seen_is_scaled_from_the_nearest_one_by_flops_or_else_by_its_square() -> None:
    models = (served_model(25), served_model(50), served_model(100))
    table = LatencyTable().observe(A, models[1].name, 1, 0.012).observe(A, models[2].name, 1, 0.045)
    assert table.line(A, models[0], models) == pytest.approx((0.003, 0))
    plain = tuple(type(m)(**{**{f: getattr(m, f) for f in m.__slots__}, "flops": None}) for m in models)
    assert table.line(A, plain[0], plain) == pytest.approx((0.003, 0))


def test_the_table_keeps_servers_and_widths_apart() -> None:
    models = (served_model(100),)
    table = LatencyTable().observe(A, models[0].name, 1, 0.5)
    assert table.line(ServerName("b"), models[0], models) == (0, 0)
    assert LatencyTable().fits == {}


def run(items: int, began_s: float, ended_s: float, width: int = 100) -> Run:
    return Run(served_model(width).name, items, began_s, ended_s)


def test_answers_that_come_together_are_one_run_of_all_their_items() -> None:
    merged = merge_runs(run(8, 0.0, 0.045), run(14, 0.045, 0.0451), later_sent_s=0.01)
    assert merged == run(22, 0.0, 0.0451)
    assert merged is not None
    assert merge_runs(merged, run(2, 0.0451, 0.0453), later_sent_s=0.02) == run(24, 0.0, 0.0453)


@pytest.mark.parametrize(
    ("later", "later_sent_s"),
    [
        (run(14, 0.045, 0.060), 0.01),  # one after the other
        (run(14, 0.045, 0.0451, width=50), 0.01),  # another model, which Triton never joins
        (run(14, 0.0451, 0.0452), 0.0451),  # sent when the first was answered already
    ],
)
def test_other_answers_are_runs_of_their_own(later: Run, later_sent_s: float) -> None:
    assert merge_runs(run(8, 0.0, 0.045), later, later_sent_s=later_sent_s) is None
