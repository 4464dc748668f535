from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.profile.document import EnergySource
from orchestrator.profile.fit import fit_energy, fit_latency, fit_line
from tests.profile.profiles import model_profile

LADDER = (1, 2, 4, 8, 16, 32)


@given(st.floats(1e-5, 0.1), st.floats(1e-5, 0.1))
def test_a_line_is_found_and_predicts_what_was_held_out(per_item_s: float, fixed_s: float) -> None:
    line = fit_latency([(n, per_item_s * n + fixed_s) for n in LADDER])
    assert (line.per_item_s, line.fixed_s) == pytest.approx((per_item_s, fixed_s), rel=1e-3)
    assert line.held_out == (2, 8, 32)
    assert line.held_out_error_ratio == pytest.approx(0, abs=1e-4)


def test_the_error_is_that_of_the_half_that_was_not_seen() -> None:
    # 1 and 4 lie on n + 1; that line says 3 at 2, where 6 was measured: half of it is missing.
    line = fit_latency([(1, 2.0), (2, 6.0), (4, 5.0)])
    assert line.held_out == (2,)
    assert line.held_out_error_ratio == pytest.approx(0.5)


def test_too_few_sizes_hold_none_out() -> None:
    assert fit_latency([(1, 2.0), (2, 3.0)]).held_out_error_ratio is None


@given(st.lists(st.floats(1e-4, 10), min_size=6, max_size=6))
def test_no_line_is_negative(values: list[float]) -> None:
    item, batch = fit_line(list(zip(LADDER, values, strict=True)))
    assert item >= 0
    assert batch >= 0


def test_small_batches_count_as_much_as_large_ones() -> None:
    points = [(1, 0.010), (32, 0.100), (64, 0.400)]  # no line fits; unweighted, the largest would decide
    per_item_s, fixed_s = fit_line(points)
    assert abs(per_item_s + fixed_s - 0.010) / 0.010 < 0.5


def test_energy_is_fitted_when_all_of_it_is_known_and_of_one_source() -> None:
    model = model_profile(50, per_item_j=0.2, fixed_j=0.7)
    line = fit_energy(model.batches)
    assert line is not None
    assert (line.per_item_j, line.fixed_j) == pytest.approx((0.2, 0.7))
    assert line.source is EnergySource.ESTIMATED
    first, *rest = model.batches
    assert fit_energy([replace(first, energy_source=EnergySource.RAPL), *rest]) is None
    assert fit_energy([replace(first, energy_j=None, energy_source=None), *rest]) is None
    assert fit_energy(model_profile(50, per_item_j=None).batches) is None
    assert fit_line([(1, 0.0), (2, 0.0)]) == (0, 0)
