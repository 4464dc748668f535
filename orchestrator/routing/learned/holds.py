"""A hold that stands: a learned policy is not asked again at every arrival what it has just decided.

While the head is the same, nothing has gained or lost room, the base policy has not changed its mind between sending
and holding, and the queue has not grown by half, what a hold was decided about is as it was, so it goes on until its
time. That saves scoring at every arrival; and it is what makes holds learnable: with one lot an arrival no long hold
would survive an exploring policy, so what it brings would never be seen.

What stands is remembered with what the base remembers, in the last slots of row WHOLE.
"""

from __future__ import annotations

from typing import Final

from orchestrator.routing.compiled import Column, Table, compiled
from orchestrator.routing.fields import HEAD_DEADLINE_S, HOLD, NOW_S, QUEUE_ITEMS, ROW_HAS_ROOM
from orchestrator.routing.memory import WHOLE

_UNTIL_S: Final = 12  # 0: none stands
_HEAD_DEADLINE_S: Final = 13
_MOST_ITEMS: Final = 14
_ROOM: Final = 15
_GROWTH: Final = 1.5


@compiled
def standing_hold(memory: Table, rows: Table, count: int, ask: Column, base: Column) -> tuple[int, float, float]:
    """Return HOLD, no items and until when, where the last hold goes on; 0 in place of HOLD where none does.

    Where the base holds as well, its own time counts.
    """
    whole = memory[WHOLE]
    if ask[NOW_S] >= whole[_UNTIL_S] or ask[HEAD_DEADLINE_S] != whole[_HEAD_DEADLINE_S]:
        return 0, 0.0, 0.0
    if ask[QUEUE_ITEMS] >= whole[_MOST_ITEMS] or _room(rows, count, base) != whole[_ROOM]:
        return 0, 0.0, 0.0
    return HOLD, 0.0, base[2] if base[0] == HOLD else whole[_UNTIL_S]


@compiled
def note_decision(row: int, until_s: float, memory: Table, rows: Table, count: int, ask: Column, base: Column) -> None:
    """Remember a hold that was decided, or that nothing is held."""
    whole = memory[WHOLE]
    if row != HOLD:
        whole[_UNTIL_S] = 0.0
        return
    whole[_UNTIL_S], whole[_HEAD_DEADLINE_S] = until_s, ask[HEAD_DEADLINE_S]
    whole[_MOST_ITEMS] = 1 + _GROWTH * ask[QUEUE_ITEMS]
    whole[_ROOM] = _room(rows, count, base)


@compiled
def _room(rows: Table, count: int, base: Column) -> float:
    """Return how many rows have room, and a half where the base holds."""
    found = 0.5 if base[0] < 0 else 0.0
    for row in range(count):
        found += rows[ROW_HAS_ROOM][row]
    return found
