"""What waits is spread over the batches a server may be sent, where that keeps it from idling."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.router.dispatch.batch import part_of
from tests.fakes.servers import FakeServer, item
from tests.router.test_router import right, routed


@pytest.mark.parametrize(
    ("waiting", "free", "per_item_s", "fixed_s", "expected"),
    [
        (32, 4, 0.0001, 0.0001, 8),
        (32, 2, 0.0001, 0.0001, 16),
        (33, 2, 0.0001, 0.0001, 17),
        (32, 1, 0.0001, 0.0001, 32),
        (12, 4, 0.0001, 0.0001, 8),  # no part is smaller
        (5, 4, 0.0001, 0.0001, 5),
        (32, 4, 0.0001, 0.0012, 12),  # nor one that costs more as a batch than for its items
        (32, 4, 0.00001, 0.001, 32),
        (32, 4, 0.001, 0.001, 32),  # it takes long enough as it is
        (32, 4, 0.0, 0.001, 32),  # nothing is known
    ],
)
def test_what_waits_is_split_evenly_over_the_batches_that_are_free_only_where_that_pays(
    waiting: int, free: int, per_item_s: float, fixed_s: float, expected: int
) -> None:
    assert part_of(waiting, free, per_item_s, fixed_s) == expected


@given(st.integers(1, 500), st.integers(1, 8), st.floats(0, 0.01), st.floats(0, 0.01))
def test_parts_fill_the_room_there_is_and_hold_something(
    waiting: int, free: int, per_item_s: float, fixed_s: float
) -> None:
    part = part_of(waiting, free, per_item_s, fixed_s)
    assert 1 <= part <= waiting
    assert part * free >= waiting


@pytest.mark.virtual_time
@pytest.mark.parametrize(("per_item_s", "batches"), [(0.0002, [8, 8, 8, 8]), (0.01, [32])])
async def test_callers_that_come_together_are_spread_where_batches_are_short(
    per_item_s: float, batches: list[int]
) -> None:
    server = FakeServer((100,), per_item_s=per_item_s, fixed_s=0.0001)
    async with routed({"a": server}, policy="lert", deadline_ms=10_000) as router:
        answers = await asyncio.gather(*(router.infer(item(n)) for n in range(32)))
    assert all(right(answer, n) for n, answer in enumerate(answers))
    assert [items for _, items in server.batches] == batches
