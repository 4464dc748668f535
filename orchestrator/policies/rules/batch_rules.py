"""Rules that say when and how many as well, at the width that a width rule has left, and what they have in common.

The head waits until a batch is full or until it must go: when, expected times multiplied by the slack margin, it would
just be in time with that batch. Which server is asked is as in SuperServe's frame (policies.rules.joint.central): of
those with room the one that is free first. All are our implementations.

- **ACHQ** (arXiv 2402.01147, AISTATS'24): a slower server is used only when enough waits to be worth it. Of unlike
  servers the fastest should always work, and a slower one only beyond a backlog: the slow-server problem (Lin and
  Kumar, IEEE TAC 29(8), 1984), whose optimal rule is a threshold. Soft ones can be learned: with q items waiting, the
  k-th fastest server, when it has room, is used with probability σ((q − θ_k)/T), here with θ_k = theta_k · (μ_1/μ_k −
  1), where μ are capacities at the width in question. So one ``theta`` means the same in any fleet and like servers
  are all used at once; and each server may have its own, the fastest first, for a tuner to find. The fastest has no
  threshold.
- **Clipper** (Crankshaw et al., NSDI'17): one width, and batches that adapt. ``clipper-plus`` is what SuperServe calls
  Clipper+ (arXiv 2312.16733, as known to us): a fixed width and, from its profile, the largest batch with which the
  head is in time. ``clipper-aimd`` learns the batch from answers alone: a limit for each server and width that begins
  at 1, grows by ``step`` when a batch as large as it was in time, and is multiplied by ``backoff`` when one was late.
  The paper's rule as remembered; the public code of later versions does otherwise.
- **Nexus** (Shen et al., SOSP'19, as Proteus re-implements it): the batch b is the largest with τ(b) < SLO/2, because
  a request that just misses a batch waits for that one and then for its own. A batch is sent when b wait, or when the
  head could else not be in time with it; a head that no server can answer in time is dropped, so that it delays no
  others.
- **Control limit** (SMDP batching, arXiv 2301.12865 and 2501.02181): a server that is free starts as large a batch as
  it can when at least so many wait, not before. It is the form that optimal batching of one server mostly has when it
  minimises a sum of response time and power: the less there is to gain from a fuller batch, the lower the limit. The
  papers compute it by value iteration from service times and a rate; here it is a knob, for each server from the
  fastest on; ``slimsched bounds`` shows optimal ones. They know no deadline; ours holds no head longer than it may
  wait.
"""

from __future__ import annotations

import math
from typing import Final

from orchestrator.decision import Reason
from orchestrator.policies.knobs import OF_SERVERS, Knob, knob, knob_of_rank
from orchestrator.policies.rules.width_rules import is_head_in_time, is_kept
from orchestrator.policies.tables import columns as col
from orchestrator.policies.tables.candidates import capacity_rps, margin_of
from orchestrator.policies.tables.compiled import Column, Table, compiled
from orchestrator.policies.tables.layout import HOLD, REASONS, REJECT, Choice
from orchestrator.policies.tables.memory import OF_MODEL, model_place

_THETA: Final = 0
_TEMPERATURE: Final = OF_SERVERS
ACHQ_KNOBS: Final = (
    Knob("theta", _THETA, 1.0, -1000.0, 1000.0, is_of_servers=True),
    Knob("temperature", _TEMPERATURE, 0.5, 0.001, 1000.0, is_log=True),
)
_STEP: Final = 0
_BACKOFF: Final = 1
AIMD_KNOBS: Final = (
    Knob("step", _STEP, 1.0, 0.01, 64.0, is_log=True),
    Knob("backoff", _BACKOFF, 0.9, 0.1, 0.999),
)
_LIMIT: Final = 0
LIMIT_KNOBS: Final = (Knob("limit", _LIMIT, 8.0, 1.0, 4096.0, is_of_servers=True, is_log=True),)

BETTER_SERVER_BUSY: Final = REASONS.index(Reason.BETTER_SERVER_BUSY)
LEAST_WAIT_S: Final = 1e-4
_ROUNDING: Final = 1e-9
_BATCH_FULL: Final = REASONS.index(Reason.BATCH_FULL)
_HEAD_IS_DUE: Final = REASONS.index(Reason.HEAD_IS_DUE)
_WAITS_FOR_BATCH: Final = REASONS.index(Reason.WAITS_FOR_BATCH)
_BEYOND_THRESHOLD: Final = REASONS.index(Reason.BEYOND_THRESHOLD)
_BATCH_IN_TIME: Final = REASONS.index(Reason.BATCH_IN_TIME)
_CANT_BE_IN_TIME: Final = REASONS.index(Reason.CANT_BE_IN_TIME)


@compiled
def objective_s(query: Column) -> float:
    """Return how long the head's caller gives it from its arrival; where that is unknown, what the queue shows."""
    if math.isnan(query[col.HEAD_ARRIVED_S]):
        return max(0.0, max(query[col.TAIL_DEADLINE_S], query[col.HEAD_DEADLINE_S]) - query[col.NOW_S])
    return query[col.HEAD_DEADLINE_S] - query[col.HEAD_ARRIVED_S]


@compiled
def largest_batch_within(within_s: float, row: int, rows: Table) -> float:
    """Return the most items that a row runs in so long, alone; at least 1."""
    per_item_s, most = rows[col.ROW_PER_ITEM_S][row], rows[col.ROW_MAX_BATCH][row]
    if per_item_s <= 0:
        return most
    return max(1.0, min(most, math.floor((within_s - rows[col.ROW_FIXED_S][row]) / per_item_s + _ROUNDING)))


@compiled
def first_free(width: float, timely: float, rows: Table, count: int, query: Column) -> int:
    """Return the row with room whose server is free first, then the one that answers first; -1 for none."""
    best = -1
    for row in range(count):
        if rows[col.ROW_HAS_ROOM][row] == 0 or not is_kept(row, width, timely, rows, query):
            continue
        wait_s, best_wait_s = rows[col.ROW_WAIT_S][row], rows[col.ROW_WAIT_S][max(0, best)]
        if (
            best < 0
            or wait_s < best_wait_s
            or (wait_s == best_wait_s and rows[col.ROW_HEAD_COMPLETION_S][row] < rows[col.ROW_HEAD_COMPLETION_S][best])
        ):
            best = row
    return best


@compiled
def send_or_wait(row: int, batch: float, most: float, rows: Table, query: Column) -> Choice:
    """Return the decision to send ``most`` of what waits when that is a batch or the head must go, and else to wait."""
    items = max(query[col.HEAD_ITEMS], min(most, rows[col.ROW_ITEMS][row]))
    if query[col.QUEUE_ITEMS] >= batch:
        return row, items, _BATCH_FULL, math.inf
    takes_s = rows[col.ROW_WAIT_S][row] + rows[col.ROW_PER_ITEM_S][row] * batch + rows[col.ROW_FIXED_S][row]
    until_s = query[col.HEAD_DEADLINE_S] - takes_s * margin_of(row, rows, query)
    if until_s <= query[col.NOW_S]:
        return row, items, _HEAD_IS_DUE, math.inf
    # While a server is busy its wait passes with the time, so ``until_s`` moves; without a least step it could do so in
    # ever smaller ones.
    return HOLD, 0.0, _WAITS_FOR_BATCH, min(query[col.HEAD_DEADLINE_S], max(until_s, query[col.NOW_S] + LEAST_WAIT_S))


@compiled
def choose_by_threshold(rule: Column, width: float, timely: float, rows: Table, count: int, query: Column) -> Choice:
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
    if most_rps in (own_rps, math.inf):  # infinite: not observed yet, so nothing is known of how much faster it is
        return True
    threshold = knob_of_rank(rule, _THETA, rank - 1) * (most_rps / own_rps - 1)
    excess = (query[col.QUEUE_ITEMS] - threshold) / knob(rule, _TEMPERATURE)
    return query[col.SECOND_UNIFORM] < 1 / (1 + math.exp(-max(-700.0, min(700.0, excess))))


@compiled
def choose_in_time(width: float, timely: float, rows: Table, count: int, query: Column) -> Choice:
    """Return the decision: what the row's batch is, on the server that is free first."""
    row = first_free(width, timely, rows, count, query)
    if row < 0:
        return HOLD, 0.0, BETTER_SERVER_BUSY, math.inf
    return row, rows[col.ROW_ITEMS][row], _BATCH_IN_TIME, math.inf


@compiled
def choose_within_limit(width: float, timely: float, memory: Table, rows: Table, count: int, query: Column) -> Choice:
    """Return the decision: as many as the limit lets through, on the server that is free first."""
    row = first_free(width, timely, rows, count, query)
    if row < 0:
        return HOLD, 0.0, BETTER_SERVER_BUSY, math.inf
    limit = math.floor(max(1.0, memory[OF_MODEL][model_place(memory, row, rows)]))
    return row, max(query[col.HEAD_ITEMS], min(limit, rows[col.ROW_ITEMS][row])), _BATCH_IN_TIME, math.inf


@compiled
def adapt_limit(rule: Column, memory: Table, place: int, items: float, is_in_time: float) -> None:
    """Take an answered batch into account; OF_MODEL holds the limits, 0 for 1."""
    limit = max(1.0, memory[OF_MODEL][place])
    if is_in_time == 0:
        limit = max(1.0, limit * knob(rule, _BACKOFF))
    elif items >= math.floor(limit):
        limit = min(4096.0, limit + knob(rule, _STEP))
    memory[OF_MODEL][place] = limit


@compiled
def choose_half_deadline(width: float, timely: float, rows: Table, count: int, query: Column) -> Choice:
    """Return the decision for the server that is free first."""
    if can_none_be_in_time(rows, count, query):
        return REJECT, 0.0, _CANT_BE_IN_TIME, math.inf
    row = first_free(width, timely, rows, count, query)
    if row < 0:
        return HOLD, 0.0, BETTER_SERVER_BUSY, math.inf
    batch = largest_batch_within(objective_s(query) / 2, row, rows)
    return send_or_wait(row, batch, batch, rows, query)


@compiled
def can_none_be_in_time(rows: Table, count: int, query: Column) -> bool:
    """Return whether the head would be late on every server and width, even alone."""
    in_time = 0
    for row in range(count):
        in_time += is_head_in_time(row, rows, query)
    return in_time == 0


@compiled
def choose_at_limit(rule: Column, width: float, timely: float, rows: Table, count: int, query: Column) -> Choice:
    """Return the decision for the server that is free first."""
    row = first_free(width, timely, rows, count, query)
    if row < 0:
        return HOLD, 0.0, BETTER_SERVER_BUSY, math.inf
    rank = 0
    for other in range(count):
        if is_kept(other, width, timely, rows, query) and capacity_rps(other, rows) > capacity_rps(row, rows):
            rank += 1
    limit = math.floor(knob_of_rank(rule, _LIMIT, rank))
    return send_or_wait(row, min(limit, rows[col.ROW_MAX_BATCH][row]), math.inf, rows, query)
