"""How many items a second arrive: a mean of windows in which each counts half as much as the next.

It is an EWMA, as Proteus keeps of its demand. What has arrived is counted by whoever asks (``ARRIVED_ITEMS``), so
requests that are refused count too, whoever decides about them and in how many queues. The first windows are short and
double from FIRST_WINDOW_S on, so that a policy that plans by the rate does not run blind for its first whole window.
A crowd is noticed as it comes: what has come in a window is at least the rate of all of it, before it is over.
"""

from __future__ import annotations

from typing import Final

from orchestrator.policies.tables import columns as col
from orchestrator.policies.tables.compiled import Column, Table, compiled
from orchestrator.policies.tables.memory import WHOLE

RATE_RPS: Final = 1  # slots of row WHOLE
ARRIVED_ITEMS: Final = 2  # when this window began
BEGAN_S: Final = 3
WINDOWS: Final = 4  # begun so far
FREE_SLOT: Final = 5
"""The first that whoever uses this may use for something else."""

FIRST_WINDOW_S: Final = 0.05
_LATEST: Final = 0.5


@compiled
def follow_demand(window_s: float, memory: Table, query: Column) -> bool:
    """Bring the rate up to date, to be called first in a decision; return whether a window has just ended."""
    whole, now_s, so_far = memory[WHOLE], query[col.NOW_S], query[col.ARRIVED_ITEMS]
    if whole[WINDOWS] == 0:
        whole[WINDOWS], whole[BEGAN_S], whole[ARRIVED_ITEMS] = 1.0, now_s, so_far
        return False
    lasted_s, arrived = now_s - whole[BEGAN_S], max(0.0, so_far - whole[ARRIVED_ITEMS])
    this_s = min(window_s, FIRST_WINDOW_S * 2.0 ** min(40.0, whole[WINDOWS] - 1))
    if lasted_s < this_s:
        if whole[WINDOWS] > 1:
            whole[RATE_RPS] = max(whole[RATE_RPS], arrived / this_s)
        return False
    latest_rps = arrived / lasted_s
    is_first = whole[WINDOWS] == 1
    whole[RATE_RPS] = latest_rps if is_first else whole[RATE_RPS] + _LATEST * (latest_rps - whole[RATE_RPS])
    whole[WINDOWS] += 1
    whole[BEGAN_S], whole[ARRIVED_ITEMS] = now_s, so_far
    return True
