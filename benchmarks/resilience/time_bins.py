"""Replies summed up over quarters of a second, for the picture."""

from __future__ import annotations

from collections import Counter
from statistics import median

from benchmarks.resilience.clients.plan import Replies
from benchmarks.resilience.results import TimeBin

TIME_BIN_S = 0.25
REFUSED = "RESOURCE_EXHAUSTED"
OVERDUE = "DEADLINE_EXCEEDED"
"""Sent to a server, whose caller heard at the deadline that there is no answer."""


def sum_time_bins(replies: Replies, deadline_s: float) -> tuple[TimeBin, ...]:
    """Return what became of the requests that were due in each bin."""
    by_time_bin: dict[int, list[int]] = {}
    for number, due_s in enumerate(replies.due_s):
        by_time_bin.setdefault(int(due_s / TIME_BIN_S), []).append(number)
    return tuple(_sum(replies, deadline_s, time_bin * TIME_BIN_S, found) for time_bin, found in by_time_bin.items())


def _sum(replies: Replies, deadline_s: float, at_s: float, numbers: list[int]) -> TimeBin:
    in_time = [n for n in numbers if replies.is_in_time(n, deadline_s)]
    refused = sum(replies.status[n] == REFUSED for n in numbers)
    latencies_s = [
        latency_s for n in numbers if replies.status[n] == "ok" and (latency_s := replies.latency_s(n)) is not None
    ]
    return TimeBin(
        at_s=at_s,
        sent=len(numbers),
        by_width=dict(
            sorted((str(width), count) for width, count in Counter(replies.width[n] for n in in_time).items())
        ),
        by_server=dict(sorted(Counter(replies.server[n] for n in in_time).items())),
        refused=refused,
        lost=len(numbers) - len(in_time) - refused,
        p50_s=round(median(latencies_s), 5) if latencies_s else None,
        worst_s=round(max(latencies_s), 5) if latencies_s else None,
    )
