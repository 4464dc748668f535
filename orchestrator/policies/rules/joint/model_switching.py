"""Model-Switching: the load says which width everybody gets (Zhang et al., HotCloud'20; our implementation).

Offline that paper finds, for each variant, the load up to which it answers in time, and online switches at these
thresholds. Ours takes the thresholds from what is known of the fleet: a width is for a demand of at most ``load`` times
the fleet's capacity at it. The demand is the rate of arrivals, and beside it what a backlog needs to be gone before it
is due. It narrows at once and widens, step by step, only after there has been room for a wider width for ``hold_s``, so
it does not flap. Every request then goes to the server that answers first, when that has room.
"""

from __future__ import annotations

import math
from typing import Final

from orchestrator.decision import Reason
from orchestrator.policies.knobs import Knob, knob
from orchestrator.policies.rules.batch_rules import BETTER_SERVER_BUSY
from orchestrator.policies.rules.demand import FREE_SLOT, RATE_RPS, follow_demand
from orchestrator.policies.rules.server_rules import least_completion
from orchestrator.policies.rules.width_rules import next_width
from orchestrator.policies.tables import columns as col
from orchestrator.policies.tables.candidates import capacity_rps, nearest_width
from orchestrator.policies.tables.compiled import Column, Table, compiled
from orchestrator.policies.tables.layout import HOLD, REASONS, Choice
from orchestrator.policies.tables.memory import WHOLE

_LOAD: Final = 0
_HOLD_S: Final = 1
_WINDOW_S: Final = 2
KNOBS: Final = (
    Knob("load", _LOAD, 0.8, 0.05, 2.0),
    Knob("hold_s", _HOLD_S, 1.0, 0.0, 600.0),
    Knob("window_s", _WINDOW_S, 0.5, 0.01, 600.0, is_log=True),
)

_WIDTH_IN_USE: Final = FREE_SLOT  # 0 before the first decision
_ROOM_SINCE_S: Final = FREE_SLOT + 1  # NaN while there is none for a wider width

_LOAD_LEVEL: Final = REASONS.index(Reason.LOAD_LEVEL)


@compiled
def choose_by_load(rule: Column, memory: Table, rows: Table, count: int, query: Column) -> Choice:
    """Return the decision at the width that the load allows."""
    follow_demand(knob(rule, _WINDOW_S), memory, query)
    width = nearest_width(_switch(rule, memory, rows, count, query), rows, count)
    row = least_completion(width, 0.0, rows, count, query)
    if rows[col.ROW_HAS_ROOM][row] == 0:
        return HOLD, 0.0, BETTER_SERVER_BUSY, math.inf
    return row, rows[col.ROW_ITEMS][row], _LOAD_LEVEL, math.inf


@compiled
def _switch(rule: Column, memory: Table, rows: Table, count: int, query: Column) -> float:
    """Return the width in use from now on."""
    whole, now_s = memory[WHOLE], query[col.NOW_S]
    slack_s = max(1e-3, query[col.TAIL_DEADLINE_S] - now_s)
    demand_rps = whole[RATE_RPS]
    if query[col.QUEUE_ITEMS] > query[col.HEAD_ITEMS]:
        demand_rps = max(demand_rps, query[col.QUEUE_ITEMS] / slack_s)
    fitting = _widest_for(demand_rps / knob(rule, _LOAD), rows, count)
    if whole[_WIDTH_IN_USE] == 0 or fitting <= whole[_WIDTH_IN_USE]:
        whole[_WIDTH_IN_USE], whole[_ROOM_SINCE_S] = fitting, math.nan
    elif math.isnan(whole[_ROOM_SINCE_S]):
        whole[_ROOM_SINCE_S] = now_s
    if not math.isnan(whole[_ROOM_SINCE_S]) and now_s - whole[_ROOM_SINCE_S] >= knob(rule, _HOLD_S):
        whole[_WIDTH_IN_USE] = min(fitting, next_width(whole[_WIDTH_IN_USE], rows, count))
        whole[_ROOM_SINCE_S] = math.nan
    return whole[_WIDTH_IN_USE]


@compiled
def _widest_for(demand_rps: float, rows: Table, count: int) -> float:
    """Return the widest width at which the fleet's capacity is so much; else the one with the most capacity."""
    width = nearest_width(0.0, rows, count)
    best, best_rps = width, -1.0
    while width < math.inf:
        total_rps = 0.0
        for row in range(count):
            if rows[col.ROW_WIDTH][row] == width:
                total_rps += capacity_rps(row, rows)
        if total_rps >= demand_rps or (best_rps < demand_rps and total_rps > best_rps):
            best, best_rps = width, total_rps
        width = next_width(width, rows, count)
    return best
