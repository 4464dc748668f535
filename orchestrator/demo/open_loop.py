"""Open-loop load: requests are sent at their times, whether or not earlier ones have been answered.

A closed loop (send, wait, send) slows down with the system it measures and so hides its queueing; users do not.
Latency counts from the time a request was due, so a sender that falls behind makes itself visible instead of
flattering the router (no coordinated omission). What came of the requests adds up to figures that compare policies.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from orchestrator.errors import SlimError
from orchestrator.router import Answer, Router
from orchestrator.snapshot import ServerName, Width


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one request.

    Class, server and width of the answer are None when there was none.

    Attributes:
        label: The true class.
        predicted: The class with the highest score.
        latency_s: Time from when it was due to its answer or failure.
        deadline_s: Its deadline, from when it was due.
        error: Why there was no answer; None when there was one.
        late_s: Time from when it was due until the router was given it: timers of an event loop are coarse.
    """

    label: int
    predicted: int | None
    server: ServerName | None
    width: Width | None
    latency_s: float
    deadline_s: float
    error: str | None = None
    late_s: float = 0.0

    @property
    def is_in_time(self) -> bool:
        """Whether it was answered by its deadline."""
        return self.error is None and self.latency_s <= self.deadline_s


def poisson_arrivals_s(rate_rps: float, count: int, *, seed: int) -> NDArray[np.float64]:
    """Return ``count`` ascending arrival times, float64 [count], of a Poisson process of ``rate_rps``."""
    gaps_s = np.random.default_rng(seed).exponential(1 / rate_rps, count)
    times_s: NDArray[np.float64] = np.cumsum(gaps_s)
    return times_s


async def run_open_loop(
    router: Router,
    images: Iterable[NDArray[Any]],
    labels: Sequence[int],
    arrivals_s: Sequence[float],
    *,
    deadline_s: float,
) -> tuple[Outcome, ...]:
    """Send each image at its time and return what became of each, in order.

    Requests are due at ``arrivals_s``, ascending, from the start of the run; deadlines count from when they are due.
    """
    loop = asyncio.get_running_loop()
    start_s = loop.time()

    async def send(image: NDArray[Any], label: int, due_s: float) -> Outcome:
        answer: Answer | None = None
        error: str | None = None
        given_s = loop.time()
        try:
            left_ms = (due_s + deadline_s - given_s) * 1e3
            answer = await router.infer(image, deadline_ms=left_ms)
        except SlimError as exc:
            error = str(exc)
        return Outcome(
            label=label,
            predicted=int(answer.output.argmax()) if answer else None,
            server=answer.server if answer else None,
            width=answer.width if answer else None,
            latency_s=loop.time() - due_s,
            deadline_s=deadline_s,
            error=error,
            late_s=given_s - due_s,
        )

    tasks: list[asyncio.Task[Outcome]] = []
    async with asyncio.TaskGroup() as group:
        for image, label, arrival_s in zip(images, labels, arrivals_s, strict=True):
            due_s = start_s + arrival_s
            if (wait_s := due_s - loop.time()) > 0:
                await asyncio.sleep(wait_s)
            tasks.append(group.create_task(send(image, label, due_s)))
    return tuple(task.result() for task in tasks)


@dataclass(frozen=True, slots=True)
class PolicySummary:
    """How one policy did on one run.

    Ratios and shares are 0..1; accuracy and latencies are of the answers, None without any.

    Attributes:
        accuracy_in_time: Right answers that came in time over all requests.
        missed: The number of requests without an answer by their deadline.
        width_share: Part of the answers each width gave.
        share: Part of the answers of each (server, width).
    """

    policy: str
    requests: int
    answered: int
    accuracy: float | None
    accuracy_in_time: float
    mean_latency_s: float | None
    p99_latency_s: float | None
    missed: int
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
    widths: dict[Width, float] = {}
    for (_, width), part in share.items():
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
        width_share=dict(sorted(widths.items())),
        share=share,
    )
