"""A hold that stands: a learned policy does not decide again at every arrival what it has just decided.

While the head is the same, nothing has gained or lost room, the base policy has not changed its mind between sending
and holding, and the queue has not grown by half, what a hold was decided about is as it was, so it goes on until its
time. That saves scoring at every arrival; and it is what makes holds learnable: with one draw an arrival no long hold
would survive an exploring policy, so what it brings would never be seen.

What stands is remembered with what the base remembers, in slots of row WHOLE.

Whether a hold brings anybody is remembered as well. To wait for a batch to fill needs somebody to be expected before
the hold is over, by the rate of late and by what part of this policy's own holds was in vain, whatever they waited
for: a caller who waits for each answer before he asks again fills no batch however long he is made to wait, and a rate
alone would say otherwise of him.
"""

from __future__ import annotations

from typing import Final

from orchestrator.policies.learned.arrivals import quick_rps
from orchestrator.policies.tables import columns as col
from orchestrator.policies.tables.compiled import Column, Table, compiled
from orchestrator.policies.tables.layout import HOLD
from orchestrator.policies.tables.memory import WHOLE

_UNTIL_S: Final = 12  # 0: none stands
_HEAD_DEADLINE_S: Final = 13
_MOST_ITEMS: Final = 14
_ROOM: Final = 15
_ITEMS: Final = 23  # that waited when the hold began; 0: nothing is held
_VAIN: Final = 24
_GROWTH: Final = 1.5
_LATEST: Final = 0.25  # what the latest hold counts for
_FORGOTTEN: Final = 1 / 8192  # of it, with each decision to send at once


@compiled
def standing_hold(memory: Table, rows: Table, count: int, query: Column, base: Column) -> tuple[int, float, float]:
    """Return HOLD, no items and until when, where the last hold goes on; 0 in place of HOLD where none does.

    Where the base holds as well, its own time counts.
    """
    whole = memory[WHOLE]
    if query[col.NOW_S] >= whole[_UNTIL_S] or query[col.HEAD_DEADLINE_S] != whole[_HEAD_DEADLINE_S]:
        return 0, 0.0, 0.0
    if query[col.QUEUE_ITEMS] >= whole[_MOST_ITEMS] or _room(rows, count, base) != whole[_ROOM]:
        return 0, 0.0, 0.0
    return HOLD, 0.0, base[2] if base[0] == HOLD else whole[_UNTIL_S]


@compiled
def may_fill(lasts_s: float, memory: Table, query: Column) -> bool:
    """Return whether somebody is expected to join within so long; not when a hold has just brought the head nobody."""
    whole = memory[WHOLE]
    is_same = whole[_HEAD_DEADLINE_S] == query[col.HEAD_DEADLINE_S]
    if whole[_ITEMS] > 0 and is_same and query[col.QUEUE_ITEMS] <= whole[_ITEMS]:
        return False
    return quick_rps(memory) * lasts_s * (1 - whole[_VAIN]) >= 1


@compiled
def note_decision(
    row: int, until_s: float, memory: Table, rows: Table, count: int, query: Column, base: Column
) -> None:
    """Remember a hold that was decided, or that nothing is held."""
    whole = memory[WHOLE]
    is_same = whole[_HEAD_DEADLINE_S] == query[col.HEAD_DEADLINE_S]
    if row != HOLD:
        if whole[_ITEMS] == 0:
            whole[_VAIN] *= 1 - _FORGOTTEN
        elif is_same:
            is_vain = 1.0 if query[col.QUEUE_ITEMS] <= whole[_ITEMS] else 0.0
            whole[_VAIN] += _LATEST * (is_vain - whole[_VAIN])
        whole[_UNTIL_S] = whole[_ITEMS] = 0.0
        return
    if base[0] != HOLD and (whole[_ITEMS] == 0 or not is_same):  # what the base waits for it knows itself
        whole[_ITEMS] = query[col.QUEUE_ITEMS]
    whole[_UNTIL_S], whole[_HEAD_DEADLINE_S] = until_s, query[col.HEAD_DEADLINE_S]
    whole[_MOST_ITEMS] = 1 + _GROWTH * query[col.QUEUE_ITEMS]
    whole[_ROOM] = _room(rows, count, base)


@compiled
def _room(rows: Table, count: int, base: Column) -> float:
    """Return how many rows have room, and a half where the base holds."""
    found = 0.5 if base[0] < 0 else 0.0
    for row in range(count):
        found += rows[col.ROW_HAS_ROOM][row]
    return found
