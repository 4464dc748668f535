"""A response sink that calls back, in place of a future and at once.

A future wakes whoever waits for it in the next turn of the event loop, and waiting takes a task. A gateway needs
neither: it turns an answer into bytes and writes them.
"""

from __future__ import annotations

from collections.abc import Callable

from orchestrator.router.queue.request import Answer


class CallbackSink:
    """Calls back once, with the answer or with the error.

    Args:
        callback: What is called with either; it must not raise.

    Attributes:
        on_done: What is called, before ``callback``, once the outcome is there or the caller gave up; set by the
            router.
    """

    __slots__ = ("_callback", "_is_done", "on_done")

    def __init__(self, callback: Callable[[Answer | Exception], None]) -> None:
        self._callback = callback
        self._is_done = False
        self.on_done: Callable[[], None] = _do_nothing

    def done(self) -> bool:
        """Return whether it has been called back, or the caller has given up."""
        return self._is_done

    def set_result(self, answer: Answer) -> None:
        """Call back with the answer; only before it is done."""
        self.cancel()
        self._callback(answer)

    def set_exception(self, error: Exception) -> None:
        """Call back with why there is no answer; only before it is done."""
        self.cancel()
        self._callback(error)

    def cancel(self) -> None:
        """Never call back, because the caller has given up."""
        if not self._is_done:
            self._is_done = True
            self.on_done()


def _do_nothing() -> None:
    pass
