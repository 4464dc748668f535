"""Traffic as a fluid: counters advance with time, and what the instances can't take waits."""

from __future__ import annotations

import math
from dataclasses import dataclass

from orchestrator.planner.rates import Counters


@dataclass(frozen=True, slots=True)
class Traffic:
    """Requests that arrive at one model.

    Attributes:
        requests_per_s: that arrive, one item each.
        service_s: that a batch takes.
        batch: requests that run together.
        waiting: requests that wait on average though the instances could take all; bursts, seen from afar.
        failing_ratio: of the answers that are errors, dead stubs aside.
    """

    requests_per_s: float = 0.0
    service_s: float = 0.01
    batch: float = 1.0
    waiting: float = 0.0
    failing_ratio: float = 0.0


class Flow:
    """What has come of the traffic of one loaded model."""

    def __init__(self) -> None:
        self.backlog = 0.0
        # As floats, because a fluid brings parts of requests.
        self._counts: dict[str, float] = {}

    def add(self, **amounts: float) -> None:
        """Add to the counters by name."""
        for name, amount in amounts.items():
            self._counts[name] = self._counts.get(name, 0.0) + amount

    def advance(self, traffic: Traffic, instances: int, dead: int, passed_s: float) -> None:
        """Let time pass, in which nothing but the backlog changes."""
        # A dead stub answers its share with errors at once, which takes no time of the others.
        failed = traffic.requests_per_s * passed_s * (dead / instances if instances else 0.0)
        arrived = traffic.requests_per_s * passed_s - failed
        could = (instances - dead) * traffic.batch / traffic.service_s * passed_s
        served = min(self.backlog + arrived, could)
        before, self.backlog = self.backlog, max(0.0, self.backlog + arrived - served)
        good = served * (1 - traffic.failing_ratio)
        self.add(
            requests=good,
            items=good,
            executions=served / traffic.batch,
            failures=failed + served - good,
            queue_s=((before + self.backlog) / 2 + traffic.waiting) * passed_s,
            service_s=good * traffic.service_s,
        )

    def counters(self) -> Counters:
        """Return what Triton would tell."""

        def count(name: str) -> int:
            return math.floor(self._counts.get(name, 0.0) + 1e-6)

        return Counters(
            requests=count("requests"),
            failures=count("failures"),
            items=count("items"),
            executions=count("executions"),
            queue_s=self._counts.get("queue_s", 0.0),
            service_s=self._counts.get("service_s", 0.0),
            pending_requests=math.floor(self.backlog),
        )
