"""Who is called back by when, on each event loop that a router runs on; the rules themselves are in test_shedding."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import numpy as np
import pytest

from orchestrator.gateway import new_event_loop
from orchestrator.router.queue.deadline_timers import Deadlines
from orchestrator.router.queue.request import PendingRequest


def pending(loop: asyncio.AbstractEventLoop) -> PendingRequest:
    now_s = loop.time()
    return PendingRequest((np.zeros((1, 2)),), False, now_s, now_s + 60, loop.create_future())


@pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, new_event_loop], ids=["asyncio", "uvloop"])
def test_a_time_that_is_past_already_is_called_back_at_once_and_does_not_disturb_the_next(
    new_loop: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    async def watch() -> list[str]:
        loop, called = asyncio.get_running_loop(), list[PendingRequest]()
        deadlines = Deadlines(called.append)
        late, later, early = (pending(loop) for _ in range(3))
        deadlines.watch(late, loop.time() - 1)
        deadlines.watch(later, loop.time() + 60)
        deadlines.watch(early, loop.time() - 2)
        async with asyncio.timeout(30):
            while len(called) < 2:
                await asyncio.sleep(0)
        deadlines.close()
        names = {id(late): "late", id(later): "later", id(early): "early"}
        return [names[id(request)] for request in called]

    with asyncio.Runner(loop_factory=new_loop) as runner:
        assert runner.run(watch()) == ["early", "late"]
