"""From outcomes to the figures that compare policies."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from orchestrator.demo.open_loop import Outcome
from orchestrator.snapshot import ServerName, Width


@dataclass(frozen=True, slots=True)
class PolicySummary:
    """How one policy did on one run.

    Attributes:
        policy: The policy's name.
        requests: Requests sent.
        answered: Requests answered.
        accuracy: Right answers over answers, 0..1; None without answers.
        accuracy_in_time: Right answers that came in time over all requests, 0..1.
        mean_latency_s: Mean latency of the answers; None without answers.
        p99_latency_s: Their 99th percentile; None without answers.
        missed: Requests without an answer by their deadline.
        server_share: Part of the answers each server gave, 0..1.
        width_share: Part of the answers each width gave, 0..1.
        share: Part of the answers of each (server, width), 0..1.
    """

    policy: str
    requests: int
    answered: int
    accuracy: float | None
    accuracy_in_time: float
    mean_latency_s: float | None
    p99_latency_s: float | None
    missed: int
    server_share: Mapping[ServerName, float]
    width_share: Mapping[Width, float]
    share: Mapping[tuple[ServerName, Width], float]

    @property
    def miss_ratio(self) -> float:
        """Part of all requests that missed their deadline, 0..1."""
        return self.missed / self.requests


def summarize(policy: str, outcomes: Sequence[Outcome]) -> PolicySummary:
    """Return the figures of one run of at least one request."""
    answered = [o for o in outcomes if o.error is None]
    latencies_s = np.array([o.latency_s for o in answered])
    right = [o for o in answered if o.predicted == o.label]
    pairs = Counter((o.server, o.width) for o in answered if o.server is not None and o.width is not None)
    share = {pair: n / len(answered) for pair, n in sorted(pairs.items())}
    servers: dict[ServerName, float] = {}
    widths: dict[Width, float] = {}
    for (server, width), part in share.items():
        servers[server] = servers.get(server, 0.0) + part
        widths[width] = widths.get(width, 0.0) + part
    return PolicySummary(
        policy=policy,
        requests=len(outcomes),
        answered=len(answered),
        accuracy=len(right) / len(answered) if answered else None,
        accuracy_in_time=sum(o.is_in_time for o in right) / len(outcomes),
        mean_latency_s=float(latencies_s.mean()) if answered else None,
        p99_latency_s=float(np.quantile(latencies_s, 0.99)) if answered else None,
        missed=sum(not o.is_in_time for o in outcomes),
        server_share=servers,
        width_share=dict(sorted(widths.items())),
        share=share,
    )
