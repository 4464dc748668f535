"""What a learned policy may do: send one of the candidates that are considered, or hold.

Action k < ROWS sends the k-th candidate that is considered, with the items of its row (of the base policy's own choice,
the items that it takes); action HOLD_ACTION holds. A decision is one choice among all of them, because which server,
width and batch are valid together can't be said of each alone (sb3-contrib's issues 16 and 242). To reject is no
action: the router sheds by itself what can't be in time.

The mask never hides what the base policy would do, so something is always allowed. Otherwise a candidate needs room;
must leave the head and those behind it in time when any candidate with room does, or the head alone when any does that;
and no other such candidate may be as accurate, as soon and as frugal: of the hundred things that could be done few are
ever right, and whoever explores should not have to find out which by doing them. Holding needs a reason, a better
candidate that is busy or a batch that saves joules when it is fuller and is expected to become so, and time: half of
what is left until the quickest candidate would be late is the longest that it lasts, so that a hold never makes the
head late by itself; what ends it sooner says orchestrator.policies.learned.memory.

With more than ROWS candidates, the servers that would answer the head first are considered, the base policy's choice
always among them; so the cost of scoring does not grow with the fleet.
"""

from __future__ import annotations

import math
from typing import Final

from orchestrator.policies.learned import features as feat
from orchestrator.policies.learned.memory import may_fill
from orchestrator.policies.rules.width_rules import is_head_in_time, is_timely
from orchestrator.policies.tables import columns as col
from orchestrator.policies.tables.candidates import margin_of
from orchestrator.policies.tables.compiled import Column, Table, compiled

TIMELY: Final = 2  # what is asked of candidates
HEAD_IN_TIME: Final = 1
ANYTHING: Final = 0
HOLD_ACTION: Final = feat.ROWS
ACTIONS: Final = feat.ROWS + 1


@compiled
def select_rows(rows: Table, count: int, base_row: int, picked: Column, chosen: Column) -> int:
    """Write the rows that are considered to ``chosen``, ascending; return how many.

    The base policy's choice is negative for none; ``picked`` has room for ``count`` numbers, ``chosen`` for ROWS.
    """
    if count <= feat.ROWS:
        for row in range(count):
            chosen[row] = row
        return count
    for row in range(count):
        picked[row] = 0.0
    left = feat.ROWS
    if base_row >= 0:
        left -= _pick_server(rows, count, base_row, picked, left)
    while left > 0:
        best = -1
        for row in range(count):
            if picked[row] == 0 and (
                best < 0 or rows[col.ROW_HEAD_COMPLETION_S][row] < rows[col.ROW_HEAD_COMPLETION_S][best]
            ):
                best = row
        if best < 0:
            break
        left -= _pick_server(rows, count, best, picked, left)
    considered = 0
    for row in range(count):
        if picked[row] == 1:
            chosen[considered] = row
            considered += 1
    return considered


@compiled
def _pick_server(rows: Table, count: int, row: int, picked: Column, left: int) -> int:
    """Mark a row, then the other rows of its server as far as they fit; return how many. Others are marked 2: seen."""
    marked = 1
    picked[row] = 1.0
    server = rows[col.ROW_SERVER][row]
    first = row
    while first > 0 and rows[col.ROW_SERVER][first - 1] == server:
        first -= 1
    other = first
    while other < count and rows[col.ROW_SERVER][other] == server:
        if picked[other] == 0:
            if marked < left:
                picked[other] = 1.0
                marked += 1
            else:
                picked[other] = 2.0
        other += 1
    return marked


@compiled
def hold_until_s(rows: Table, chosen: Column, considered: int, query: Column) -> float:
    """Return until when a hold lasts: half the time until the quickest candidate would be late; now when it is."""
    least_s = math.inf
    for line in range(considered):
        row = int(chosen[line])
        least_s = min(least_s, rows[col.ROW_HEAD_COMPLETION_S][row] * margin_of(row, rows, query))
    left_s = query[col.HEAD_DEADLINE_S] - query[col.NOW_S] - least_s
    return query[col.NOW_S] + max(0.0, left_s) / 2 if considered > 0 else query[col.NOW_S]


@compiled
def write_mask(
    memory: Table, rows: Table, chosen: Column, considered: int, query: Column, base: Column, mask: Column
) -> int:
    """Write 1 for each of the ACTIONS that is allowed, else 0; return how many are.

    ``base`` is what the base policy decides: its row or HOLD, items, until when.
    """
    need = _need(rows, chosen, considered, query)
    lasts_s = hold_until_s(rows, chosen, considered, query) - query[col.NOW_S]
    fills, allowed, is_hold_useful = may_fill(lasts_s, memory, query), 0, False
    for line in range(feat.ROWS):
        mask[line] = 0.0
    for line in range(considered):
        row = int(chosen[line])
        has_room = rows[col.ROW_HAS_ROOM][row] != 0
        is_worth_it = _meets(row, need, rows, query) and not _is_dominated(line, need, rows, chosen, considered, query)
        if row == int(base[0]) or (has_room and is_worth_it):
            mask[line] = 1.0
            allowed += 1
        if is_worth_it:  # a better one is busy, or its batch can become fuller
            items = rows[col.ROW_ITEMS][row]
            is_filling = items >= query[col.QUEUE_ITEMS] and items < rows[col.ROW_MAX_BATCH][row]
            saves = fills and is_filling and rows[col.ROW_FIXED_J][row] > 0  # not when unknown
            is_hold_useful = is_hold_useful or not has_room or saves
    # A hold of next to nothing would only have the same decided again.
    is_long = lasts_s > 1e-4 * (query[col.HEAD_DEADLINE_S] - query[col.NOW_S])
    mask[HOLD_ACTION] = 1.0 if base[0] < 0 or (is_long and is_hold_useful) else 0.0
    return allowed + int(mask[HOLD_ACTION])


@compiled
def _need(rows: Table, chosen: Column, considered: int, query: Column) -> int:
    """Return the most that some candidate with room meets: TIMELY, else HEAD_IN_TIME, else nothing."""
    need = ANYTHING
    for line in range(considered):
        row = int(chosen[line])
        if rows[col.ROW_HAS_ROOM][row] != 0:
            if _meets(row, TIMELY, rows, query):
                return TIMELY
            if _meets(row, HEAD_IN_TIME, rows, query):
                need = HEAD_IN_TIME
    return need


@compiled
def _meets(row: int, need: int, rows: Table, query: Column) -> bool:
    if need == TIMELY:
        return is_timely(row, query[col.SLACK_MARGIN], rows, query)
    return need == ANYTHING or is_head_in_time(row, rows, query)


@compiled
def _is_dominated(line: int, need: int, rows: Table, chosen: Column, considered: int, query: Column) -> bool:
    """Return whether another candidate with room is as accurate, soon and frugal; of equals the first is not."""
    row = int(chosen[line])
    for other_line in range(considered):
        other = int(chosen[other_line])
        if other == row or rows[col.ROW_HAS_ROOM][other] == 0 or not _meets(other, need, rows, query):
            continue
        accuracy, most = rows[col.ROW_ACCURACY][other], rows[col.ROW_ACCURACY][row]
        completion_s, soonest_s = rows[col.ROW_COMPLETION_S][other], rows[col.ROW_COMPLETION_S][row]
        joules, least_j = _per_item_j(other, rows), _per_item_j(row, rows)
        if accuracy < most or completion_s > soonest_s or joules > least_j:
            continue
        is_equal = accuracy == most and completion_s == soonest_s and not joules < least_j
        if not is_equal or other_line < line:
            return True
    return False


@compiled
def _per_item_j(row: int, rows: Table) -> float:
    return rows[col.ROW_PER_ITEM_J][row] + rows[col.ROW_FIXED_J][row] / rows[col.ROW_ITEMS][row]


@compiled
def do_action(
    action: int, rows: Table, chosen: Column, considered: int, query: Column, base: Column
) -> tuple[int, float, float]:
    """Return what an action is: the row (negative to hold), the items, and until when to hold.

    Where there is no time to hold, that is what the base policy does.
    """
    if action == HOLD_ACTION or action >= considered:
        until_s = hold_until_s(rows, chosen, considered, query)
        if base[0] < 0 or until_s <= query[col.NOW_S]:
            return int(base[0]), base[1], base[2]
        return -1, 0.0, until_s
    row = int(chosen[action])
    return row, base[1] if row == int(base[0]) else rows[col.ROW_ITEMS][row], math.inf
