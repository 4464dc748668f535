"""Every set-up gets every load in each round, and none is always the first."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import pytest

from orchestrator.loadgen.comparison import turns
from orchestrator.loadgen.plan import Load
from orchestrator.loadgen.target import SetUp

LOADS = [Load("steady", rate_rps, 1.0, 0.1, seed=7) for rate_rps in (100.0, 200.0, 300.0)]


def set_ups(count: int) -> list[SetUp]:
    """Return set-ups that nobody asks."""
    return [SetUp(str(number), None) for number in range(count)]  # type: ignore[arg-type]


def test_everybody_gets_each_load_once_a_round_with_the_same_arrivals() -> None:
    order = turns(set_ups(2), LOADS, 2)
    seen = Counter((number, load.rate_rps, load.seed, set_up.name) for number, load, set_up in order)
    assert seen == Counter((n, load.rate_rps, 7 + n, name) for n in (0, 1) for load in LOADS for name in ("0", "1"))


def test_each_goes_first_equally_often() -> None:
    order = list(turns(set_ups(3), LOADS, 2))
    assert Counter(set_up.name for _, _, set_up in order[::3]) == {"0": 2, "1": 2, "2": 2}


@pytest.mark.parametrize(("count", "loads"), [(2, 2), (3, 6), (4, 4), (5, 10), (10, 10), (11, 22)])
def test_each_comes_as_often_after_every_other_one(count: int, loads: int) -> None:
    order = [set_up.name for _, _, set_up in turns(set_ups(count), LOADS[:1] * loads, 1)]
    rows = [order[at : at + count] for at in range(0, len(order), count)]
    follows = Counter(pair for row in rows for pair in pairwise(row))
    assert len(follows) == count * (count - 1)
    assert set(follows.values()) == {loads // count}
    assert {row[0] for row in rows} == set(order)


def test_who_goes_first_can_be_told_where_loads_come_one_by_one() -> None:
    firsts = [next(turns(set_ups(3), LOADS[:1], 1, first=cell))[2].name for cell in range(4)]
    assert firsts == ["0", "1", "2", "0"]
