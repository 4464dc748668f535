"""Work that goes on for as long as its owner does, such as watching files or asking servers, and never ends unseen.

A task that nobody awaits keeps its exception to itself: what it did is not done any more, and nothing says so. So an
error that its work did not expect is logged with its traceback and counted, and the work begins again after a pause.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

log = logging.getLogger(__name__)

PAUSE_S: Final = 1.0
"""Between an unexpected error and the next attempt, so that one that comes at once does not fill the log."""


async def end_tasks(*tasks: asyncio.Future[Any]) -> None:
    """Cancel tasks, and return once they have ended, however they do."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


class BackgroundTasks:
    """The tasks of one owner; to be stopped by it. ``on_failure`` is called with the name of one that has failed."""

    def __init__(self, on_failure: Callable[[str], None] | None = None) -> None:
        self._tasks: dict[asyncio.Task[None], str] = {}
        self._failures: Counter[str] = Counter()
        self._on_failure = on_failure

    @property
    def failures(self) -> Mapping[str, int]:
        """How often each task has failed, by name; none that never has."""
        return self._failures

    def start(self, name: str, work: Callable[[], Awaitable[None]]) -> asyncio.Task[None]:
        """Begin ``work`` and begin it again whenever it fails; when it returns or is cancelled it is over."""
        task = asyncio.create_task(self._run(name, work), name=name)
        self._tasks[task] = name
        task.add_done_callback(self._tasks.pop)
        return task

    async def stop(self) -> None:
        """Cancel all tasks and wait until they have ended."""
        await end_tasks(*self._tasks)

    async def _run(self, name: str, work: Callable[[], Awaitable[None]]) -> None:
        while True:
            try:
                return await work()
            except Exception:
                log.exception("%s failed unexpectedly and begins again", name)
                self._failures[name] += 1
                if self._on_failure is not None:
                    self._on_failure(name)
            await asyncio.sleep(PAUSE_S)
