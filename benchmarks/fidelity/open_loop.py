"""Requests at their times to a router in this process, whether or not earlier ones have been answered.

What is compared with the simulator is the router, so nothing stands between it and the sender: neither a gateway nor
another process.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

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
