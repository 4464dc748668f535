"""Blocking reads under a time limit: a driver that hangs costs one thread and one late answer, never the loop.

A blocking call can't be cancelled, so a call that overstays is left to itself, and until it returns every further
read is absent at once instead of starting a thread of its own. Not `asyncio.to_thread`: the threads of its pool are
joined at exit, so a call that never returns would keep the whole process from ending; ours are daemons.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Generic, TypeVar

T = TypeVar("T")


class BoundedReader(Generic[T]):
    """One blocking read made awaitable, bounded, and never more than one at a time.

    Args:
        what: The name of what is read, for reasons and for the thread.
        absent: A function that makes the answer for when there is none, of the reason.
        timeout_s: The longest that a caller waits.
    """

    def __init__(self, what: str, read: Callable[[], T], absent: Callable[[str], T], *, timeout_s: float) -> None:
        self._what = what
        self._read = read
        self._absent = absent
        self._timeout_s = timeout_s
        self._pending: Future[T] | None = None
        self._is_late = False

    @property
    def is_busy(self) -> bool:
        """Whether a read is still under way."""
        return self._pending is not None and not self._pending.done()

    async def read(self) -> T:
        """Return what was read, or an absent answer with the reason; callers at the same time share one read."""
        if self._pending is None or self._pending.done():  # is_busy, spelt out for the type checker
            try:
                self._pending = self._start()
            except RuntimeError as exc:  # no thread to be had
                return self._absent(f"{self._what} can't be read: {exc}")
            self._is_late = False
        elif self._is_late:
            return self._absent(f"{self._what} still hangs in a read begun more than {self._timeout_s:g} s ago")
        return await self._wait(self._pending)

    async def _wait(self, pending: Future[T]) -> T:
        waiter = asyncio.wrap_future(pending)
        try:
            async with asyncio.timeout(self._timeout_s):
                return await waiter
        except TimeoutError:
            self._is_late = True
            return self._absent(f"{self._what} did not answer within {self._timeout_s:g} s")

    def _start(self) -> Future[T]:
        future: Future[T] = Future()
        future.set_running_or_notify_cancel()  # from here on a cancelled waiter can't cancel it
        threading.Thread(target=self._run, args=(future,), name=f"read {self._what}", daemon=True).start()
        return future

    def _run(self, future: Future[T]) -> None:
        try:
            answer = self._read()
        except (Exception, SystemExit) as exc:  # whatever an adapter missed: a reading is never worth a controller
            answer = self._absent(f"{self._what} can't be read: {type(exc).__name__}: {exc}")
        future.set_result(answer)
