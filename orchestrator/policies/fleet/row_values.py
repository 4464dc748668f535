"""Between tables and values: candidates to rows and back, a situation to a query."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import fields, replace
from operator import attrgetter

from orchestrator.decision import Candidate, Decision, Dispatch, Hold, Reject
from orchestrator.policies.protocol import RowPolicy, Situation
from orchestrator.policies.tables import columns as col
from orchestrator.policies.tables.compiled import Column, Table, new_column, new_table
from orchestrator.policies.tables.layout import HOLD, REASONS, REJECT, Choice
from orchestrator.policies.tables.memory import Memory
from orchestrator.snapshot import ServerName, Width

_read_numbers = attrgetter(*(field.name for field in fields(Candidate) if field.name != "server"))
"""Reads a candidate's numbers, which have the order of the columns of rows from ROW_WIDTH on."""


def write_query(query: Column, situation: Situation) -> None:
    """Write a situation as ``orchestrator.policies.tables.columns`` says."""
    queue = situation.queue
    query[col.NOW_S] = situation.now_s
    query[col.SLACK_MARGIN] = situation.slack_margin
    query[col.QUEUE_ITEMS] = queue.items
    query[col.HEAD_ITEMS] = queue.head_items
    query[col.HEAD_DEADLINE_S] = queue.head_deadline_s
    query[col.TAIL_DEADLINE_S] = queue.tail_deadline_s
    query[col.MIN_ACCURACY] = max(0.0, queue.min_accuracy)  # rows have relative qualities, and none is below 0
    query[col.TURN] = situation.turn
    query[col.FIRST_UNIFORM], query[col.SECOND_UNIFORM] = situation.uniforms
    query[col.MAX_PER_ITEM_J] = math.inf if queue.max_per_item_j is None else queue.max_per_item_j
    query[col.PRIORITY] = queue.priority
    preference = queue.preference
    query[col.PREFER_ACCURACY] = math.nan if preference is None else preference.accuracy
    query[col.PREFER_LATENCY] = math.nan if preference is None else preference.latency
    query[col.PREFER_ENERGY] = math.nan if preference is None else preference.energy
    query[col.HEAD_ARRIVED_S] = math.nan if queue.head_arrived_s is None else queue.head_arrived_s
    query[col.REFUSES_LATE] = queue.refuses_late
    query[col.SERVERS_SHARE] = queue.servers_share
    query[col.ARRIVED_ITEMS] = queue.arrived_items
    query[col.OTHER_QUEUES], query[col.OTHER_ITEMS] = queue.other_queues, queue.other_items
    query[col.ONLY_WIDTH] = math.nan if situation.only_width is None else situation.only_width


def read_candidate(rows: Table, row: int, names: Sequence[ServerName], items: int | None = None) -> Candidate:
    """Return a row as a value, with a batch of so many items where that is said, as ``Candidate.with_items`` does.

    ``names`` are those of the servers by index.
    """
    values = rows[:, row].tolist()  # much quicker than one by one
    if items is not None and items != values[col.ROW_ITEMS]:
        wait_s, own_s, fixed_s = values[col.ROW_WAIT_S], values[col.ROW_PER_ITEM_S] * items, values[col.ROW_FIXED_S]
        values[col.ROW_ITEMS], values[col.ROW_SERVICE_S] = items, own_s + fixed_s
        values[col.ROW_COMPLETION_S] = wait_s + own_s + fixed_s
    return Candidate(
        server=names[int(values[col.ROW_SERVER])],
        width=Width(int(values[col.ROW_WIDTH])),
        items=int(values[col.ROW_ITEMS]),
        accuracy=values[col.ROW_ACCURACY],
        service_s=values[col.ROW_SERVICE_S],
        completion_s=values[col.ROW_COMPLETION_S],
        head_completion_s=values[col.ROW_HEAD_COMPLETION_S],
        drain_s=values[col.ROW_DRAIN_S],
        server_items=int(values[col.ROW_SERVER_ITEMS]),
        has_room=values[col.ROW_HAS_ROOM] != 0,
        wait_s=values[col.ROW_WAIT_S],
        per_item_s=values[col.ROW_PER_ITEM_S],
        fixed_s=values[col.ROW_FIXED_S],
        max_batch_size=int(values[col.ROW_MAX_BATCH]),
        instances=int(values[col.ROW_INSTANCES]),
        overdue_ratio=values[col.ROW_OVERDUE_RATIO],
        per_item_j=_known(values[col.ROW_PER_ITEM_J]),
        fixed_j=_known(values[col.ROW_FIXED_J]),
        backlog_s=values[col.ROW_BACKLOG_S],
        margin=_known(values[col.ROW_MARGIN]),
        utilisation_ratio=_known(values[col.ROW_UTILISATION]),
        memory_ratio=_known(values[col.ROW_MEMORY]),
        power_ratio=_known(values[col.ROW_POWER]),
    )


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value


def write_candidate(rows: Table, row: int, candidate: Candidate, server: int, column: int) -> None:
    """Write a candidate of the server of that index, whose width is that column."""
    rows[:, row] = [server, column, *(math.nan if value is None else value for value in _read_numbers(candidate))]


def choose_among(
    policy: RowPolicy, candidates: Sequence[Candidate], situation: Situation, *, slack_margin: float | None = None
) -> Decision:
    """Return what a policy of rows decides about candidates, with what it remembers in the situation's memory.

    A ``slack_margin`` of its own stands in place of those of the situation and of candidates.
    """
    if slack_margin is not None:
        situation = replace(situation, slack_margin=slack_margin)
        candidates = [replace(candidate, margin=None) for candidate in candidates]
    memory = Memory() if situation.memory is None else situation.memory
    memory.include({c.server for c in candidates}, {c.width for c in candidates})
    indices = {name: index for index, name in enumerate(memory.servers)}
    columns = {width: column for column, width in enumerate(memory.widths)}
    ordered = sorted(candidates, key=lambda c: (c.server, c.width))
    rows, query = new_table(col.ROW_FIELDS, len(ordered)), new_column(col.QUERY_FIELDS)
    for row, candidate in enumerate(ordered):
        write_candidate(rows, row, candidate, indices[candidate.server], columns[candidate.width])
    write_query(query, situation)
    table = memory.table(policy.name)
    choice = policy.choose_row(table, rows, len(ordered), query)
    return read_decision(choice, rows, len(ordered), memory.servers)[0]


def read_decision(choice: Choice, rows: Table, count: int, names: Sequence[ServerName]) -> tuple[Decision, int]:
    """Return what a policy of rows chose as a value, and the most items of its row; 0 when it chose none.

    Of a dispatch the candidate is as the policy believes it.

    Raises:
        IndexError: when the choice is none of the first ``count`` rows.
    """
    row, items, code, until_s = choice
    reason = REASONS[code]
    if row == HOLD:
        return Hold(reason, None if math.isinf(until_s) else float(until_s)), 0
    if row == REJECT:
        return Reject(reason), 0
    if not 0 <= row < count:
        raise IndexError(f"row {row} of {count}")
    return Dispatch(read_candidate(rows, row, names, int(items)), reason), int(rows[col.ROW_ITEMS, row])
