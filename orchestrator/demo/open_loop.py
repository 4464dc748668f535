"""Open-loop load: requests are sent at their times, whether or not earlier ones have been answered.

A closed loop (send, wait, send) slows down with the system it measures and so hides its queueing; users do not.
Latency counts from the time a request was due, so a sender that falls behind makes itself visible instead of
flattering the router (no coordinated omission).
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
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

    Attributes:
        label: The true class.
        predicted: The class with the highest score; None when there was no answer.
        server: The server that answered; None when there was no answer.
        width: The width it ran at; None when there was no answer.
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
    images: Sequence[NDArray[Any]],
    labels: Sequence[int],
    arrivals_s: Sequence[float],
    *,
    deadline_s: float,
) -> tuple[Outcome, ...]:
    """Send each image at its time and return what became of each, in order.

    Args:
        router: What answers.
        images: Images of the family's input type.
        labels: The true class of each image.
        arrivals_s: When each is due, ascending, from the start of the run.
        deadline_s: Its deadline, from when it was due.
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
