"""The one encoder of ``orchestrator.policies.learned.features``: live, in the simulator and in training."""

from __future__ import annotations

import math
from typing import Final, NamedTuple

from orchestrator.policies.learned import features as feat
from orchestrator.policies.learned.memory import quick_rps, slow_rps, slowed_ratio, swing
from orchestrator.policies.tables import columns as col
from orchestrator.policies.tables.candidates import capacity_rps, margin_of
from orchestrator.policies.tables.compiled import Column, Table, compiled
from orchestrator.policies.tables.layout import HOLD, REJECT

_LEAST_SERVICE: Final = 0  # places in ``extremes``
_MOST_SERVICE: Final = 1
_LEAST_COMPLETION: Final = 2
_LEAST_DRAIN: Final = 3
_LEAST_ACCURACY: Final = 4
_MOST_ACCURACY: Final = 5
_LEAST_JOULES: Final = 6
_BATCHES: Final = 7
_LARGEST_BATCH: Final = 8
EXTREMES: Final = 9
_MOST_SURGE: Final = 0.75
"""Beyond it lie only a lull after a crowd and deadlines that differ by far from one head to the next."""


class View(NamedTuple):
    """What a learned policy sees of a decision, and room for the way there.

    Attributes:
        base: row (or HOLD, REJECT), items and until when, of the base policy.
        picked: room for a number of every candidate.
        chosen: the rows that are considered; for ROWS numbers.
        extremes: room for EXTREMES numbers.
        lines: [ROWS, FEATURES], the features of the rows that are considered.
        context: [CONTEXT].
        mask: [ACTIONS], 1 for what is allowed.
    """

    base: Column
    picked: Column
    chosen: Column
    extremes: Column
    lines: Table
    context: Column
    mask: Column


@compiled
def contrast(a: float, b: float) -> float:
    """Return (a − b)/(a + b) of two numbers from 0 on; 0 when both are 0, or one is unbounded and so says nothing."""
    total = a + b
    if total <= 0:
        return 0.0
    if total == math.inf:
        return 0.0 if a == b else (1.0 if a > b else -1.0)
    return (a - b) / total


@compiled
def share(a: float, b: float) -> float:
    """Return a/(a + b) of two numbers from 0 on; 0 when a is 0, 1 when it is unbounded."""
    if a == math.inf:
        return 1.0
    return a / (a + b) if a > 0 else 0.0


@compiled
def encode(memory: Table, rows: Table, count: int, query: Column, considered: int, view: View) -> None:
    """Write the features of the rows that ``view.chosen`` names, line by line, and the context.

    ``query`` has a preference, and ``view`` what the base policy decides and the rows that are chosen, up to ROWS.
    """
    lines, context, extremes = view.lines, view.context, view.extremes
    _find_extremes(rows, view.chosen, considered, extremes)
    slack_s = max(0.0, query[col.HEAD_DEADLINE_S] - query[col.NOW_S])
    tail_slack_s = max(0.0, query[col.TAIL_DEADLINE_S] - query[col.NOW_S])
    with_room, idle, timely, known = 0.0, 0.0, 0.0, 0.0
    for line in range(considered):
        row = int(view.chosen[line])
        _encode_row(rows, row, query, slack_s, tail_slack_s, extremes, lines[line])
        _encode_device(memory, rows, row, lines[line])
        lines[line][feat.BASE_CHOICE] = 1.0 if row == int(view.base[col.DECIDED_ROW]) else 0.0
        with_room += lines[line][feat.HAS_ROOM]
        idle += lines[line][feat.IS_IDLE]
        timely += lines[line][feat.TIMELY]
        known += lines[line][feat.JOULES_KNOWN]
    number = max(1.0, float(considered))
    queued = query[col.QUEUE_ITEMS]
    context[feat.CONTEXT_QUEUE] = queued / (queued + extremes[_BATCHES]) if queued > 0 else 0.0
    context[feat.CONTEXT_HEAD_SLACK] = contrast(slack_s, query[col.SLACK_MARGIN] * extremes[_LEAST_SERVICE])
    context[feat.CONTEXT_TAIL_SLACK] = contrast(tail_slack_s, slack_s)
    context[feat.CONTEXT_HEAD_FILL] = query[col.HEAD_ITEMS] / extremes[_LARGEST_BATCH] if considered > 0 else 0.0
    context[feat.CONTEXT_MIN_ACCURACY] = query[col.MIN_ACCURACY]
    context[feat.CONTEXT_PREFER_ACCURACY] = query[col.PREFER_ACCURACY]
    context[feat.CONTEXT_PREFER_LATENCY] = query[col.PREFER_LATENCY]
    context[feat.CONTEXT_PREFER_ENERGY] = query[col.PREFER_ENERGY]
    context[feat.CONTEXT_CANDIDATES] = considered / (considered + 16.0)
    context[feat.CONTEXT_WITH_ROOM] = with_room / number
    context[feat.CONTEXT_IDLE] = idle / number
    context[feat.CONTEXT_TIMELY] = timely / number
    context[feat.CONTEXT_SERVICE_SPREAD] = contrast(extremes[_MOST_SERVICE], extremes[_LEAST_SERVICE])
    context[feat.CONTEXT_ACCURACY_SPREAD] = extremes[_MOST_ACCURACY] - extremes[_LEAST_ACCURACY]
    context[feat.CONTEXT_BASE_HOLDS] = 1.0 if view.base[col.DECIDED_ROW] == HOLD else 0.0
    context[feat.CONTEXT_BASE_REJECTS] = 1.0 if view.base[col.DECIDED_ROW] == REJECT else 0.0
    context[feat.CONTEXT_CLASSES] = share(query[col.OTHER_QUEUES], 1.0)
    context[feat.CONTEXT_OTHERS] = share(query[col.OTHER_ITEMS], queued)
    context[feat.CONTEXT_JOULES_KNOWN] = known / number
    _encode_arrivals(memory, rows, count, slack_s, extremes[_LARGEST_BATCH], context)


@compiled
def _encode_arrivals(
    memory: Table, rows: Table, count: int, slack_s: float, largest_batch: float, context: Column
) -> None:
    widest_rps, narrowest_rps, slowest_rps, quickest_rps = 0.0, 0.0, 0.0, 0.0
    for row in range(count):
        rate_rps = capacity_rps(row, rows)
        if row == 0 or rows[col.ROW_SERVER][row] != rows[col.ROW_SERVER][row - 1]:
            widest_rps, narrowest_rps = widest_rps + slowest_rps, narrowest_rps + quickest_rps
            slowest_rps = quickest_rps = rate_rps
        else:
            slowest_rps, quickest_rps = min(slowest_rps, rate_rps), max(quickest_rps, rate_rps)
    widest_rps, narrowest_rps = widest_rps + slowest_rps, narrowest_rps + quickest_rps
    slow, of_late = slow_rps(memory), quick_rps(memory)
    context[feat.CONTEXT_LOAD_WIDEST] = share(slow, widest_rps)
    context[feat.CONTEXT_LOAD_NARROWEST] = share(slow, narrowest_rps)
    context[feat.CONTEXT_SURGE] = max(-_MOST_SURGE, min(_MOST_SURGE, contrast(of_late, slow)))
    context[feat.CONTEXT_SWING] = share(swing(memory), 1.0)
    context[feat.CONTEXT_JOINING] = share(slow * slack_s, largest_batch)


@compiled
def _find_extremes(rows: Table, chosen: Column, considered: int, extremes: Column) -> None:
    for place in range(EXTREMES):
        extremes[place] = 0.0
    if considered == 0:
        return
    for place in (_LEAST_SERVICE, _LEAST_COMPLETION, _LEAST_DRAIN, _LEAST_ACCURACY, _LEAST_JOULES):
        extremes[place] = math.inf
    for line in range(considered):
        row = int(chosen[line])
        extremes[_LEAST_SERVICE] = min(extremes[_LEAST_SERVICE], rows[col.ROW_SERVICE_S][row])
        extremes[_MOST_SERVICE] = max(extremes[_MOST_SERVICE], rows[col.ROW_SERVICE_S][row])
        extremes[_LEAST_COMPLETION] = min(extremes[_LEAST_COMPLETION], rows[col.ROW_COMPLETION_S][row])
        extremes[_LEAST_DRAIN] = min(extremes[_LEAST_DRAIN], rows[col.ROW_DRAIN_S][row])
        extremes[_LEAST_ACCURACY] = min(extremes[_LEAST_ACCURACY], rows[col.ROW_ACCURACY][row])
        extremes[_MOST_ACCURACY] = max(extremes[_MOST_ACCURACY], rows[col.ROW_ACCURACY][row])
        joules = rows[col.ROW_PER_ITEM_J][row] + rows[col.ROW_FIXED_J][row] / rows[col.ROW_ITEMS][row]
        if joules < extremes[_LEAST_JOULES]:  # NaN, which is unknown, is not
            extremes[_LEAST_JOULES] = max(0.0, joules)
        extremes[_BATCHES] += rows[col.ROW_MAX_BATCH][row]
        extremes[_LARGEST_BATCH] = max(extremes[_LARGEST_BATCH], rows[col.ROW_MAX_BATCH][row])


@compiled
def _encode_row(
    rows: Table, row: int, query: Column, slack_s: float, tail_slack_s: float, extremes: Column, line: Column
) -> None:
    margin, items, most = margin_of(row, rows, query), rows[col.ROW_ITEMS][row], rows[col.ROW_MAX_BATCH][row]
    completion_s, drain_s = rows[col.ROW_COMPLETION_S][row], rows[col.ROW_DRAIN_S][row]
    service_s, accuracy = rows[col.ROW_SERVICE_S][row], rows[col.ROW_ACCURACY][row]
    least, spread = extremes[_LEAST_ACCURACY], extremes[_MOST_ACCURACY] - extremes[_LEAST_ACCURACY]
    line[feat.HEAD_IN_TIME] = contrast(slack_s, margin * completion_s)
    line[feat.HEAD_ALONE_IN_TIME] = contrast(slack_s, margin * rows[col.ROW_HEAD_COMPLETION_S][row])
    line[feat.TAIL_IN_TIME] = contrast(tail_slack_s, margin * drain_s)
    line[feat.SERVICE_RATIO] = contrast(service_s, extremes[_LEAST_SERVICE])
    line[feat.COMPLETION_RATIO] = contrast(completion_s, extremes[_LEAST_COMPLETION])
    line[feat.WAIT_SHARE] = rows[col.ROW_WAIT_S][row] / completion_s if completion_s > 0 else 0.0
    line[feat.DRAIN_RATIO] = contrast(drain_s, extremes[_LEAST_DRAIN])
    line[feat.FILL] = items / most
    line[feat.QUEUE_SHARE] = items / max(items, query[col.QUEUE_ITEMS])
    line[feat.LAUNCH_SHARE] = rows[col.ROW_FIXED_S][row] / service_s if service_s > 0 else 0.0
    line[feat.ACCURACY_POSITION] = (accuracy - least) / spread if spread > 0 else 0.0
    line[feat.ACCURACY] = accuracy
    per_item_j, fixed_j = rows[col.ROW_PER_ITEM_J][row], rows[col.ROW_FIXED_J][row]
    joules, full_j = max(0.0, per_item_j + fixed_j / items), max(0.0, per_item_j + fixed_j / most)
    is_known = not math.isnan(per_item_j + fixed_j)
    line[feat.JOULES_KNOWN] = 1.0 if is_known else 0.0
    line[feat.JOULES_RATIO] = contrast(joules, extremes[_LEAST_JOULES]) if is_known else 0.0
    line[feat.JOULES_UNFILLED] = max(0.0, contrast(joules, full_j)) if is_known else 0.0
    line[feat.HAS_ROOM] = rows[col.ROW_HAS_ROOM][row]
    held = rows[col.ROW_SERVER_ITEMS][row]
    line[feat.LOAD] = held / (held + most)
    line[feat.OVERDUE] = 1.0 - 1.0 / max(1.0, rows[col.ROW_OVERDUE_RATIO][row])
    line[feat.INSTANCES] = 1.0 - 1.0 / max(1.0, rows[col.ROW_INSTANCES][row])
    is_timely = completion_s * margin <= slack_s and drain_s * margin <= tail_slack_s
    line[feat.TIMELY] = 1.0 if is_timely else 0.0
    line[feat.IS_IDLE] = 1.0 if held == 0 else 0.0
    line[feat.WIDTH] = rows[col.ROW_WIDTH][row] / 100
    line[feat.PRESENT] = 1.0


@compiled
def _encode_device(memory: Table, rows: Table, row: int, line: Column) -> None:
    """Write what a server's device shows."""
    known = 0.0
    for feature, column in (
        (feat.UTILISATION, col.ROW_UTILISATION),
        (feat.MEMORY, col.ROW_MEMORY),
        (feat.POWER, col.ROW_POWER),
    ):
        value = rows[column][row]
        is_known = not math.isnan(value)
        known += is_known
        line[feature] = max(0.0, min(1.0, value)) if is_known else 0.0
    line[feat.TELEMETRY_KNOWN] = known / 3
    slowed = slowed_ratio(memory, row, rows)
    line[feat.SLOWED] = (slowed - 1) / (slowed + 1)
