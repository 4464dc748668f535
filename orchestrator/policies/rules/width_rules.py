"""Rules that narrow the candidates down to one width, or to few.

Each takes the rows (at least one) and what is asked, and returns a width and which of its rows count: all (0), or those
that are in time, with the backlog's expected time multiplied by so much; a server rule then picks one of them.
"""

from __future__ import annotations

import math
from typing import Final

from orchestrator.policies.tables import columns as col
from orchestrator.policies.tables.candidates import margin_of, nearest_width
from orchestrator.policies.tables.compiled import Column, Table, compiled

DRAWN: Final = 0
WIDEST: Final = 1
NARROWEST: Final = 2
FIXED: Final = 3
SLACK: Final = 4
RESERVE: Final = 5
BROWNOUT: Final = 6
"""See orchestrator.policies.rules.brownout; the only one that remembers anything."""

_RESERVE_FACTOR: Final = 2.0
"""Half of the time that a backlog has is for what comes meanwhile, and for servers that stall."""


@compiled
def narrow(rule: int, fixed_width: float, rows: Table, count: int, query: Column) -> tuple[float, float]:
    """Return what the rule of that code leaves."""
    if rule == DRAWN:
        return _drawn_width(rows, count, query), 0.0
    if rule == WIDEST:
        return nearest_width(math.inf, rows, count), 0.0
    if rule == NARROWEST:
        return nearest_width(0.0, rows, count), 0.0
    if rule == FIXED:
        return nearest_width(fixed_width, rows, count), 0.0
    if rule == SLACK:
        return _by_slack(query[col.SLACK_MARGIN], rows, count, query)
    return _by_slack(max(_RESERVE_FACTOR, query[col.SLACK_MARGIN]), rows, count, query)


@compiled
def is_in_time(row: int, rows: Table, query: Column) -> bool:
    """Return whether a row's answer is expected to meet the head's deadline, with the row's margin."""
    slack_s = query[col.HEAD_DEADLINE_S] - query[col.NOW_S]
    return bool(rows[col.ROW_COMPLETION_S][row] * margin_of(row, rows, query) <= slack_s)


@compiled
def is_head_in_time(row: int, rows: Table, query: Column) -> bool:
    """Return the same of the head's answer were it sent alone."""
    slack_s = query[col.HEAD_DEADLINE_S] - query[col.NOW_S]
    return bool(rows[col.ROW_HEAD_COMPLETION_S][row] * margin_of(row, rows, query) <= slack_s)


@compiled
def is_kept(row: int, width: float, timely: float, rows: Table, query: Column) -> bool:
    """Return whether a row is among those that a width rule has left."""
    return rows[col.ROW_WIDTH][row] == width and (timely == 0 or is_timely(row, timely, rows, query))


@compiled
def is_timely(row: int, factor: float, rows: Table, query: Column) -> bool:
    """Return whether the head is in time and those behind it are, as far as can be said of a fleet.

    The time in which the backlog drains is multiplied by ``factor``, or by what others' part of the servers adds to it
    where that is more.
    """
    tail_slack_s = query[col.TAIL_DEADLINE_S] - query[col.NOW_S]
    factor = max(factor, query[col.SLACK_MARGIN] / query[col.SERVERS_SHARE])
    return is_in_time(row, rows, query) and rows[col.ROW_DRAIN_S][row] * factor <= tail_slack_s


@compiled
def _drawn_width(rows: Table, count: int, query: Column) -> float:
    """Every width is equally likely: the dispatch that the Slim Scheduler paper compares itself with."""
    widths = 1
    width = nearest_width(0.0, rows, count)
    while next_width(width, rows, count) < math.inf:
        width = next_width(width, rows, count)
        widths += 1
    width = nearest_width(0.0, rows, count)
    for _ in range(int(query[col.FIRST_UNIFORM] * widths)):
        width = next_width(width, rows, count)
    return width


@compiled
def next_width(width: float, rows: Table, count: int) -> float:
    """Return the next wider width that some row has; infinite when there is none."""
    following = math.inf
    for row in range(count):
        if width < rows[col.ROW_WIDTH][row] < following:
            following = rows[col.ROW_WIDTH][row]
    return following


@compiled
def _by_slack(factor: float, rows: Table, count: int, query: Column) -> tuple[float, float]:
    """The widest width at which the head meets its deadline and the queue behind it drains in time.

    Looking at the head alone would spend all its slack on accuracy and leave none to those behind, so a backlog
    must also drain, at that width on all servers, before nine of ten in the queue are due. When no width does both,
    the one that drains first is taken.

    With SLACK, a backlog may take all of that time, so under steady pressure answers come just before their deadlines
    and a server that stalls costs some. With RESERVE it may take half. That costs hardly any accuracy: in the long run
    the mean width is what the load leaves time for, and the backlog at which it gives way only says how late that is.
    """
    widest = 0.0
    for row in range(count):
        if rows[col.ROW_WIDTH][row] > widest and is_timely(row, factor, rows, query):
            widest = rows[col.ROW_WIDTH][row]
    if widest > 0:
        return widest, factor
    return soonest_drained(rows, count), 0.0


@compiled
def soonest_drained(rows: Table, count: int) -> float:
    """Return the width at which all that waits is answered first, the narrower of two."""
    best = 0
    for row in range(1, count):
        drain_s, best_s = rows[col.ROW_DRAIN_S][row], rows[col.ROW_DRAIN_S][best]
        if drain_s < best_s or (drain_s == best_s and rows[col.ROW_WIDTH][row] < rows[col.ROW_WIDTH][best]):
            best = row
    return rows[col.ROW_WIDTH][best]
