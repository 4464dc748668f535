"""What has arrived of late: how a learned policy tells a quiet hour from a busy one, and a steady stream from bursts.

Of the queue alone it could tell neither, and what is right depends on both: whether a batch will fill while the head
waits, and how much of the fleet must be kept for what is to come. Two rates are followed, one that forgets with each
deadline and one with each eight; for T either time, at each decision,

    N ← N·exp(−Δ/T) + arrived,    D ← T − (T − D)·exp(−Δ/T),    rate = N/D,

so a rate needs no window and is nearly right from its first deadline on; D begins at a fifth of T, or two requests that
happen to come together would begin it as a crowd. Times are in deadlines of the head, so on machines of any speed the
numbers mean the same. Kept in slots of row WHOLE of the memory.

What arrived is what the queue has grown by since the last decision, beyond what that one left, so rates are right where
one queue is decided about and what is decided is done. Too high, by half or so, they are where several queues of a
family share a memory (floors of accuracy and pinned widths keep requests apart), where a burst is sent in parts to
several servers at once, and in the shadow of another policy; too low for some deadlines after the guard's fallback has
decided.
"""

from __future__ import annotations

import math
from typing import Final

from orchestrator.policies.rules.batch_rules import objective_s
from orchestrator.policies.tables import columns as col
from orchestrator.policies.tables.compiled import Column, Table, compiled
from orchestrator.policies.tables.memory import WHOLE

_SEEN_S: Final = 16  # slots of row WHOLE
_LEFT_ITEMS: Final = 17
_QUICK_ITEMS: Final = 18
_QUICK_S: Final = 19  # 0: nothing was seen yet
_SLOW_ITEMS: Final = 20
_SLOW_S: Final = 21
_SWING: Final = 22
_SLOWER: Final = 8.0
_HELD: Final = 0.2
_LEAST_S: Final = 1e-9


@compiled
def follow_arrivals(memory: Table, query: Column) -> None:
    """Bring the rates up to date; to be called first in each decision."""
    whole, now_s, queued = memory[WHOLE], query[col.NOW_S], query[col.QUEUE_ITEMS]
    quick_s = max(_LEAST_S, objective_s(query))
    if whole[_QUICK_S] == 0:
        whole[_QUICK_S], whole[_SLOW_S] = _HELD * quick_s, _HELD * _SLOWER * quick_s
    else:
        passed_s, arrived = max(0.0, now_s - whole[_SEEN_S]), max(0.0, queued - whole[_LEFT_ITEMS])
        quick, slow = math.exp(-passed_s / quick_s), math.exp(-passed_s / (_SLOWER * quick_s))
        whole[_QUICK_ITEMS] = whole[_QUICK_ITEMS] * quick + arrived
        whole[_QUICK_S] = quick_s - (quick_s - whole[_QUICK_S]) * quick
        whole[_SLOW_ITEMS] = whole[_SLOW_ITEMS] * slow + arrived
        whole[_SLOW_S] = _SLOWER * quick_s - (_SLOWER * quick_s - whole[_SLOW_S]) * slow
        slow_of_late_rps = slow_rps(memory)
        departure = quick_rps(memory) / slow_of_late_rps - 1 if slow_of_late_rps > 0 else 0.0
        whole[_SWING] += (1 - slow) * (departure * departure - whole[_SWING])
    whole[_SEEN_S], whole[_LEFT_ITEMS] = now_s, queued


@compiled
def note_leaving(row: int, items: float, memory: Table) -> None:
    """Take into account what a decision sends, if it does; to be called last in each."""
    if row >= 0:
        memory[WHOLE][_LEFT_ITEMS] = max(0.0, memory[WHOLE][_LEFT_ITEMS] - items)


@compiled
def quick_rps(memory: Table) -> float:
    """Return how many items a second arrived in the last deadline or so."""
    held_s = memory[WHOLE][_QUICK_S]
    return memory[WHOLE][_QUICK_ITEMS] / held_s if held_s > 0 else 0.0


@compiled
def slow_rps(memory: Table) -> float:
    """Return how many items a second arrived in the last eight deadlines or so."""
    held_s = memory[WHOLE][_SLOW_S]
    return memory[WHOLE][_SLOW_ITEMS] / held_s if held_s > 0 else 0.0


@compiled
def swing(memory: Table) -> float:
    """Return the mean square by which the quick rate departs from the slow one, relative to that."""
    return max(0.0, memory[WHOLE][_SWING])
