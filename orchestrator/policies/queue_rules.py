"""The rules of the router's queue: who goes first, who leaves a full queue, and who can't be answered in time any more.

They are functions of numbers, so a live router and the compiled loop of the simulator call the very same ones. Each
keeps its requests in its own way (objects and ``heapq`` there, tables here); what those do with a rule's answer is in
``orchestrator.router.queue`` and in ``orchestrator.simulation.world``. Why the rules are what they are is said in
``orchestrator.router.queue.shedding``.

Rules of single numbers are plain Python, which a live router calls quicker than compiled code; the simulator compiles
them. Therefore none of them calls another; those of candidates are compiled for both.
"""

from __future__ import annotations

import math
from typing import Final, NamedTuple

from orchestrator.policies.tables import columns as col
from orchestrator.policies.tables.candidates import capacity_rps, margin_of, nearest_width
from orchestrator.policies.tables.compiled import Column, Table, compiled

MANY_ITEMS: Final = 64
"""With fewer waiting nobody comes too late, and what can be answered at most need not be known."""
_FEW_ENTRIES: Final = 64  # of a heap whose requests have left it; never worth a rebuild
_SAMPLE: Final = 20
MOST_SAMPLED: Final = 2 * _SAMPLE
"""Entries that a sample of a heap holds at the most."""
_TAIL_RATIO: Final = 0.9


class QueueEstimate(NamedTuple):
    """What the last decision about a queue showed of it.

    Attributes:
        fastest_s: the least time of one item alone on an idle server, the margin included, seconds.
        item_drain_s: the least expected time for each item that waits, were the queue drained at one width; NaN while
            unknown.
        most_rps: items a second that all servers answer at their quickest widths; infinite while little waits.
    """

    fastest_s: float = 0.0
    item_drain_s: float = math.nan
    most_rps: float = math.inf


UNKNOWN: Final = QueueEstimate()
"""Before the first decision."""
MOST_ADDED: Final = 0.25
"""Part of a deadline that what was learned of margins may add at most to what a request is given up by."""


def order_key(priority: float, deadline_s: float) -> tuple[float, float]:
    """Return what waiting requests are ordered by: a lower key goes first, and the highest one leaves a full queue.

    Of equal keys the one that came first goes first, and the one that came last leaves.
    """
    return priority, deadline_s


def turn_key(priority: float, is_leading: bool, deadline_s: float) -> tuple[float, bool, float]:
    """Return what the heads of queues of several families are ordered by; a lower key goes first.

    Of equal priority those go first whose family does not lead (orchestrator.policies.family_turns).
    """
    return priority, is_leading, deadline_s


def is_beyond_limits(items: float, size_bytes: float, limit_items: float, limit_bytes: float) -> bool:
    """Return whether so much may not wait together."""
    return items > limit_items or size_bytes > limit_bytes


def has_to_leave(key: tuple[float, float], before: tuple[float, float], is_own: bool, is_fullest: bool) -> bool:
    """Return whether the request of a family that goes last has to leave a full queue for one that comes.

    Keys are those of ``order_key``, ``before`` is that of the one that comes. Of its own family what goes after it has
    to; of others what is less important, and of the one that fills most of the queue also what is as important.
    """
    if is_own:
        return key > before
    return key[0] > before[0] or (is_fullest and key[0] == before[0])


def filled_part(items: float, size_bytes: float, limit_items: float, limit_bytes: float, weight: float) -> float:
    """Return how much of a queue a family fills with so much, for each unit of its weight.

    Of families that fill it alike the one whose name comes last fills it most.
    """
    return (items / limit_items + size_bytes / limit_bytes) / weight


def leaving_rank(key: tuple[float, float], filled: float) -> tuple[float, float, float]:
    """Return what those that have to leave are ordered by, the highest first.

    The least important goes first; of equal priority, one of the family that fills most of the queue for its weight,
    and there the one that is due last.
    """
    return key[0], filled, key[1]


def sample_step(entries: int) -> int:
    """Return the distance between the entries of a queue's heap that stand for all of them; they are spread evenly."""
    return max(1, entries // _SAMPLE)


def tail_index(sampled: int) -> int:
    """Return which of so many ascending deadlines is the tail's: nine of ten are due by then.

    The latest deadline would not do: one request with a minute to spare says nothing of the thousand behind it.
    """
    return int(_TAIL_RATIO * (sampled - 1))


def is_mostly_gone(entries: int, requests: int) -> bool:
    """Return whether a heap of ``entries``, of which ``requests`` still wait, is worth a rebuild."""
    return entries > 2 * requests + _FEW_ENTRIES


def comes_too_late(items_before: float, most_rps: float, allowed_s: float) -> bool:
    """Return whether a request that has just come, with ``allowed_s`` to its deadline, can't have its turn in time.

    Its own items are among ``items_before``; ``most_rps`` is that of the QueueEstimate.
    """
    return items_before > most_rps * allowed_s


def expires_s(deadline_s: float, fastest_s: float) -> float:
    """Return when a request that waits is given up, on the clock of its deadline: before it, never after it."""
    return deadline_s - fastest_s


def was_possible(allowed_s: float, fastest_s: float) -> bool:
    """Return whether an idle server would have kept a deadline; else that it is missed says nothing of load."""
    return fastest_s < allowed_s


def is_overloaded(drain_s: float, tail_slack_s: float, margin: float) -> bool:
    """Return whether what waits can't be answered by the time that its tail is due.

    It takes the least expected time until all is answered at one width, and that until the tail is due.
    """
    return drain_s * margin > tail_slack_s


def longest_service_s(allowed_s: float, head_slack_s: float, tail_slack_s: float, margin: float) -> float:
    """Return how long the batch may run that a head needs time for.

    Two of them are to fit into the time from arrival to deadline, and into what the tail has left. And it is no longer
    than what the tail has left more than the head: heads make room for fuller batches of those who have more time than
    they, and in a burst nobody has.
    """
    return max(0.0, min(min(allowed_s, tail_slack_s) / (2 * margin), tail_slack_s - head_slack_s))


def head_batch(head_items: float, most_items: float, longest_s: float, per_item_s: float, fixed_s: float) -> float:
    """Return the items of the batch that an overloaded queue's head needs time for.

    No more than ``most_items`` wait and fit into a batch, and its service may take ``longest_service_s``.
    """
    if per_item_s <= 0:
        return head_items
    return max(head_items, min(math.floor((longest_s - fixed_s) / per_item_s), most_items))


def slack_used(elapsed_s: float, allowed_s: float, service_s: float) -> float:
    """Return how much of the time that it had to spare a request used from when it came to when it was answered.

    ``allowed_s`` is all the time that it had, ``service_s`` what its batch is expected to take alone. 0: it was
    answered as soon as could be; 1: at its deadline; more: late. Who has next to nothing to spare has used none of it,
    or is infinitely late; and who could not have been answered in time by an idle server says nothing of load: 0.
    """
    spare_s = allowed_s - service_s
    if spare_s <= 0:
        return 0.0
    if spare_s <= 0.1 * allowed_s:
        return 0.0 if elapsed_s <= allowed_s else math.inf
    return max(0.0, elapsed_s - service_s) / spare_s


_head_batch = compiled(head_batch)


class LeastTimes(NamedTuple):
    """What candidates show of their queue, in seconds; zeros and infinity when there are none.

    Attributes:
        fastest_s: the least time of one item alone on an idle server, the margin included as far as MOST_ADDED lets it.
        drain_s: the least expected time until the queue is drained at one width.
        drain_margin: the margin of the one that drains it, bounded likewise.
        soonest_s: the least time until the head is answered, with the margin by which it would be given up.
        most_rps: items a second that all servers answer in full batches, each at its quickest width; infinite while
            few wait.
    """

    fastest_s: float
    drain_s: float
    drain_margin: float
    soonest_s: float
    most_rps: float


@compiled
def _with_margin_s(expected_s: float, row: int, rows: Table, query: Column) -> float:
    """Return how long an answer may take, with its margin, as far as the head is given up for it.

    That adds no more than MOST_ADDED of the head's deadline. Where stalls are long beside deadlines a margin may be
    many times what a small batch takes. Then it could refuse almost everybody, at any load, and let only tiny batches
    be sent, of which the same margin is learned again.
    """
    added_s = expected_s * (margin_of(row, rows, query) - 1)
    if not math.isnan(query[col.HEAD_ARRIVED_S]):
        added_s = min(added_s, MOST_ADDED * (query[col.HEAD_DEADLINE_S] - query[col.HEAD_ARRIVED_S]))
    return expected_s + added_s


@compiled
def _cautious_s(expected_s: float, row: int, rows: Table, query: Column) -> float:
    """Return the same with at least the margin of the settings: whoever is to be given up is at its last moment."""
    return max(_with_margin_s(expected_s, row, rows, query), expected_s * query[col.SLACK_MARGIN])


@compiled
def only_width(rows: Table, count: int, query: Column) -> float:
    """Return the only width that the policy takes of some rows; NaN when it may take any, or takes the narrowest.

    What narrower ones could do is then no reason to let somebody wait: he would be answered at this one, and late.
    """
    only = query[col.ONLY_WIDTH]
    if math.isnan(only):
        return only
    width = nearest_width(only, rows, count)
    return width if width > nearest_width(0.0, rows, count) else math.nan


@compiled
def is_taken(row: int, only: float, rows: Table) -> bool:
    """Return whether a policy may take a row, by the only width that it takes; NaN: any."""
    return bool(math.isnan(only) or rows[col.ROW_WIDTH][row] == only)


@compiled
def least_times(rows: Table, count: int, query: Column) -> LeastTimes:
    """Return what candidates, on rows, show of their queue."""
    if count == 0:
        return LeastTimes(0.0, 0.0, 1.0, 0.0, math.inf)
    fastest_s, drain_s, soonest_s, drain_margin = math.inf, math.inf, math.inf, 1.0
    only = only_width(rows, count, query)
    for row in range(count):
        if not is_taken(row, only, rows):
            continue
        alone_s = rows[col.ROW_PER_ITEM_S][row] + rows[col.ROW_FIXED_S][row]
        fastest_s = min(fastest_s, _with_margin_s(alone_s, row, rows, query))
        soonest_s = min(soonest_s, _cautious_s(rows[col.ROW_HEAD_COMPLETION_S][row], row, rows, query))
        if rows[col.ROW_DRAIN_S][row] < drain_s:
            drain_s = rows[col.ROW_DRAIN_S][row]
            drain_margin = _with_margin_s(drain_s, row, rows, query) / drain_s if drain_s > 0 else 1.0
    if query[col.QUEUE_ITEMS] <= MANY_ITEMS:
        return LeastTimes(fastest_s, drain_s, drain_margin, soonest_s, math.inf)
    most_rps, of_server_rps = 0.0, 0.0
    for row in range(count):
        if row > 0 and rows[col.ROW_SERVER][row] != rows[col.ROW_SERVER][row - 1]:
            most_rps += of_server_rps
            of_server_rps = 0.0
        if is_taken(row, only, rows):
            of_server_rps = max(of_server_rps, capacity_rps(row, rows))
    return LeastTimes(fastest_s, drain_s, drain_margin, soonest_s, most_rps + of_server_rps)


@compiled
def least_answer_s(
    rows: Table, count: int, query: Column, items: float, longest_s: float, is_beyond_help: bool
) -> float:
    """Return the least time until a head of so many items is answered, margins included, in the batch that it needs.

    Such a batch takes ``longest_s`` at most; below 0 the head may go alone.
    """
    least_s, only = math.inf, only_width(rows, count, query)
    for row in range(count):
        if not is_taken(row, only, rows):
            continue
        per_item_s, fixed_s = rows[col.ROW_PER_ITEM_S][row], rows[col.ROW_FIXED_S][row]
        batch = items
        if longest_s >= 0:
            most = min(rows[col.ROW_MAX_BATCH][row], query[col.QUEUE_ITEMS])
            batch = _head_batch(items, most, longest_s, per_item_s, fixed_s)
        least_s = min(least_s, _cautious_s(rows[col.ROW_WAIT_S][row] + per_item_s * batch + fixed_s, row, rows, query))
    # In a queue that is overloaded without any margin every head is at its last moment, so that all whom a margin does
    # not cover would be late, and whoever is given up makes room for one who has more time.
    return least_s * query[col.SLACK_MARGIN] if is_beyond_help else least_s
