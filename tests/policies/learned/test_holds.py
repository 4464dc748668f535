"""A hold that stands, and everything that ends it."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from orchestrator.policies.learned.memory import (
    end_hold_at,
    follow_arrivals,
    may_fill,
    note_decision,
    standing_hold,
)
from orchestrator.policies.tables import columns as col
from orchestrator.policies.tables.compiled import Column, Table, new_column, new_table
from orchestrator.policies.tables.layout import HOLD, REJECT
from orchestrator.policies.tables.memory import new_memory


class Held:
    """Two rows, one with room, and four items whose hold was decided at 1 s, until 2 s; the base would send."""

    def __init__(self) -> None:
        self.memory: Table = new_memory(1, 2)
        self.rows: Table = new_table(col.ROW_FIELDS, 2)
        self.query: Column = new_column(col.QUERY_FIELDS)
        self.base: Column = new_column(3)
        self.rows[col.ROW_HAS_ROOM][0] = 1.0
        self.query[col.NOW_S], self.query[col.QUEUE_ITEMS], self.query[col.HEAD_DEADLINE_S] = 1.0, 4.0, 3.0
        self.decide(HOLD, 2.0)

    def decide(self, row: int, until_s: float) -> None:
        """Let something be decided."""
        note_decision(row, until_s, self.memory, self.rows, 2, self.query, self.base)

    def stands(self) -> tuple[int, float, float]:
        """Return what goes on."""
        return standing_hold(self.memory, self.rows, 2, self.query, self.base)


def test_a_hold_goes_on_while_few_arrive() -> None:
    held = Held()
    held.query[col.NOW_S], held.query[col.QUEUE_ITEMS] = 1.9, 6.0
    assert held.stands() == (HOLD, 0.0, 2.0)


def test_a_hold_for_a_batch_ends_when_that_many_wait() -> None:
    held = Held()
    end_hold_at(9.0, held.memory)
    held.query[col.QUEUE_ITEMS] = 8.0
    assert held.stands() == (HOLD, 0.0, 2.0)
    held.query[col.QUEUE_ITEMS] = 9.0
    assert held.stands()[0] != HOLD


def _passes(held: Held) -> None:
    held.query[col.NOW_S] = 2.0


def _grows(held: Held) -> None:
    held.query[col.QUEUE_ITEMS] = 7.0


def _changes_head(held: Held) -> None:
    held.query[col.HEAD_DEADLINE_S] = 2.5


def _gains_room(held: Held) -> None:
    held.rows[col.ROW_HAS_ROOM][1] = 1.0


def _base_holds(held: Held) -> None:
    held.base[0] = HOLD


def _base_rejects(held: Held) -> None:
    held.base[0] = REJECT


def _sends(held: Held) -> None:
    held.decide(0, 0.0)


def _rejects(held: Held) -> None:
    held.decide(REJECT, 0.0)


@pytest.mark.parametrize(
    "change",
    [_passes, _grows, _changes_head, _gains_room, _base_holds, _base_rejects, _sends, _rejects],
    ids=lambda c: c.__name__,
)
def test_it_ends_when_anything_else_happens(change: Callable[[Held], None]) -> None:
    held = Held()
    change(held)
    assert held.stands()[0] != HOLD


def test_it_goes_on_when_another_class_is_sent_in_between() -> None:
    held = Held()
    held.query[col.HEAD_DEADLINE_S] = 2.5
    held.decide(0, 0.0)
    held.query[col.HEAD_DEADLINE_S] = 3.0
    assert held.stands() == (HOLD, 0.0, 2.0)


def test_where_the_base_holds_as_well_its_own_time_counts() -> None:
    held = Held()
    held.base[0], held.base[2] = HOLD, 1.5
    held.decide(HOLD, 2.0)
    assert held.stands() == (HOLD, 0.0, 1.5)
    held.base[2] = 2.5  # it has moved its time on; whoever waits for the hold is to be asked again when it ends
    assert held.stands() == (HOLD, 0.0, 2.0)


def test_nothing_stands_before_anything_was_decided() -> None:
    held = Held()
    held.memory = new_memory(1, 2)
    assert held.stands()[0] != HOLD


def arrivals(held: Held, *, rate_rps: float) -> None:
    """Let a steady stream arrive until 1 s."""
    query = new_column(col.QUERY_FIELDS)
    for number in range(int(10 * rate_rps)):
        query[col.NOW_S] = 1 - 10 + number / rate_rps
        query[col.ARRIVED_ITEMS] = 1.0 + number
        query[col.HEAD_ARRIVED_S], query[col.HEAD_DEADLINE_S] = query[col.NOW_S], query[col.NOW_S] + 2
        follow_arrivals(held.memory, query)


def test_a_batch_is_waited_for_only_when_somebody_is_expected() -> None:
    held = Held()
    held.memory = new_memory(1, 2)
    arrivals(held, rate_rps=20)
    assert may_fill(0.06, held.memory, held.query)  # 1.2 of 20 a second
    assert not may_fill(0.04, held.memory, held.query)


def test_a_hold_that_brought_nobody_is_not_repeated_for_the_same_head() -> None:
    held = Held()
    arrivals(held, rate_rps=20)
    held.query[col.NOW_S] = 2.0
    assert not may_fill(0.5, held.memory, held.query)
    held.query[col.QUEUE_ITEMS] = 5.0
    assert may_fill(0.5, held.memory, held.query)


def test_who_waits_in_vain_again_and_again_is_held_no_more_until_that_is_long_ago() -> None:
    held = Held()
    arrivals(held, rate_rps=20)

    def call(joined: float) -> None:
        held.query[col.QUEUE_ITEMS] = 4.0
        held.decide(HOLD, 2.0)
        held.query[col.QUEUE_ITEMS] += joined
        held.decide(0, 0.0)

    for _ in range(12):
        call(0.0)
    assert not may_fill(1.0, held.memory, held.query)  # 20 would join by the rate
    for _ in range(3):
        call(1.0)
    assert may_fill(1.0, held.memory, held.query)
    for _ in range(12):
        call(0.0)
    for _ in range(3000):
        held.decide(0, 0.0)
    assert may_fill(1.0, held.memory, held.query)


def test_what_was_in_vain_is_forgotten_too_when_the_last_head_that_was_held_has_gone_by_another_way() -> None:
    held = Held()
    arrivals(held, rate_rps=20)
    for number in range(12):
        held.query[col.HEAD_DEADLINE_S] = 3.0 + number
        held.decide(HOLD, 2.0)
        held.decide(0, 0.0)
    held.query[col.HEAD_DEADLINE_S] = 20.0
    held.decide(HOLD, 2.0)
    held.query[col.HEAD_DEADLINE_S] = 21.0  # that head was shed, or went along with a more urgent one
    assert not may_fill(1.0, held.memory, held.query)
    for _ in range(3000):
        held.decide(0, 0.0)
    assert may_fill(1.0, held.memory, held.query)
