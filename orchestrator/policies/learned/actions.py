"""What a learned policy may do: give the head up, hold for so long, or send a candidate that is considered.

Action REJECT_ACTION gives the head up; HOLD_ACTION and those behind it hold, for a half, a quarter and an eighth of the
time that is left; then each line has two, to send all items of its row (of the base policy's own choice, the items that
it takes) and to send half of them. A decision is one choice among all of these, because which server, width and batch
are valid together can't be said of each alone (sb3-contrib's issues 16 and 242). With fewer lines there are fewer
actions, and the same ones.

The mask never hides what the base policy would do, so something is always allowed. Otherwise a candidate needs room;
must leave the head and those behind it in time when any candidate with room does, or the head alone when any does that;
and no other such candidate may be as accurate, as soon and as frugal: of the hundred things that could be done few are
ever right, and whoever explores should not have to find out which by doing them. Half of a batch is only for where
another server has room for the rest. The head is given up only in place of being sent, while no candidate, with room or
without, leaves it and those behind it in time, and where the router refuses what would be late: who sets no deadline of
his own wants his answer late too. Holding needs a reason, a better candidate that is busy or a batch that
saves joules when it is fuller and is expected to become so, and time: half of what is left until the quickest candidate
would be late is the longest that it lasts, so that a hold never makes the head late by itself; what ends it sooner says
orchestrator.policies.learned.memory.

With more than ROWS candidates each server keeps as many as fit: the most accurate that leaves the head in time, the
quickest, then those between, and the base policy's choice always; so all servers of a fleet of ROWS are seen, and the
cost of scoring does not grow any further. Of still more, the servers that would answer the head first are considered.
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
from orchestrator.policies.tables.layout import HOLD, REJECT

TIMELY: Final = 2  # what is asked of candidates
HEAD_IN_TIME: Final = 1
ANYTHING: Final = 0
REJECT_ACTION: Final = 0
HOLD_ACTION: Final = 1
HOLD_PARTS: Final = (1 / 2, 1 / 4, 1 / 8)
"""Of the time that is left, for which an action from HOLD_ACTION on holds."""
FIRST_SEND: Final = HOLD_ACTION + len(HOLD_PARTS)
BATCHES: Final = 2
"""Actions of a line: its whole batch, and half of it."""

LEAST_HOLD: Final = 1e-4
"""Of the time until the head's deadline; who held for less would only decide the same again."""

_UNSEEN: Final = 0.0  # what is noted of a row
_PICKED: Final = 1.0
_LEFT_OUT: Final = 2.0


def action_count(lines: int) -> int:
    """Return how many actions there are with so many lines."""
    return FIRST_SEND + BATCHES * lines


ACTIONS: Final = action_count(feat.ROWS)


@compiled
def line_of_action(action: int) -> int:
    """Return the line that an action sends, -1 for one that sends nothing."""
    return (action - FIRST_SEND) // BATCHES if action >= FIRST_SEND else -1


@compiled
def select_rows(rows: Table, count: int, base_row: int, query: Column, picked: Column, chosen: Column) -> int:
    """Write the rows that are considered to ``chosen``, ascending; return how many.

    The base policy's choice is negative for none; ``picked`` has room for ``count`` numbers, ``chosen`` for ROWS.
    """
    if count <= feat.ROWS:
        for row in range(count):
            chosen[row] = row
        return count
    servers = 0
    for row in range(count):
        picked[row] = _UNSEEN
        servers += _begins_server(row, rows)
    if servers > feat.ROWS:
        _leave_out_late_servers(rows, count, base_row, picked)
        servers = feat.ROWS
    first = 0
    for row in range(1, count + 1):
        if row == count or _begins_server(row, rows):
            if picked[first] != _LEFT_OUT:
                _pick_rows(first, row, feat.ROWS // servers, base_row, rows, query, picked)
            first = row
    considered = 0
    for row in range(count):
        if picked[row] == _PICKED:
            chosen[considered] = row
            considered += 1
    return considered


@compiled
def _begins_server(row: int, rows: Table) -> bool:
    return row == 0 or rows[col.ROW_SERVER][row] != rows[col.ROW_SERVER][row - 1]


@compiled
def _leave_out_late_servers(rows: Table, count: int, base_row: int, picked: Column) -> None:
    """Mark all rows but those of the ROWS servers whose narrowest width would answer the head first."""
    left = feat.ROWS
    if base_row >= 0:
        first = base_row
        while not _begins_server(first, rows):
            first -= 1
        picked[first] = _PICKED
        left -= 1
    for _ in range(left):
        best = -1
        for row in range(count):
            if not _begins_server(row, rows) or picked[row] != _UNSEEN:
                continue
            if best < 0 or rows[col.ROW_HEAD_COMPLETION_S][row] < rows[col.ROW_HEAD_COMPLETION_S][best]:
                best = row
        picked[best] = _PICKED
    is_out = False
    for row in range(count):
        if _begins_server(row, rows):
            is_out = picked[row] != _PICKED
        picked[row] = _LEFT_OUT if is_out else _UNSEEN


@compiled
def _pick_rows(first: int, end: int, most: int, base_row: int, rows: Table, query: Column, picked: Column) -> None:
    """Mark ``most`` rows of a server, whose rows are those from ``first`` on and before ``end``."""
    widest = first  # in time
    for row in range(first, end):
        if is_head_in_time(row, rows, query):
            widest = row
    left = _pick(base_row, most, picked) if first <= base_row < end else most
    left = _pick(first, _pick(widest, left, picked), picked)
    for row in range(widest - 1, first, -1):
        left = _pick(row, left, picked)
    for row in range(widest + 1, end):
        left = _pick(row, left, picked)


@compiled
def _pick(row: int, left: int, picked: Column) -> int:
    """Mark a row while any may be; return how many still may."""
    if left > 0 and picked[row] == _UNSEEN:
        picked[row] = _PICKED
        left -= 1
    return left


@compiled
def hold_until_s(rows: Table, chosen: Column, considered: int, query: Column, part: float) -> float:
    """Return when that part is over of the time until the quickest candidate would be late; now when that is past."""
    least_s = math.inf
    for line in range(considered):
        row = int(chosen[line])
        least_s = min(least_s, rows[col.ROW_HEAD_COMPLETION_S][row] * margin_of(row, rows, query))
    left_s = query[col.HEAD_DEADLINE_S] - query[col.NOW_S] - least_s
    return query[col.NOW_S] + max(0.0, left_s) * part if considered > 0 else query[col.NOW_S]


@compiled
def write_mask(
    memory: Table, rows: Table, chosen: Column, considered: int, query: Column, base: Column, mask: Column
) -> int:
    """Write 1 for each of the ACTIONS that is allowed, else 0; return how many are.

    ``base`` is what the base policy decides: its row or HOLD or REJECT, items, until when.
    """
    need = _need(rows, chosen, considered, query)
    lasts_s = hold_until_s(rows, chosen, considered, query, HOLD_PARTS[0]) - query[col.NOW_S]
    fills = may_fill(lasts_s, memory, query)
    can_send, is_hold_useful, is_any_timely = False, False, False
    only_with_room = _only_server_with_room(rows, chosen, considered)
    for action in range(ACTIONS):
        mask[action] = 0.0
    for line in range(considered):
        row = int(chosen[line])
        has_room = rows[col.ROW_HAS_ROOM][row] != 0
        is_any_timely = is_any_timely or _meets(row, TIMELY, rows, query)
        is_worth_it = _meets(row, need, rows, query) and not _is_dominated(line, need, rows, chosen, considered, query)
        if row == int(base[col.DECIDED_ROW]) or (has_room and is_worth_it):
            can_send = True
            mask[FIRST_SEND + BATCHES * line] = 1.0
            items = _items(row, rows, base)
            if rows[col.ROW_SERVER][row] != only_with_room and _half(items, query) < items:
                mask[FIRST_SEND + BATCHES * line + 1] = 1.0
        if is_worth_it:  # a better one is busy, or its batch can become fuller
            items = rows[col.ROW_ITEMS][row]
            is_filling = items >= query[col.QUEUE_ITEMS] and items < rows[col.ROW_MAX_BATCH][row]
            saves = fills and is_filling and rows[col.ROW_FIXED_J][row] > 0  # not when unknown
            is_hold_useful = is_hold_useful or not has_room or saves
    # While nothing has room all holds are one.
    if can_send and is_hold_useful and lasts_s > LEAST_HOLD * (query[col.HEAD_DEADLINE_S] - query[col.NOW_S]):
        for part in range(len(HOLD_PARTS)):
            mask[HOLD_ACTION + part] = 1.0
    if base[col.DECIDED_ROW] == HOLD:
        mask[HOLD_ACTION] = 1.0
    if base[col.DECIDED_ROW] == REJECT or (query[col.REFUSES_LATE] != 0 and can_send and not is_any_timely):
        mask[REJECT_ACTION] = 1.0
    allowed = 0
    for action in range(FIRST_SEND + BATCHES * considered):
        allowed += int(mask[action])
    return allowed


@compiled
def _only_server_with_room(rows: Table, chosen: Column, considered: int) -> float:
    """Return the only server with room for anything, by its index; -1 when none has, -2 when several have."""
    found = -1.0
    for line in range(considered):
        row = int(chosen[line])
        server = rows[col.ROW_SERVER][row]
        if rows[col.ROW_HAS_ROOM][row] != 0 and server != found:
            found = server if found == -1 else -2.0
            if found == -2:
                break
    return found


@compiled
def _items(row: int, rows: Table, base: Column) -> float:
    """Return the items of a row's whole batch: of the base policy's own choice, those that it takes."""
    return base[col.DECIDED_ITEMS] if row == int(base[col.DECIDED_ROW]) else rows[col.ROW_ITEMS][row]


@compiled
def _half(items: float, query: Column) -> float:
    return max(query[col.HEAD_ITEMS], math.ceil(items / 2))


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
    """Return what an action is: the row, or HOLD or REJECT, the items, and until when to hold.

    Where the base policy holds too, HOLD_ACTION is its hold. Where there is no time to hold, to hold is what the base
    policy does; so is to send a line that is not used.
    """
    line = line_of_action(action)
    if 0 <= line < considered:
        row = int(chosen[line])
        items = _items(row, rows, base)
        return row, (items if (action - FIRST_SEND) % BATCHES == 0 else _half(items, query)), math.inf
    if action == REJECT_ACTION:
        return REJECT, 0.0, math.inf
    part = HOLD_PARTS[action - HOLD_ACTION] if HOLD_ACTION <= action < FIRST_SEND else HOLD_PARTS[0]
    until_s = hold_until_s(rows, chosen, considered, query, part)
    if (base[col.DECIDED_ROW] == HOLD and action == HOLD_ACTION) or until_s <= query[col.NOW_S]:
        return int(base[col.DECIDED_ROW]), base[col.DECIDED_ITEMS], base[col.DECIDED_UNTIL_S]
    return HOLD, 0.0, until_s
