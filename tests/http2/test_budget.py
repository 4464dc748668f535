"""The least rate at which what is held has to get on."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.http2.budget import time_bought_s

MIB = 2**20


@pytest.mark.parametrize(
    ("size_bytes", "held_bytes", "stall_s", "bought_s"),
    [
        (1024, 0, 30.0, 1.0),
        (2048, MIB, 30.0, 2.0),
        (MIB, 64 * MIB, 30.0, 30.0),
        (1024, 64 * MIB, 30.0, 30.0 / 1024),
        (0, MIB, 30.0, 0.0),
    ],
)
def test_a_piece_buys_time_and_less_where_much_is_held(
    size_bytes: int, held_bytes: int, stall_s: float, bought_s: float
) -> None:
    assert time_bought_s(size_bytes, held_bytes, stall_s) == pytest.approx(bought_s)


@given(st.integers(1, 10**8), st.integers(0, 10**8), st.floats(0.1, 100.0), st.integers(1, 8))
def test_no_way_to_cut_a_piece_buys_more(size_bytes: int, held_bytes: int, stall_s: float, parts: int) -> None:
    whole_s = time_bought_s(size_bytes * parts, held_bytes, stall_s)
    assert parts * time_bought_s(size_bytes, held_bytes, stall_s) == pytest.approx(whole_s)
