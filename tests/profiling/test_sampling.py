from __future__ import annotations

import math
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.profiling.sampling import Cell, Sampling, Visit, is_settled, plan_round, precision, quantile
from orchestrator.snapshot import ModelName
from tests.profiling.worlds import A, B

SAMPLING = Sampling(min_visits=4, min_requests=8, max_requests=40, cell_limit_s=100.0, precision_ratio=0.1)
CELLS = tuple(Cell(server, ModelName("m"), items) for server in (A, B) for items in (1, 2, 4, 8))


def visits(*means_s: float, requests: int = 2) -> list[Visit]:
    return [Visit((mean_s,) * requests) for mean_s in means_s]


@pytest.mark.parametrize(
    ("made", "settled"),
    [
        (visits(1, 1, 1), False),  # too few visits, however alike
        (visits(1, 1, 1, 1, requests=1), False),  # too few requests
        (visits(1, 1, 1, 1), True),
        (visits(1, 2, 1, 2), False),  # they differ too much
        (visits(*[1, 2] * 10), True),  # and never will agree: the cap ends it
        (visits(20, 40, 20, 40), True),  # so does the time
    ],
)
def test_a_cell_is_settled_by_agreement_or_by_a_cap(made: list[Visit], settled: bool) -> None:
    assert is_settled(made, SAMPLING) is settled


def test_the_interval_is_students_over_the_means_of_visits() -> None:
    means_s = [1.0, 1.2, 0.9, 1.1, 1.3]
    expected = 2.776 * statistics.stdev(means_s) / math.sqrt(5) / statistics.mean(means_s)
    assert precision(visits(*means_s)) == pytest.approx(expected, rel=0.01)
    assert precision(visits(1.0)) == math.inf


@given(st.integers(0, 5), st.dictionaries(st.sampled_from(CELLS), st.integers(0, 6)))
def test_a_round_visits_each_unsettled_cell_that_it_has_not_seen_in_an_order_of_the_seed(
    seed: int, counts: dict[Cell, int]
) -> None:
    made = {cell: visits(*[1.0, 2.0] * 3)[:count] for cell, count in counts.items()}
    sampling = Sampling(seed=seed, min_visits=4, min_requests=8)
    number, order = plan_round(CELLS, made, sampling)
    assert order
    assert len(set(order)) == len(order)
    assert set(order) == {cell for cell in CELLS if len(made.get(cell, ())) == number - 1}
    assert plan_round(reversed(CELLS), made, sampling) == (number, order)


def test_an_interrupted_round_goes_on_where_it_was() -> None:
    _, order = plan_round(CELLS, {}, SAMPLING)
    assert plan_round(CELLS, {cell: visits(1.0) for cell in order[:3]}, SAMPLING) == (1, order[3:])


def test_rounds_differ_and_settled_cells_are_left_alone() -> None:
    once = {cell: visits(1.0) for cell in CELLS}
    assert plan_round(CELLS, once, SAMPLING)[1] != plan_round(CELLS, {}, SAMPLING)[1]
    settled = {cell: visits(1, 1, 1, 1) for cell in CELLS}
    assert plan_round(CELLS, settled, SAMPLING) == (0, ())
    assert plan_round(CELLS, {**settled, CELLS[0]: []}, SAMPLING) == (1, (CELLS[0],))


@pytest.mark.parametrize(("ratio", "value"), [(0.5, 50), (0.99, 99), (1.0, 100), (0.0, 1)])
def test_quantiles_are_values_that_were_seen(ratio: float, value: float) -> None:
    assert quantile([float(each) for each in range(100, 0, -1)], ratio) == value
