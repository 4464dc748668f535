"""When load began and ended in a trace, and when the instances followed; pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from benchmarks.controller.results import TracePoint
from orchestrator.errors import PermanentError


def find_load(trace: Sequence[TracePoint]) -> tuple[float, float]:
    """Return when the first and the last request were answered, as exactly as the points lie.

    The beginning is the point before the first rise, so a growth that is timed from it is not flattered; the end is
    the point of the last rise, and what is timed from there is not flattered either. Raises PermanentError for no rise.
    """
    rises = [index for index in range(1, len(trace)) if trace[index].requests > trace[index - 1].requests]
    if not rises:
        raise PermanentError("no request was answered while the load ran")
    return trace[rises[0] - 1].at_s, trace[rises[-1]].at_s


def grown_at(trace: Sequence[TracePoint]) -> float | None:
    """Return when there was more than one instance for the first time; None when there never was."""
    return next((point.at_s for point in trace if point.instances > 1), None)


def back_at(trace: Sequence[TracePoint], ended_s: float) -> float | None:
    """Return from when on there was one instance, after the load had ended; None when there were more to the end."""
    last = next((index for index in range(len(trace) - 1, -1, -1) if trace[index].instances > 1), None)
    if last is None or last == len(trace) - 1:
        return None
    return max(ended_s, trace[last + 1].at_s)


def shift(trace: Sequence[TracePoint], began_s: float) -> tuple[TracePoint, ...]:
    """Return the trace with times since the load began and requests since the trace began, in milliseconds' grain."""
    first = trace[0]
    return tuple(
        replace(
            point,
            at_s=round(point.at_s - began_s, 3),
            requests=point.requests - first.requests,
            queue_s=round(point.queue_s - first.queue_s, 4),
        )
        for point in trace
    )


def waits(trace: Sequence[TracePoint], *, window_s: float) -> tuple[tuple[float, float], ...]:
    """Return the mean wait for an instance of the requests answered in each window: its middle and the wait, seconds.

    Windows without an answer are left out; there a wait is unknown, not 0.
    """
    found = []
    begin = trace[0]
    for point in trace[1:]:
        if point.at_s - begin.at_s < window_s:
            continue
        answered = point.requests - begin.requests
        if answered > 0:
            middle_s = (begin.at_s + point.at_s) / 2
            found.append((middle_s, max(0.0, point.queue_s - begin.queue_s) / answered))
        begin = point
    return tuple(found)
