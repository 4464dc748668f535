"""How many items a second arrive, as a policy can infer from what it is asked.

Over a window what arrived is what was sent plus what the queue has grown by; the rate is a mean of windows in which
each counts half as much as the next (an EWMA, as Proteus keeps of its demand). The first windows are short and double
from FIRST_WINDOW_S on, so that a policy that plans by the rate does not run blind for its first whole window.
"""

from __future__ import annotations

from typing import Final

from orchestrator.policies.tables import columns as col
from orchestrator.policies.tables.compiled import Column, Table, compiled
from orchestrator.policies.tables.memory import WHOLE

RATE_RPS: Final = 1  # slots of row WHOLE
SENT_ITEMS: Final = 2  # in this window
QUEUED_ITEMS: Final = 3  # when it began
BEGAN_S: Final = 4
WINDOWS: Final = 5  # begun so far
FREE_SLOT: Final = 6
"""The first that whoever uses this may use for something else."""

FIRST_WINDOW_S: Final = 0.05
_LATEST: Final = 0.5


@compiled
def follow_demand(window_s: float, memory: Table, query: Column) -> bool:
    """Bring the rate up to date, to be called first in a decision; return whether a window has just ended."""
    whole, now_s = memory[WHOLE], query[col.NOW_S]
    if whole[WINDOWS] == 0:
        whole[WINDOWS], whole[BEGAN_S], whole[QUEUED_ITEMS] = 1.0, now_s, query[col.QUEUE_ITEMS]
        return False
    lasted_s = now_s - whole[BEGAN_S]
    if lasted_s < min(window_s, FIRST_WINDOW_S * 2.0 ** min(40.0, whole[WINDOWS] - 1)):
        return False
    arrived = max(0.0, whole[SENT_ITEMS] + query[col.QUEUE_ITEMS] - whole[QUEUED_ITEMS])
    latest_rps = arrived / lasted_s
    is_first = whole[WINDOWS] == 1
    whole[RATE_RPS] = latest_rps if is_first else whole[RATE_RPS] + _LATEST * (latest_rps - whole[RATE_RPS])
    whole[WINDOWS] += 1
    whole[BEGAN_S], whole[SENT_ITEMS], whole[QUEUED_ITEMS] = now_s, 0.0, query[col.QUEUE_ITEMS]
    return True


@compiled
def note_sent(items: float, memory: Table) -> None:
    """Count what a decision has sent or bound."""
    memory[WHOLE][SENT_ITEMS] += items
