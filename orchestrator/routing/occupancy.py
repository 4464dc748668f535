"""What a server is doing: which of its groups run, and when an instance is free for one more.

One reading covers all cases: a group of a width that has k instances takes a k-th of the server, groups start in the
order they were sent, and one starts when the part that it takes is free. So with one instance of each width groups
run one after another; k instances of one width run k groups at once; and a group of a width with one instance has
the server to itself.

Triton would let instances of different widths run side by side, and on CPUs they would share the cores. That they
share is in the times that are observed, and that they follow each other here says the same of the sum. It is a guess
of the order only where widths mix.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from orchestrator.profile import LatencyTable
from orchestrator.snapshot import GroupInFlight, ModelName, ServedModel, ServerState

_WHOLE = 1 + 1e-9
"""Of a server; k times a k-th may be a little more than one."""


def mark_begun(
    in_flight: Sequence[GroupInFlight], instances: Mapping[ModelName, int], *, since_s: float | None
) -> list[GroupInFlight]:
    """Return the groups with ``began_s`` set on those that run and have none yet.

    To be called with all that is in flight before an answer is taken off, with the time of the answer before, and
    with what remains after it, with the time of this one.

    Args:
        in_flight: in the order they were sent.
        instances: of each model; one where it is not named.
        since_s: when the last change was that let groups begin; None when there was none.
    """
    running = _count_running(in_flight, instances)
    return [
        replace(group, began_s=max(group.sent_s, since_s or group.sent_s))
        if index < running and group.began_s is None and instances.get(group.model, 1) > 1
        else group
        for index, group in enumerate(in_flight)
    ]


class Occupancy:
    """When a server is expected to be done with what it holds.

    A group that runs is expected to take what is left of a·n + b. One that is overdue is expected to take as long
    again as it is overdue: a server that hangs looks worse and worse, not as if it were done any moment.

    Args:
        server: and what it holds.
        latency: expected times.
        now_s: on the router's clock.

    Attributes:
        items: that it has or that are bound to it.
        lines: (seconds an item, seconds a group) of each model.
        backlog_s: seconds of work of the whole server in all that it has or that is bound to it.
    """

    __slots__ = ("_bound_s", "_busy", "_last_start_s", "_stretch_ratio", "_waits_s", "backlog_s", "items", "lines")

    def __init__(self, server: ServerState, latency: LatencyTable, *, now_s: float) -> None:
        self.items = server.items
        self.lines = {
            m.name: latency.line(server.name, m, models)
            for models in (server.models, server.other_models)
            for m in models
        }
        self._busy: list[tuple[float, float]] = []  # (until when, which part of the server), of each group
        self._waits_s: dict[int, float] = {}  # by instances; most widths of a server have the same
        self._last_start_s = 0.0
        self._stretch_ratio = 0.0
        self._bound_s = 0.0
        self.backlog_s = 0.0
        if server.in_flight or server.bound_items:
            instances = {m.name: m.instances for m in (*server.models, *server.other_models)}
            self._seat(server, instances, now_s)
            self._bound_s = _bound_work_s(server, self.lines, instances)
            self.backlog_s += self._bound_s

    def _seat(self, server: ServerState, instances: Mapping[ModelName, int], now_s: float) -> None:
        """Give every group that the server holds its time on it."""
        running = _count_running(server.in_flight, instances)
        for index, group in enumerate(server.in_flight):
            slope_s, intercept_s = self.lines.get(group.model, (0.0, 0.0))
            remaining_s = slope_s * group.items + intercept_s
            if index < running:
                elapsed_s = now_s - _began_s(group, server.last_answer_s)
                if remaining_s > 0:
                    self._stretch_ratio = max(self._stretch_ratio, elapsed_s / remaining_s)
                remaining_s = abs(remaining_s - elapsed_s)
            part = 1 / instances.get(group.model, 1)
            self._last_start_s = self._free_s(part)
            self._busy.append((self._last_start_s + remaining_s, part))
            self.backlog_s += remaining_s * part

    def wait_s(self, model: ServedModel) -> float:
        """Return the expected time until an instance is free for a group of ``model``, behind all there is."""
        wait_s = self._waits_s.get(model.instances)
        if wait_s is None:
            wait_s = self._waits_s[model.instances] = self._free_s(1 / model.instances) + self._bound_s
        return wait_s

    def overdue_ratio(self, margin: float) -> float:
        """Return how many times longer than ``margin`` times expected the most overdue group that runs has run.

        1 when none is overdue. What runs and was never observed is not expected, so it can't be overdue.
        """
        return max(1.0, self._stretch_ratio / margin)

    def _free_s(self, part: float) -> float:
        """Return when ``part`` of the server is free, but not before the last group that it holds has started."""
        free_s = self._last_start_s
        ahead = [b for b in self._busy if b[0] > free_s]
        if len(ahead) > 1:
            ahead.sort()
        taken = sum([taken for _, taken in ahead])
        for until_s, released in ahead:
            if taken + part <= _WHOLE:
                break
            taken -= released
            free_s = until_s
        return free_s


def _count_running(in_flight: Sequence[GroupInFlight], instances: Mapping[ModelName, int]) -> int:
    """Return how many of the groups run: the first, as far as their parts fit, none overtaking."""
    taken = 0.0
    for index, group in enumerate(in_flight):
        taken += 1 / instances.get(group.model, 1)
        if taken > _WHOLE:
            return index
    return len(in_flight)


def _began_s(group: GroupInFlight, last_answer_s: float | None) -> float:
    """Return since when a group runs: since there was an instance, else since the server's last answer."""
    if group.began_s is not None:
        return group.began_s
    return max(group.sent_s, last_answer_s or group.sent_s)


def _bound_work_s(
    server: ServerState, lines: Mapping[ModelName, tuple[float, float]], instances: Mapping[ModelName, int]
) -> float:
    """Return the seconds of work in what is bound to the server and waits in the router, in full batches."""
    total_s = 0.0
    batch_limits = {m.name: m.max_batch_size for m in (*server.models, *server.other_models)}
    for name, items in server.bound_items:
        slope_s, intercept_s = lines.get(name, (0.0, 0.0))
        groups = math.ceil(items / batch_limits.get(name, 1))
        total_s += (slope_s * items + intercept_s * groups) / instances.get(name, 1)
    return total_s
