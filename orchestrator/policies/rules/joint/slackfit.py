"""SlackFit of SuperServe (Khare et al., NSDI'25, arXiv 2312.16733), our implementation.

Every (width, batch) has a latency. Buckets of equal span divide [least, most]; the slack of the most urgent request
names a bucket, and one pair of it is run. Low buckets hold small batches of narrow widths; high ones hold large
batches or wide widths: so a burst, which eats slack, lowers accuracy by itself, and quiet raises it.

The rule, for the server that is asked:

1. Its pairs are all allowed widths with batches of 1, 2, 4, … up to the model's most, and of exactly the head. The
   latency of a pair counts what the server has to do first, and the slack margin.
2. Of the buckets whose upper bound is at most the slack, the highest that holds a pair is taken. Below the lowest
   bound, pairs that are in time all the same are taken: the head has a deadline, not a bucket.
3. In it, the pair with the largest batch is taken and, of those, the widest (``slackfit``, as published: the most
   throughput); or the widest and, of those, the largest batch (``slackfit-accuracy``).
4. It runs with min(batch, what waits) items.

Where the slack is below the most latency and the queue is short, the published preference names a batch that can't be
filled, and so a narrower width than there would be time for; ``slackfit-accuracy`` does not.

Unlike servers each have buckets of their own, from their own profile: one scale over all would put everything that
the fast ones can do into the lowest bucket of the slow ones. The server that is asked is the one that is free first
among those with room on which the head is in time; SuperServe's idle workers ask by themselves.

Here too are the two greedy policies that it is compared with there: MaxAcc takes the most accurate subnet that is in
time with a batch of one, then the largest batch; MaxBatch the largest batch that the smallest subnet runs in time, then
the most accurate subnet that runs it in time. A candidate's batch is the largest that is in time, so each is one
comparison. Our smallest batch is the head, which can't be split. Ties go to the server that answers first, then to the
first by name.
"""

from __future__ import annotations

import math
from typing import Final

from orchestrator.policies.rules.width_rules import is_in_time
from orchestrator.policies.tables import columns as col
from orchestrator.policies.tables.candidates import margin_of
from orchestrator.policies.tables.compiled import Column, Table, compiled

DEFAULT_BUCKETS: Final = 16
"""Finer buckets use more of the slack, coarser ones leave more pairs to choose from; to be swept over 4 to 32."""


@compiled
def fill_slack(buckets: float, prefers_batch: bool, rows: Table, count: int, query: Column) -> tuple[int, float]:
    """Return the row of what the server that is free first runs, and with how many items; row -1 for none."""
    server = _asked_server(rows, count, query)
    if server < 0:
        return -1, 0.0
    least_s, most_s = _latencies(server, rows, count, query)
    span_s = (most_s - least_s) / buckets
    slack_s = query[col.HEAD_DEADLINE_S] - query[col.NOW_S]
    best, best_batch, best_bucket, best_is_whole = -1, 0.0, -1, False
    for row in range(count):
        if rows[col.ROW_SERVER][row] != server or not _is_ready(row, rows, query):
            continue
        for index in range(_batch_count(row, rows)):
            batch, latency_s = _batch(row, index, rows, query), _latency_s(row, index, rows, query)
            if batch < query[col.HEAD_ITEMS] or latency_s > slack_s:
                continue
            bucket = min(int((latency_s - least_s) / span_s), int(buckets) - 1) if span_s > 0 else 0
            is_whole = least_s + (bucket + 1) * span_s <= slack_s
            if best_is_whole and not is_whole:
                continue
            if (
                best < 0
                or is_whole != best_is_whole
                or bucket > best_bucket
                or (bucket == best_bucket and _is_preferred(prefers_batch, row, batch, best, best_batch, rows))
            ):
                best, best_batch, best_bucket, best_is_whole = row, batch, bucket, is_whole
    return best, min(best_batch, rows[col.ROW_ITEMS][best])  # both are at least the head


@compiled
def _is_ready(row: int, rows: Table, query: Column) -> bool:
    return rows[col.ROW_HAS_ROOM][row] != 0 and is_in_time(row, rows, query)


@compiled
def _asked_server(rows: Table, count: int, query: Column) -> int:
    """Return the server that is free first among those with room on which the head is in time; -1 for none."""
    best = -1
    for row in range(count):
        if _is_ready(row, rows, query) and (best < 0 or rows[col.ROW_WAIT_S][row] < rows[col.ROW_WAIT_S][best]):
            best = row
    return int(rows[col.ROW_SERVER][best]) if best >= 0 else -1


@compiled
def _batch_count(row: int, rows: Table) -> int:
    """Return how many batches a row has: the powers of 2 up to the model's most, the most and the head."""
    return int(math.log2(rows[col.ROW_MAX_BATCH][row])) + 3


@compiled
def _batch(row: int, index: int, rows: Table, query: Column) -> float:
    """Return one of them; some may be equal."""
    last = _batch_count(row, rows) - 1
    if index == last:
        return query[col.HEAD_ITEMS]
    return rows[col.ROW_MAX_BATCH][row] if index == last - 1 else float(1 << index)


@compiled
def _latency_s(row: int, index: int, rows: Table, query: Column) -> float:
    """Return the latency of a batch, what the server has to do first and the margin included."""
    batch = _batch(row, index, rows, query)
    alone_s = rows[col.ROW_WAIT_S][row] + rows[col.ROW_PER_ITEM_S][row] * batch + rows[col.ROW_FIXED_S][row]
    return alone_s * margin_of(row, rows, query)


@compiled
def _latencies(server: int, rows: Table, count: int, query: Column) -> tuple[float, float]:
    """Return the least and the most latency of all pairs of a server."""
    least_s, most_s = math.inf, -math.inf
    for row in range(count):
        if rows[col.ROW_SERVER][row] == server:
            for index in range(_batch_count(row, rows)):
                latency_s = _latency_s(row, index, rows, query)
                least_s, most_s = min(least_s, latency_s), max(most_s, latency_s)
    return least_s, most_s


@compiled
def _is_preferred(prefers_batch: bool, row: int, batch: float, best: int, best_batch: float, rows: Table) -> bool:
    """Return whether a pair of a bucket is run rather than the best so far.

    By throughput the larger batch, then the wider; by accuracy the wider, then the larger batch.
    """
    width, best_width = rows[col.ROW_WIDTH][row], rows[col.ROW_WIDTH][best]
    if prefers_batch:
        return batch > best_batch or (batch == best_batch and width > best_width)
    return width > best_width or (width == best_width and batch > best_batch)


@compiled
def row_with_most(field: int, then: int, rows: Table, count: int, query: Column) -> int:
    """Return the row that is in time, has room and has the most in a field, then in another; -1 for none."""
    best = -1
    for row in range(count):
        if not _is_ready(row, rows, query):
            continue
        if best < 0 or _has_more(field, then, row, best, rows):
            best = row
    return best


@compiled
def _has_more(field: int, then: int, row: int, best: int, rows: Table) -> bool:
    if rows[field][row] != rows[field][best]:
        return rows[field][row] > rows[field][best]
    if rows[then][row] != rows[then][best]:
        return rows[then][row] > rows[then][best]
    return rows[col.ROW_COMPLETION_S][row] < rows[col.ROW_COMPLETION_S][best]
