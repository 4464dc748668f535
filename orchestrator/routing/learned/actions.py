"""What a learned policy may do: send one of the candidates that are considered, or hold.

Action k < ROWS sends the k-th candidate that is considered, with the items of its row (of the base policy's own choice,
the items that it takes); action HOLD_ACTION holds. A decision is one choice among all of them, because which server,
width and group are valid together can't be said of each alone (sb3-contrib's issues 16 and 242). To reject is no
action: the router sheds by itself what can't be in time.

The mask never hides what the base policy would do, so something is always allowed. Otherwise a candidate needs room,
and must be in time with the head alone when any candidate with room is; holding needs time: half of what is left
until the quickest candidate would be late is the longest that it lasts, so that a hold never makes the head late by
itself, and an arrival ends it sooner.

With more than ROWS candidates, the servers that would answer the head first are considered, the base policy's choice
always among them; so the cost of scoring does not grow with the fleet.
"""

from __future__ import annotations

import math
from typing import Final

from orchestrator.routing.compiled import Column, Table, compiled
from orchestrator.routing.fields import (
    HEAD_DEADLINE_S,
    NOW_S,
    ROW_HAS_ROOM,
    ROW_HEAD_COMPLETION_S,
    ROW_ITEMS,
    ROW_SERVER,
    SLACK_MARGIN,
)
from orchestrator.routing.learned.features import ROWS
from orchestrator.routing.width_rules import is_in_time

HOLD_ACTION: Final = ROWS
ACTIONS: Final = ROWS + 1


@compiled
def select_rows(rows: Table, count: int, base_row: int, picked: Column, chosen: Column) -> int:
    """Write the rows that are considered to ``chosen``, ascending; return how many.

    Args:
        rows: the candidates.
        count: of them.
        base_row: the base policy's choice, negative for none.
        picked: room for ``count`` numbers.
        chosen: room for ROWS.
    """
    if count <= ROWS:
        for row in range(count):
            chosen[row] = row
        return count
    for row in range(count):
        picked[row] = 0.0
    left = ROWS
    if base_row >= 0:
        left -= _pick_server(rows, count, base_row, picked, left)
    while left > 0:
        best = -1
        for row in range(count):
            if picked[row] == 0 and (best < 0 or rows[ROW_HEAD_COMPLETION_S][row] < rows[ROW_HEAD_COMPLETION_S][best]):
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
    server = rows[ROW_SERVER][row]
    first = row
    while first > 0 and rows[ROW_SERVER][first - 1] == server:
        first -= 1
    other = first
    while other < count and rows[ROW_SERVER][other] == server:
        if picked[other] == 0:
            if marked < left:
                picked[other] = 1.0
                marked += 1
            else:
                picked[other] = 2.0
        other += 1
    return marked


@compiled
def hold_until_s(rows: Table, chosen: Column, considered: int, ask: Column) -> float:
    """Return until when a hold lasts: half the time until the quickest candidate would be late; now when it is."""
    least_s = math.inf
    for line in range(considered):
        least_s = min(least_s, rows[ROW_HEAD_COMPLETION_S][int(chosen[line])])
    left_s = ask[HEAD_DEADLINE_S] - ask[NOW_S] - ask[SLACK_MARGIN] * least_s
    return ask[NOW_S] + max(0.0, left_s) / 2 if considered > 0 else ask[NOW_S]


@compiled
def write_mask(rows: Table, chosen: Column, considered: int, ask: Column, base: Column, mask: Column) -> int:
    """Write 1 for each action that is allowed, else 0; return how many are.

    Args:
        rows: the candidates.
        chosen: rows that are considered.
        considered: how many.
        ask: what waits.
        base: what the base policy decides: its row or HOLD, items, until when.
        mask: for ACTIONS numbers.
    """
    is_any_in_time = False
    for line in range(considered):
        row = int(chosen[line])
        if rows[ROW_HAS_ROOM][row] != 0 and is_in_time(rows[ROW_HEAD_COMPLETION_S][row], ask):
            is_any_in_time = True
    allowed = 0
    for line in range(ROWS):
        mask[line] = 0.0
        if line >= considered:
            continue
        row = int(chosen[line])
        is_useful = not is_any_in_time or is_in_time(rows[ROW_HEAD_COMPLETION_S][row], ask)
        if row == int(base[0]) or (rows[ROW_HAS_ROOM][row] != 0 and is_useful):
            mask[line] = 1.0
            allowed += 1
    lasts_s = hold_until_s(rows, chosen, considered, ask) - ask[NOW_S]
    # A hold of next to nothing would only have the same decided again.
    mask[HOLD_ACTION] = 1.0 if base[0] < 0 or lasts_s > 1e-4 * (ask[HEAD_DEADLINE_S] - ask[NOW_S]) else 0.0
    return allowed + int(mask[HOLD_ACTION])


@compiled
def do_action(
    action: int, rows: Table, chosen: Column, considered: int, ask: Column, base: Column
) -> tuple[int, float, float]:
    """Return what an action is: the row (negative to hold), the items, and until when to hold.

    Where there is no time to hold, that is what the base policy does.
    """
    if action == HOLD_ACTION or action >= considered:
        until_s = hold_until_s(rows, chosen, considered, ask)
        if base[0] < 0 or until_s <= ask[NOW_S]:
            return int(base[0]), base[1], base[2]
        return -1, 0.0, until_s
    row = int(chosen[action])
    return row, base[1] if row == int(base[0]) else rows[ROW_ITEMS][row], math.inf
