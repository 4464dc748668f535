"""Policies that pick server, width and batch together, from one queue, when a server has room.

The frame of SuperServe's scheduler (Khare et al., NSDI'25, arXiv 2312.16733): requests wait in one queue, earliest
deadline first, and a worker that is idle is given the head and those behind it. Its workers are alike and idle when
they ask. Ours are unlike and may be asked while a batch runs, so the frame adds what follows from that:

- A latency counts what the server still has to do first, and is that server's own.
- Where no server with room can meet the head's deadline and a busy one can, the head waits for it. In a fleet of
  like servers that never happens.
- Where none can, the width that drains the queue first goes to the server that answers first, as in ``lert:slack``.
- A batch is never larger than the candidate says, which keeps a slow server from taking what a fast one would answer
  sooner (see orchestrator.policies.tables.candidates).
"""

from __future__ import annotations

import math
from typing import Final

from orchestrator.decision import Reason
from orchestrator.policies.knobs import PARAMETER
from orchestrator.policies.rules import brownout
from orchestrator.policies.rules.drain import row_to_drain
from orchestrator.policies.rules.joint import alert, clockwork, fluid, infaas, model_switching, slackfit, thrift
from orchestrator.policies.rules.server_rules import least_completion
from orchestrator.policies.rules.width_rules import is_in_time, soonest_drained
from orchestrator.policies.tables import columns as col
from orchestrator.policies.tables.candidates import nearest_width
from orchestrator.policies.tables.compiled import Column, Table, compiled
from orchestrator.policies.tables.layout import HOLD, REASONS, Choice

MAX_ACCURACY: Final = 0
MAX_BATCH: Final = 1
SLACKFIT: Final = 2
SLACKFIT_ACCURACY: Final = 3
CLOCKWORK: Final = 4
INFAAS: Final = 5
MODEL_SWITCHING: Final = 6
ALERT: Final = 7
BY_PLAN: Final = 8
BY_HALVED_PLAN: Final = 9
THRIFT: Final = 10
THRIFT_BELOW_CEILING: Final = 11

_MOST_ACCURATE: Final = REASONS.index(Reason.MOST_ACCURATE)
_LARGEST_BATCH: Final = REASONS.index(Reason.LARGEST_BATCH)
_SLACK_BUCKET: Final = REASONS.index(Reason.SLACK_BUCKET)
_BEST_BY_PREFERENCE: Final = REASONS.index(Reason.BEST_BY_PREFERENCE)
_NONE_IN_TIME: Final = REASONS.index(Reason.NONE_IN_TIME)
_WAITS_FOR_BATCH: Final = REASONS.index(Reason.WAITS_FOR_BATCH)
_BELOW_CEILING: Final = REASONS.index(Reason.BELOW_CEILING)
_BETTER_SERVER_BUSY: Final = REASONS.index(Reason.BETTER_SERVER_BUSY)


@compiled
def choose_centrally(code: int, rule: Column, memory: Table, rows: Table, count: int, query: Column) -> Choice:
    """Return the row that the central rule of that code takes, items, reason, and until when to hold; rows exist."""
    if code == CLOCKWORK:
        return clockwork.choose_predictable(rule, memory, rows, count, query)
    if code == INFAAS:
        return infaas.choose_cheapest(memory, rows, count, query)
    if code == MODEL_SWITCHING:
        return model_switching.choose_by_load(rule, memory, rows, count, query)
    if code in (BY_PLAN, BY_HALVED_PLAN):
        return fluid.choose_by_plan(code == BY_HALVED_PLAN, rule, memory, rows, count, query)
    if code == ALERT:
        row, is_any_in_time = alert.choose_predicted(rule, memory, rows, count, query)
        return _send_wait_or_drain(row, is_any_in_time, alert.reason_of_goal(rule), rows, count, query)
    if code == THRIFT:
        return _choose_thrifty(rule, math.inf, memory, rows, count, query)
    if code == THRIFT_BELOW_CEILING:
        row, items, reason, until_s = _choose_below_ceiling(rule, memory, rows, count, query)
        if row >= 0 and brownout.is_limiting(memory, rows, count):
            reason = _BELOW_CEILING
        return row, items, reason, until_s
    return _fill_slack(code, rule, rows, count, query)


@compiled
def _choose_thrifty(rule: Column, ceiling: float, memory: Table, rows: Table, count: int, query: Column) -> Choice:
    row, is_any_in_time = thrift.choose_thrifty(rule, ceiling, rows, count, query)
    if row >= 0:
        until_s = thrift.fills_until_s(rule, memory, row, rows, count, query)
        if until_s > query[col.NOW_S]:
            return HOLD, 0.0, _WAITS_FOR_BATCH, until_s
    if row < 0 and not is_any_in_time:
        row, items = row_to_drain(rows, count, query)
        if row >= 0:
            return row, items, _NONE_IN_TIME, math.inf
    return _send_wait_or_drain(row, is_any_in_time, _BEST_BY_PREFERENCE, rows, count, query)


@compiled
def _choose_below_ceiling(rule: Column, memory: Table, rows: Table, count: int, query: Column) -> Choice:
    """Return what thrift takes below a ceiling; where that is at the narrowest width, whatever answers first."""
    ceiling = brownout.ceiling_now(rule, memory, rows, count, query)
    narrowest = nearest_width(0.0, rows, count)
    if ceiling > narrowest or narrowest == nearest_width(math.inf, rows, count):
        return _choose_thrifty(rule, ceiling, memory, rows, count, query)
    row = least_completion(narrowest, 0.0, rows, count, query)
    if rows[col.ROW_HAS_ROOM][row] == 0:
        return HOLD, 0.0, _BETTER_SERVER_BUSY, math.inf
    return row, rows[col.ROW_ITEMS][row], _BELOW_CEILING, math.inf


@compiled
def _send_wait_or_drain(row: int, is_any_in_time: bool, reason: int, rows: Table, count: int, query: Column) -> Choice:
    if row >= 0:
        return row, rows[col.ROW_ITEMS][row], reason, math.inf
    if is_any_in_time:
        return HOLD, 0.0, _BETTER_SERVER_BUSY, math.inf
    return _drain(rows, count, query)


@compiled
def _fill_slack(code: int, rule: Column, rows: Table, count: int, query: Column) -> Choice:
    """Return what SuperServe's SlackFit, or one of those that it is compared with, decides."""
    if code == MAX_ACCURACY:
        row, reason = slackfit.row_with_most(col.ROW_WIDTH, col.ROW_ITEMS, rows, count, query), _MOST_ACCURATE
    elif code == MAX_BATCH:
        row, reason = slackfit.row_with_most(col.ROW_ITEMS, col.ROW_WIDTH, rows, count, query), _LARGEST_BATCH
    else:
        row, items = slackfit.fill_slack(rule[PARAMETER], code == SLACKFIT, rows, count, query)
        if row >= 0:
            return row, items, _SLACK_BUCKET, math.inf
        reason = _SLACK_BUCKET
    if row >= 0:
        return row, rows[col.ROW_ITEMS][row], reason, math.inf
    for busy in range(count):
        if is_in_time(busy, rows, query):
            return HOLD, 0.0, _BETTER_SERVER_BUSY, math.inf
    return _drain(rows, count, query)


@compiled
def _drain(rows: Table, count: int, query: Column) -> Choice:
    """Return the decision when nothing is in time."""
    soonest = least_completion(soonest_drained(rows, count), 0.0, rows, count, query)
    if rows[col.ROW_HAS_ROOM][soonest] == 0:
        return HOLD, 0.0, _BETTER_SERVER_BUSY, math.inf
    return soonest, rows[col.ROW_ITEMS][soonest], _NONE_IN_TIME, math.inf
