"""The one place that says what could be done with the head of a queue.

Expected times rest on two readings of a server: its batches take turns as ``policies.tables.occupancy`` says,
one after another or, of a width with k instances, k at once; and each takes a·n + b of its width. That is exact for
one instance on one core and a fair guess elsewhere.

A batch holds as many items as wait and fit, under two bounds, but at least the head:

- The head still meets its deadline, by the margin of the row. Where only the margin makes it late even alone, it meets
  it as far as is expected. Where it can't be in time at all this bound falls: throughput is what helps those behind it.
- No other server would answer the same items sooner. So a slow server that is idle takes the few items it can answer
  before a fast one that is busy gets to them, and not a full batch that would come back last.

The second bound compares every server with every faster one, and still costs no more than a pass over them. Of the
lines wait + b + a·n of one width, taken in the order of their slopes a, the first to cross a line from below is the
one that touches it in the lower convex hull of the points (a, wait + b); a stack holds that hull, as in Andrew's
monotone chain. The order hardly changes between two decisions, so it is kept and updated by insertion.
"""

from __future__ import annotations

import math

from orchestrator.policies.tables import columns as col
from orchestrator.policies.tables.compiled import Column, Table, compiled
from orchestrator.policies.tables.layout import Fleet, QueueHead, Scratch
from orchestrator.policies.tables.occupancy import bound_work_s, free_s, has_room, held_s, may_wait, seat_batches
from orchestrator.profile.margin import recent_ratio

_recent_ratio = compiled(recent_ratio)


@compiled
def build_rows(fleet: Fleet, head: QueueHead, rows: Table, scratch: Scratch) -> int:
    """Write a row for each healthy server and allowed width, ordered by server, then width; return how many.

    Servers without room are included, marked so: waiting for a fast one may beat a slow one that is idle. A row must
    have the accuracy that the head asks for, take the head whole and cost no more joules than it may; what is unknown
    may be any number of joules, so it is no row then. Nor is a width that is no more accurate than a narrower row of
    the same server: it would take longer for nothing. Servers to avoid are left out unless there are no others, and
    what they hold is then no work that the others would have to wait for. ``rows`` has room for every server and width.
    """
    count = int(0.0)  # a literal 0 would have Numba compile what it is given to twice
    for takes_avoided in range(2):
        if count == 0:
            count = _eligible_rows(fleet, takes_avoided, head, rows, scratch)
    for width in range(fleet.widths):
        if head.allowed[width] != 0:
            _size_batches(fleet, width, head.query, rows, scratch)
            _drain(fleet, width, head.query, rows, scratch.row_of)
    _finish_rows(head.query, rows, count)
    return count


@compiled
def _eligible_rows(fleet: Fleet, takes_avoided: int, head: QueueHead, rows: Table, scratch: Scratch) -> int:
    """Write the rows of all servers that may be taken, before batches are sized; return how many there are."""
    count = int(0.0)
    for server in range(fleet.server_count):
        for width in range(fleet.widths):
            scratch.row_of[server * fleet.widths + width] = -1
        if fleet.servers[col.HEALTHY][server] != 0 and (takes_avoided != 0 or head.avoided[server] == 0):
            count = _server_rows(fleet, server, head, rows, scratch, count)
    return count


@compiled
def _server_rows(fleet: Fleet, server: int, head: QueueHead, rows: Table, scratch: Scratch, count: int) -> int:
    """Write what is known of the rows of one server before batches are sized; return how many rows there are then."""
    servers, models, query = fleet.servers, fleet.models, head.query
    held = int(servers[col.BATCH_COUNT][server])
    last_start_s, stretch_ratio, backlog_s = 0.0, 0.0, 0.0
    if held > 0:
        last_start_s, stretch_ratio, backlog_s = seat_batches(fleet, server, scratch.busy, query[col.NOW_S])
    bound_s = bound_work_s(fleet, server)
    wait_s, waits_for = 0.0, 0.0  # most widths of a server have as many instances
    best = -math.inf  # the most accuracy of the narrower rows
    for width in range(fleet.widths):
        model = server * fleet.columns + width
        if head.allowed[width] == 0 or not _is_eligible(models, model, query) or models[col.ACCURACY][model] <= best:
            continue
        best = models[col.ACCURACY][model]
        instances = models[col.INSTANCES][model]
        if waits_for != instances:
            wait_s, waits_for = free_s(scratch.busy, held, 1 / instances, last_start_s) + bound_s, instances
        rows[col.ROW_SERVER][count] = server
        rows[col.ROW_COLUMN][count] = width
        rows[col.ROW_WIDTH][count] = models[col.MODEL_WIDTH][model]
        rows[col.ROW_ACCURACY][count] = models[col.ACCURACY][model]
        rows[col.ROW_SERVER_ITEMS][count] = servers[col.HELD_ITEMS][server]
        rows[col.ROW_HAS_ROOM][count] = _has_room(fleet, server, width, instances)
        rows[col.ROW_WAIT_S][count] = wait_s
        rows[col.ROW_PER_ITEM_S][count] = models[col.PER_ITEM_S][model]
        rows[col.ROW_FIXED_S][count] = models[col.FIXED_S][model]
        rows[col.ROW_MAX_BATCH][count] = models[col.MAX_BATCH][model]
        rows[col.ROW_INSTANCES][count] = instances
        margin = _recent_ratio(
            models[col.MARGIN][model], models[col.MARGIN_SEEN_S][model], query[col.SLACK_MARGIN], query[col.NOW_S]
        )
        rows[col.ROW_OVERDUE_RATIO][count] = max(1.0, stretch_ratio / margin)
        rows[col.ROW_MARGIN][count] = margin
        rows[col.ROW_PER_ITEM_J][count] = models[col.PER_ITEM_J][model]
        rows[col.ROW_FIXED_J][count] = models[col.FIXED_J][model]
        rows[col.ROW_BACKLOG_S][count] = backlog_s + bound_s
        rows[col.ROW_UTILISATION][count] = servers[col.UTILISATION][server]
        rows[col.ROW_MEMORY][count] = servers[col.MEMORY][server]
        rows[col.ROW_POWER][count] = servers[col.POWER][server]
        scratch.row_of[server * fleet.widths + width] = count
        count += 1
    return count


@compiled
def _is_eligible(models: Table, model: int, query: Column) -> bool:
    """Return whether a model is served and is what the head asks for."""
    if models[col.SERVED][model] == 0 or models[col.ACCURACY][model] < query[col.MIN_ACCURACY]:
        return False
    head_items = query[col.HEAD_ITEMS]
    if models[col.MAX_BATCH][model] < head_items:
        return False
    # NaN, which is unknown, is not within a bound.
    return (
        query[col.MAX_PER_ITEM_J] == math.inf
        or models[col.PER_ITEM_J][model] + models[col.FIXED_J][model] / head_items <= query[col.MAX_PER_ITEM_J]
    )


@compiled
def _has_room(fleet: Fleet, server: int, column: int, instances: float) -> float:
    """Return 1 when a server may be sent a batch of a width, else 0."""
    servers = fleet.servers
    held, limit = servers[col.BATCH_COUNT][server], servers[col.BATCH_LIMIT][server]
    waiting = servers[col.WAITING_LIMIT][server]
    if waiting > 1 and held > 1:
        work_s = 0.0
        for batch in range(server * fleet.depth, server * fleet.depth + int(held)):
            work_s += held_s(fleet, server, batch)
        fewer = waiting - may_wait(waiting, held, work_s)
        limit, waiting = limit - fewer, waiting - fewer
    # Mostly the answer is the same whether none or all of what it holds are of this width, and need not be counted.
    if not has_room(held, 0.0, instances, limit, waiting):
        return 0.0
    if has_room(held, held, instances, limit, waiting):
        return 1.0
    of_width = 0.0
    for batch in range(server * fleet.depth, server * fleet.depth + int(held)):
        if fleet.batches[col.COLUMN][batch] == column:
            of_width += 1
    return 1.0 if has_room(held, of_width, instances, limit, waiting) else 0.0


@compiled
def _size_batches(fleet: Fleet, width: int, query: Column, rows: Table, scratch: Scratch) -> None:
    """Write how many items go together, for all rows of a width."""
    head_items = query[col.HEAD_ITEMS]
    slack_s = query[col.HEAD_DEADLINE_S] - query[col.NOW_S]
    per_item_s, wait_s, fixed_s = rows[col.ROW_PER_ITEM_S], rows[col.ROW_WAIT_S], rows[col.ROW_FIXED_S]
    order, hull = scratch.order[width], scratch.hull
    is_bounded = query[col.QUEUE_ITEMS] > head_items
    if is_bounded:
        _update_order(fleet, width, order)
    size = 0
    pending = -1  # of the rows with the slope at hand the one that is soonest; they do not bound each other
    for at in range(fleet.server_count):
        row = int(scratch.row_of[int(order[at]) * fleet.widths + width])
        if row < 0:
            continue
        most = max(head_items, min(query[col.QUEUE_ITEMS], rows[col.ROW_MAX_BATCH][row]))
        if is_bounded:
            if per_item_s[row] > 0:
                alone_s = wait_s[row] + fixed_s[row]
                in_time = math.floor((slack_s / margin_of(row, rows, query) - alone_s) / per_item_s[row])
                if in_time < head_items:  # alone it may still be in time, unless too many go with it
                    in_time = math.floor((slack_s - alone_s) / per_item_s[row])
                if in_time >= head_items:
                    most = min(most, in_time)
            if pending >= 0 and per_item_s[row] > per_item_s[pending]:
                size = _push(pending, rows, hull, size)
                pending = -1
            if pending < 0 or wait_s[row] + fixed_s[row] < wait_s[pending] + fixed_s[pending]:
                pending = row
            sooner = _first_crossing(row, rows, hull, size)
            if sooner < most:
                most = head_items if sooner <= head_items else math.floor(sooner)
        rows[col.ROW_ITEMS][row] = most


@compiled
def _update_order(fleet: Fleet, width: int, order: Column) -> None:
    """Sort the servers by their seconds an item at a width; nearly sorted already, so by insertion."""
    per_item_s, columns = fleet.models[col.PER_ITEM_S], fleet.columns
    for end in range(1, fleet.server_count):
        server = order[end]
        key = per_item_s[int(server) * columns + width]
        at = end
        while at > 0 and per_item_s[int(order[at - 1]) * columns + width] > key:
            order[at] = order[at - 1]
            at -= 1
        order[at] = server


@compiled
def _crossing(other: int, row: int, rows: Table) -> float:
    """Return from how many items on ``other``, which has the lower slope, answers sooner than ``row``."""
    per_item_s, wait_s, fixed_s = rows[col.ROW_PER_ITEM_S], rows[col.ROW_WAIT_S], rows[col.ROW_FIXED_S]
    head_start_s = wait_s[other] + fixed_s[other] - wait_s[row] - fixed_s[row]
    return head_start_s / (per_item_s[row] - per_item_s[other])


@compiled
def _first_crossing(row: int, rows: Table, hull: Column, size: int) -> float:
    """Return the least crossing of ``row`` with any row of less slope; infinite when there is none."""
    first = math.inf
    for at in range(size - 1, -1, -1):  # along the hull crossings fall, then rise
        crossing = _crossing(int(hull[at]), row, rows)
        if crossing > first:
            break
        first = crossing
    return first


@compiled
def _push(row: int, rows: Table, hull: Column, size: int) -> int:
    """Add a row to the hull, of a larger slope than all that it holds; return its size then."""
    while size > 1 and _crossing(int(hull[size - 2]), row, rows) <= _crossing(int(hull[size - 1]), row, rows):
        size -= 1
    hull[size] = row
    return size + 1


@compiled
def _drain(fleet: Fleet, width: int, query: Column, rows: Table, row_of: Column) -> None:
    """Write when all that waits would be answered if every server ran one width.

    With rates r_s in items a second and backlogs w_s, the fluid answer T solves Σ r_s·(T − w_s) = items. Several
    instances multiply the rate, as far as there are batches for them.
    """
    queued = query[col.QUEUE_ITEMS]
    work, total_rps, instant_s = queued, 0.0, math.inf
    for server in range(fleet.server_count):
        row = int(row_of[server * fleet.widths + width])
        if row < 0:
            continue
        batch = max(1.0, min(queued, rows[col.ROW_MAX_BATCH][row]))
        service_s = rows[col.ROW_PER_ITEM_S][row] * batch + rows[col.ROW_FIXED_S][row]
        if service_s <= 0:  # never observed, so guessed to be instant
            instant_s = min(instant_s, rows[col.ROW_BACKLOG_S][row])
        else:
            rate_rps = min(rows[col.ROW_INSTANCES][row], math.ceil(queued / batch)) * batch / service_s
            work += rate_rps * rows[col.ROW_BACKLOG_S][row]
            total_rps += rate_rps
    if total_rps == 0 and instant_s == math.inf:
        return
    drain_s = instant_s if instant_s < math.inf else work / total_rps
    for server in range(fleet.server_count):
        row = int(row_of[server * fleet.widths + width])
        if row >= 0:
            rows[col.ROW_DRAIN_S][row] = drain_s


@compiled
def _finish_rows(query: Column, rows: Table, count: int) -> None:
    """Write the times that follow from the sizes of the batches."""
    for row in range(count):
        wait_s, per_item_s = rows[col.ROW_WAIT_S][row], rows[col.ROW_PER_ITEM_S][row]
        fixed_s, batch_s = rows[col.ROW_FIXED_S][row], per_item_s * rows[col.ROW_ITEMS][row]
        rows[col.ROW_HEAD_COMPLETION_S][row] = wait_s + per_item_s * query[col.HEAD_ITEMS] + fixed_s
        rows[col.ROW_SERVICE_S][row] = batch_s + fixed_s
        rows[col.ROW_COMPLETION_S][row] = wait_s + batch_s + fixed_s


@compiled
def margin_of(row: int, rows: Table, query: Column) -> float:
    """Return how many times its expected time an answer may take before it is held against a deadline."""
    margin = rows[col.ROW_MARGIN][row]
    return query[col.SLACK_MARGIN] if math.isnan(margin) else margin


@compiled
def capacity_rps(row: int, rows: Table) -> float:
    """Return the items a second of full batches on all instances; infinite while it is guessed to be instant."""
    service_s = full_batch_s(row, rows)
    return rows[col.ROW_INSTANCES][row] * rows[col.ROW_MAX_BATCH][row] / service_s if service_s > 0 else math.inf


@compiled
def full_batch_s(row: int, rows: Table) -> float:
    """Return how long a full batch is expected to take alone."""
    return rows[col.ROW_PER_ITEM_S][row] * rows[col.ROW_MAX_BATCH][row] + rows[col.ROW_FIXED_S][row]


@compiled
def nearest_width(width: float, rows: Table, count: int) -> float:
    """The nearest width there is, the narrower of two; so of infinity the widest and of 0 the narrowest.

    The widest is the most accuracy, whatever the load; the narrowest the least work, whatever the accuracy; and a
    fixed width gives way to the nearest allowed one where a request forbids it.
    """
    nearest = rows[col.ROW_WIDTH][0]
    for row in range(1, count):
        other = rows[col.ROW_WIDTH][row]
        if width == math.inf:
            nearest = max(nearest, other)
        elif abs(other - width) < abs(nearest - width) or (
            abs(other - width) == abs(nearest - width) and other < nearest
        ):
            nearest = other
    return nearest


@compiled
def stretch_overdue(rows: Table, count: int) -> None:
    """Stretch each server's expected times by how overdue it is.

    A router knows at once what it sends, so its account of a server is never late about its own load: all that was sent
    since the last answer is counted, and the batch that runs is aged by the time it has run. What gets old is the
    belief in the server's speed. It rests on answers, and a server that has become slow, is busy for someone else or
    hangs is silent just when there would be news. But silence is news as well: a batch that was expected to take E and
    still runs after e > E takes at least e, so the server is now at least e/E times slower than believed.

    This is the correction for one's own dispatches that stale load information asks for (Mitzenmacher, TPDS 11(1),
    2000; Dahlin, "Interpreting Stale Load Information", TPDS 11(10), 2000), with the slow-down factor of ALERT (ATC'20)
    bounded from below by a measurement that is not over yet.

    The factor is e/E of the most overdue batch that the server runs, in which E holds the margin already; and
    1, so that nothing changes, while it is in time. It applies to all that is expected of that server, what it
    holds and the new batch alike. What is expected of the whole fleet, to drain the queue, stays.
    """
    for row in range(count):
        ratio = rows[col.ROW_OVERDUE_RATIO][row]
        if ratio > 1:
            rows[col.ROW_SERVICE_S][row] *= ratio
            rows[col.ROW_COMPLETION_S][row] *= ratio
            rows[col.ROW_HEAD_COMPLETION_S][row] *= ratio
            rows[col.ROW_WAIT_S][row] *= ratio
            rows[col.ROW_PER_ITEM_S][row] *= ratio
            rows[col.ROW_FIXED_S][row] *= ratio
            rows[col.ROW_OVERDUE_RATIO][row] = 1.0
