"""What a learned policy sees of a decision: the one encoder, live, in the simulator and in training.

A candidate that is considered is a line of ``FEATURES`` numbers, the rest a line of ``CONTEXT`` numbers. None has a
unit: a time appears only as its contrast to another time,

    contrast(a, b) = (a − b)/(a + b) = tanh(½·ln(a/b))

which is a log ratio that can't run away, is 0 for equal times, and costs no logarithm. So what was learned on one
machine means the same on one that is ten times faster. Slack below 0 counts as 0: late is late. Where joules are
unknown, feature 12 says so and 13 and 14 are 0. Nothing that the live router does not know of a candidate is used, so
``ROW_BACKLOG_S`` is not. At most ``ROWS`` candidates are considered, see ``orchestrator.policies.learned.actions``.

Feature table, version 3; m is the slack margin, all numbers lie in −1..1, those marked + in 0..1:

====  =====================  ==========================================================
 0    head_in_time           contrast of the head's slack and m · expected completion
 1    head_alone_in_time     likewise, were the head sent alone
 2    tail_in_time           contrast of the tail's slack and m · time until the queue has drained at this width
 3  + service_ratio          contrast of the group's service time and the least of all candidates
 4  + completion_ratio       likewise of completion
 5  + wait_share             part of the completion that is waiting
 6  + drain_ratio            contrast of the time to drain and the least of all candidates
 7  + fill                   items of the group over the most of a batch
 8  + queue_share            items of the group over all that waits
 9  + launch_share           part of the service time that does not grow with items
10  + accuracy_position      between the least and the most of all candidates
11  + accuracy               top-1, as a ratio
12  + joules_known           1 or 0
13  + joules_ratio           contrast of joules an item and the least known of all candidates
14  + joules_unfilled        contrast of joules an item in this group and in a full batch
15  + has_room               1 or 0
16  + load                   items that the server has over those and a full batch
17  + overdue                1 − 1/overdue ratio
18  + instances              1 − 1/instances
19  + timely                 1 when head and tail are in time, else 0
20  + base_choice            1 when the base policy would send this, else 0
21  + is_idle                1 when the server has nothing to do, else 0
22  + width                  ratio, 0.01..1
23  + present                1; 0 in lines that are not used
====  =====================  ==========================================================

Context table, version 3:

====  =====================  ==========================================================
 0  + queue                  items that wait over those and all batches of the candidates
 1    head_slack             contrast of the head's slack and m · least service time of all candidates
 2    tail_slack             contrast of the tail's slack and the head's
 3  + head_fill              items of the head over the largest batch of the candidates
 4  + min_accuracy           the head's floor, as a ratio
 5  + prefer_accuracy        weight; the policy's own where the head has no preference
 6  + prefer_latency         likewise
 7  + prefer_energy          likewise
 8  + candidates             n/(n + 16) of the candidates that are considered
 9  + with_room              part of them that have room
10  + idle                   part of them whose server is idle
11  + timely                 part of them that are timely
12  + service_spread         contrast of the most and the least service time
13  + accuracy_spread        most minus least accuracy
14  + base_holds             1 when the base policy sends nothing, else 0
15  + joules_known           part of the candidates whose joules are known
16  + load_widest            x/(1 + x) of items arriving of late over what the fleet can do at the slowest width of each
                             server, in full batches
17  + load_narrowest         likewise at the quickest width of each
18    surge                  contrast of what arrived in the last deadline and in the last eight, −¾..¾
19  + swing                  x/(1 + x) of the mean square of the first over the second, less 1
20  + joining                x/(1 + x) of items that will arrive in the head's slack over the largest batch
====  =====================  ==========================================================
"""

from __future__ import annotations

import math
from typing import Final

from orchestrator.policies.learned.arrivals import quick_rps, slow_rps, swing
from orchestrator.policies.tables import columns as col
from orchestrator.policies.tables.compiled import Column, Table, compiled

VERSION: Final = 3
"""Of both tables and of what is masked; a policy of another version is refused."""
ROWS: Final = 32
"""Candidates that are considered at the most: eight servers of four widths."""
FEATURE_NAMES: Final = (
    "head_in_time",
    "head_alone_in_time",
    "tail_in_time",
    "service_ratio",
    "completion_ratio",
    "wait_share",
    "drain_ratio",
    "fill",
    "queue_share",
    "launch_share",
    "accuracy_position",
    "accuracy",
    "joules_known",
    "joules_ratio",
    "joules_unfilled",
    "has_room",
    "load",
    "overdue",
    "instances",
    "timely",
    "base_choice",
    "is_idle",
    "width",
    "present",
)
CONTEXT_NAMES: Final = (
    "queue",
    "head_slack",
    "tail_slack",
    "head_fill",
    "min_accuracy",
    "prefer_accuracy",
    "prefer_latency",
    "prefer_energy",
    "candidates",
    "with_room",
    "idle",
    "timely",
    "service_spread",
    "accuracy_spread",
    "base_holds",
    "joules_known",
    "load_widest",
    "load_narrowest",
    "surge",
    "swing",
    "joining",
)
FEATURES: Final = 24
CONTEXT: Final = 21
OBSERVATION: Final = ROWS * FEATURES + CONTEXT
"""Numbers of an observation: the lines of the candidates one after another, unused ones 0, then the context."""
BASE_CHOICE: Final = 20
PRESENT: Final = 23
SIGNED_FEATURES: Final = (0, 1, 2)
SIGNED_CONTEXT: Final = (1, 2, 18)

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
def encode(
    memory: Table,
    rows: Table,
    count: int,
    chosen: Column,
    considered: int,
    query: Column,
    base: Column,
    extremes: Column,
    lines: Table,
    context: Column,
) -> None:
    """Write the features of the rows that ``chosen`` names, line by line, and the context.

    Args:
        memory: of what has arrived.
        rows: the candidates.
        count: of them.
        chosen: rows that are considered; the first ``considered``.
        considered: how many, up to ROWS.
        query: what waits, with a preference.
        base: what the base policy decides: its row or HOLD, items, until when.
        extremes: room for EXTREMES numbers.
        lines: [line, feature]; as many as are considered are written.
        context: to be written.
    """
    _find_extremes(rows, chosen, considered, extremes)
    slack_s = max(0.0, query[col.HEAD_DEADLINE_S] - query[col.NOW_S])
    tail_slack_s = max(0.0, query[col.TAIL_DEADLINE_S] - query[col.NOW_S])
    with_room, idle, timely, known = 0.0, 0.0, 0.0, 0.0
    for line in range(considered):
        row = int(chosen[line])
        _encode_row(rows, row, query, slack_s, tail_slack_s, extremes, lines[line])
        lines[line][BASE_CHOICE] = 1.0 if row == int(base[0]) else 0.0
        with_room += lines[line][15]
        idle += lines[line][21]
        timely += lines[line][19]
        known += lines[line][12]
    number = max(1.0, float(considered))
    queued = query[col.QUEUE_ITEMS]
    context[0] = queued / (queued + extremes[_BATCHES]) if queued > 0 else 0.0
    context[1] = contrast(slack_s, query[col.SLACK_MARGIN] * extremes[_LEAST_SERVICE])
    context[2] = contrast(tail_slack_s, slack_s)
    context[3] = query[col.HEAD_ITEMS] / extremes[_LARGEST_BATCH] if considered > 0 else 0.0
    context[4] = query[col.MIN_ACCURACY]
    context[5] = query[col.PREFER_ACCURACY]
    context[6] = query[col.PREFER_LATENCY]
    context[7] = query[col.PREFER_ENERGY]
    context[8] = considered / (considered + 16.0)
    context[9] = with_room / number
    context[10] = idle / number
    context[11] = timely / number
    context[12] = contrast(extremes[_MOST_SERVICE], extremes[_LEAST_SERVICE])
    context[13] = extremes[_MOST_ACCURACY] - extremes[_LEAST_ACCURACY]
    context[14] = 1.0 if base[0] < 0 else 0.0
    context[15] = known / number
    _encode_arrivals(memory, rows, count, slack_s, extremes[_LARGEST_BATCH], context)


@compiled
def _encode_arrivals(
    memory: Table, rows: Table, count: int, slack_s: float, largest_batch: float, context: Column
) -> None:
    widest_rps, narrowest_rps, slowest_rps, quickest_rps = 0.0, 0.0, 0.0, 0.0
    for row in range(count):
        most = rows[col.ROW_MAX_BATCH][row]
        took_s = rows[col.ROW_PER_ITEM_S][row] * most + rows[col.ROW_FIXED_S][row]
        rate_rps = rows[col.ROW_INSTANCES][row] * most / took_s if took_s > 0 else math.inf
        if row == 0 or rows[col.ROW_SERVER][row] != rows[col.ROW_SERVER][row - 1]:
            widest_rps, narrowest_rps = widest_rps + slowest_rps, narrowest_rps + quickest_rps
            slowest_rps = quickest_rps = rate_rps
        else:
            slowest_rps, quickest_rps = min(slowest_rps, rate_rps), max(quickest_rps, rate_rps)
    widest_rps, narrowest_rps = widest_rps + slowest_rps, narrowest_rps + quickest_rps
    slow, of_late = slow_rps(memory), quick_rps(memory)
    context[16] = share(slow, widest_rps)
    context[17] = share(slow, narrowest_rps)
    context[18] = max(-_MOST_SURGE, min(_MOST_SURGE, contrast(of_late, slow)))
    context[19] = share(swing(memory), 1.0)
    context[20] = share(slow * slack_s, largest_batch)


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
    margin, items, most = query[col.SLACK_MARGIN], rows[col.ROW_ITEMS][row], rows[col.ROW_MAX_BATCH][row]
    completion_s, drain_s, service_s = (
        rows[col.ROW_COMPLETION_S][row],
        rows[col.ROW_DRAIN_S][row],
        rows[col.ROW_SERVICE_S][row],
    )
    least, spread = extremes[_LEAST_ACCURACY], extremes[_MOST_ACCURACY] - extremes[_LEAST_ACCURACY]
    line[0] = contrast(slack_s, margin * completion_s)
    line[1] = contrast(slack_s, margin * rows[col.ROW_HEAD_COMPLETION_S][row])
    line[2] = contrast(tail_slack_s, margin * drain_s)
    line[3] = contrast(service_s, extremes[_LEAST_SERVICE])
    line[4] = contrast(completion_s, extremes[_LEAST_COMPLETION])
    line[5] = rows[col.ROW_WAIT_S][row] / completion_s if completion_s > 0 else 0.0
    line[6] = contrast(drain_s, extremes[_LEAST_DRAIN])
    line[7] = items / most
    line[8] = items / max(items, query[col.QUEUE_ITEMS])
    line[9] = rows[col.ROW_FIXED_S][row] / service_s if service_s > 0 else 0.0
    line[10] = (rows[col.ROW_ACCURACY][row] - least) / spread if spread > 0 else 0.0
    line[11] = rows[col.ROW_ACCURACY][row]
    per_item_j, fixed_j = rows[col.ROW_PER_ITEM_J][row], rows[col.ROW_FIXED_J][row]
    joules = max(0.0, per_item_j + fixed_j / items)
    is_known = not math.isnan(per_item_j + fixed_j)
    line[12] = 1.0 if is_known else 0.0
    line[13] = contrast(joules, extremes[_LEAST_JOULES]) if is_known else 0.0
    line[14] = max(0.0, contrast(joules, max(0.0, per_item_j + fixed_j / most))) if is_known else 0.0
    line[15] = rows[col.ROW_HAS_ROOM][row]
    held = rows[col.ROW_SERVER_ITEMS][row]
    line[16] = held / (held + most)
    line[17] = 1.0 - 1.0 / max(1.0, rows[col.ROW_OVERDUE_RATIO][row])
    line[18] = 1.0 - 1.0 / max(1.0, rows[col.ROW_INSTANCES][row])
    is_timely = completion_s * margin <= slack_s and drain_s * margin <= tail_slack_s
    line[19] = 1.0 if is_timely else 0.0
    line[21] = 1.0 if held == 0 else 0.0
    line[22] = rows[col.ROW_WIDTH][row] / 100
    line[PRESENT] = 1.0


assert len(FEATURE_NAMES) == FEATURES
assert len(CONTEXT_NAMES) == CONTEXT
