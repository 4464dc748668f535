"""Between tables and values: candidates to rows and back, a situation to what is asked."""

from __future__ import annotations

import math
from collections.abc import Sequence

from orchestrator.decision import Candidate, Decision, Dispatch, Hold, Reject
from orchestrator.routing import fields as f
from orchestrator.routing.compiled import Column, Table, new_column, new_table
from orchestrator.routing.policy import RowPolicy, Situation
from orchestrator.snapshot import ServerName, Width


def write_ask(ask: Column, situation: Situation) -> None:
    """Write a situation as ``orchestrator.routing.fields`` says."""
    queue = situation.queue
    ask[f.NOW_S] = situation.now_s
    ask[f.SLACK_MARGIN] = situation.slack_margin
    ask[f.QUEUE_ITEMS] = queue.items
    ask[f.HEAD_ITEMS] = queue.head_items
    ask[f.HEAD_DEADLINE_S] = queue.head_deadline_s
    ask[f.TAIL_DEADLINE_S] = queue.tail_deadline_s
    ask[f.MIN_ACCURACY] = queue.min_accuracy
    ask[f.TURN] = situation.turn
    ask[f.FIRST_LOT], ask[f.SECOND_LOT] = situation.lots
    ask[f.MAX_ITEM_J] = math.inf if queue.max_item_j is None else queue.max_item_j
    ask[f.PRIORITY] = queue.priority
    preference = queue.preference
    ask[f.PREFER_ACCURACY] = math.nan if preference is None else preference.accuracy
    ask[f.PREFER_LATENCY] = math.nan if preference is None else preference.latency
    ask[f.PREFER_ENERGY] = math.nan if preference is None else preference.energy


def read_candidate(rows: Table, row: int, names: Sequence[ServerName]) -> Candidate:
    """Return a row as a value; ``names`` are those of the servers by index."""
    item_j, group_j = rows[f.ROW_ITEM_J][row], rows[f.ROW_GROUP_J][row]
    return Candidate(
        server=names[int(rows[f.ROW_SERVER][row])],
        width=Width(int(rows[f.ROW_WIDTH][row])),
        items=int(rows[f.ROW_ITEMS][row]),
        accuracy=float(rows[f.ROW_ACCURACY][row]),
        service_s=float(rows[f.ROW_SERVICE_S][row]),
        completion_s=float(rows[f.ROW_COMPLETION_S][row]),
        head_completion_s=float(rows[f.ROW_HEAD_COMPLETION_S][row]),
        drain_s=float(rows[f.ROW_DRAIN_S][row]),
        server_items=int(rows[f.ROW_SERVER_ITEMS][row]),
        has_room=rows[f.ROW_HAS_ROOM][row] != 0,
        wait_s=float(rows[f.ROW_WAIT_S][row]),
        item_s=float(rows[f.ROW_ITEM_S][row]),
        group_s=float(rows[f.ROW_GROUP_S][row]),
        max_batch_size=int(rows[f.ROW_MAX_BATCH][row]),
        instances=int(rows[f.ROW_INSTANCES][row]),
        overdue_ratio=float(rows[f.ROW_OVERDUE_RATIO][row]),
        item_j=None if math.isnan(item_j) else float(item_j),
        group_j=None if math.isnan(group_j) else float(group_j),
    )


def write_candidate(rows: Table, row: int, candidate: Candidate, server: int) -> None:
    """Write a candidate of the server of that index; what the server has to do, which it does not tell, stays 0."""
    rows[f.ROW_SERVER][row] = server
    rows[f.ROW_WIDTH][row] = candidate.width
    rows[f.ROW_ITEMS][row] = candidate.items
    rows[f.ROW_ACCURACY][row] = candidate.accuracy
    rows[f.ROW_SERVICE_S][row] = candidate.service_s
    rows[f.ROW_COMPLETION_S][row] = candidate.completion_s
    rows[f.ROW_HEAD_COMPLETION_S][row] = candidate.head_completion_s
    rows[f.ROW_DRAIN_S][row] = candidate.drain_s
    rows[f.ROW_SERVER_ITEMS][row] = candidate.server_items
    rows[f.ROW_HAS_ROOM][row] = candidate.has_room
    rows[f.ROW_WAIT_S][row] = candidate.wait_s
    rows[f.ROW_ITEM_S][row] = candidate.item_s
    rows[f.ROW_GROUP_S][row] = candidate.group_s
    rows[f.ROW_MAX_BATCH][row] = candidate.max_batch_size
    rows[f.ROW_INSTANCES][row] = candidate.instances
    rows[f.ROW_OVERDUE_RATIO][row] = candidate.overdue_ratio
    rows[f.ROW_ITEM_J][row] = math.nan if candidate.item_j is None else candidate.item_j
    rows[f.ROW_GROUP_J][row] = math.nan if candidate.group_j is None else candidate.group_j


def choose_among(policy: RowPolicy, candidates: Sequence[Candidate], situation: Situation) -> Decision:
    """Return what a policy of rows decides about candidates."""
    names = sorted({c.server for c in candidates})
    ranks = {name: rank for rank, name in enumerate(names)}
    ordered = sorted(candidates, key=lambda c: (c.server, c.width))
    rows, ask = new_table(f.ROW_FIELDS, len(ordered)), new_column(f.ASK_FIELDS)
    for row, candidate in enumerate(ordered):
        write_candidate(rows, row, candidate, ranks[candidate.server])
    write_ask(ask, situation)
    return read_decision(policy.choose_row(rows, len(ordered), ask), rows, names)


def read_decision(choice: tuple[int, float, int, float], rows: Table, names: Sequence[ServerName]) -> Decision:
    """Return what a policy of rows chose as a value; of a dispatch the candidate is as the policy believes it."""
    row, items, code, until_s = choice
    reason = f.REASONS[code]
    if row == f.HOLD:
        return Hold(reason, None if math.isinf(until_s) else float(until_s))
    if row == f.REJECT:
        return Reject(reason)
    candidate = read_candidate(rows, row, names)
    return Dispatch(candidate if items == candidate.items else candidate.with_items(int(items)), reason)
