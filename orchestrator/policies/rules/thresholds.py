"""Soft thresholds: a slower server is used only when enough waits to be worth it (ACHQ, our implementation).

Of unlike servers the fastest should always work, and a slower one only beyond a backlog: the slow-server problem (Lin
and Kumar, IEEE TAC 29(8), 1984), whose optimal rule is a threshold. ACHQ (arXiv 2402.01147, AISTATS'24) makes the
thresholds soft, so that they can be learned: with q items waiting, the k-th fastest server, when it has room, is used
with probability

    σ((q − θ_k) / T),  here with  θ_k = theta_k · (μ_1/μ_k − 1)

where μ are capacities at the width in question. So one ``theta`` means the same in any fleet and like servers are all
used at once; and each server may have its own, the fastest first, for a tuner to find. The fastest has no threshold.
Which width is run a width rule says.
"""

from __future__ import annotations

import math
from typing import Final

from orchestrator.decision import Reason
from orchestrator.policies.knobs import OF_SERVERS, Knob, knob, knob_of_rank
from orchestrator.policies.rules.waiting import BETTER_SERVER_BUSY
from orchestrator.policies.rules.width_rules import is_kept
from orchestrator.policies.tables import columns as col
from orchestrator.policies.tables.candidates import capacity_rps
from orchestrator.policies.tables.compiled import Column, Table, compiled
from orchestrator.policies.tables.layout import HOLD, REASONS

_THETA: Final = 0
_TEMPERATURE: Final = OF_SERVERS
KNOBS: Final = (
    Knob("theta", _THETA, 1.0, -1000.0, 1000.0, is_of_servers=True),
    Knob("temperature", _TEMPERATURE, 0.5, 0.001, 1000.0, is_log=True),
)

_BEYOND_THRESHOLD: Final = REASONS.index(Reason.BEYOND_THRESHOLD)


@compiled
def choose_by_threshold(
    rule: Column, width: float, timely: float, rows: Table, count: int, query: Column
) -> tuple[int, float, int, float]:
    """Return the decision: the fastest server that has room and accepts what waits, else to hold."""
    best, best_rps = -1, 0.0
    for row in range(count):
        if rows[col.ROW_HAS_ROOM][row] == 0 or not is_kept(row, width, timely, rows, query):
            continue
        own_rps = capacity_rps(row, rows)
        if own_rps > best_rps and _is_used(rule, row, own_rps, width, timely, rows, count, query):
            best, best_rps = row, own_rps
    if best < 0:
        return HOLD, 0.0, BETTER_SERVER_BUSY, math.inf
    return best, rows[col.ROW_ITEMS][best], _BEYOND_THRESHOLD, math.inf


@compiled
def _is_used(
    rule: Column, row: int, own_rps: float, width: float, timely: float, rows: Table, count: int, query: Column
) -> bool:
    rank, most_rps = 0, own_rps
    for other in range(count):
        if is_kept(other, width, timely, rows, query):
            other_rps = capacity_rps(other, rows)
            most_rps = max(most_rps, other_rps)
            if other_rps > own_rps or (other_rps == own_rps and other < row):
                rank += 1
    if own_rps == most_rps:
        return True
    if most_rps == math.inf:  # not observed yet, so nothing is known of how much faster it is
        return True
    threshold = knob_of_rank(rule, _THETA, rank - 1) * (most_rps / own_rps - 1)
    excess = (query[col.QUEUE_ITEMS] - threshold) / knob(rule, _TEMPERATURE)
    return query[col.SECOND_UNIFORM] < 1 / (1 + math.exp(-max(-700.0, min(700.0, excess))))
