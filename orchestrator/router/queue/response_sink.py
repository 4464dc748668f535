"""What a caller that does not await is told by: in place of a future, and at once.

A future tells whoever waits for it in the next turn of the event loop, and a task has to wait for it. A gateway needs
neither: it turns an answer into bytes and writes them. So a request may have a reply in place of its future, with the
same few methods.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from orchestrator.router.queue.request import Answer

Tell = Callable[[Answer | Exception], None]


class Told(Protocol):
    """Part of a future: what the router does with those of requests."""

    def done(self) -> bool:
        """Return whether it has been told, or nobody wants to know any more."""
        ...

    def set_result(self, answer: Answer, /) -> None:
        """Tell the answer; only before it is done."""
        ...

    def set_exception(self, error: Exception, /) -> None:
        """Tell why there is none; only before it is done."""
        ...


class Reply:
    """Calls back once.

    Args:
        tell: called with the answer or the error; must not raise.

    Attributes:
        on_done: called once it is told or cancelled, before ``tell``; set by the router.
    """

    __slots__ = ("_is_done", "_tell", "on_done")

    def __init__(self, tell: Tell) -> None:
        self._tell = tell
        self._is_done = False
        self.on_done: Callable[[], None] = _do_nothing

    def done(self) -> bool:
        """See Told."""
        return self._is_done

    def set_result(self, answer: Answer) -> None:
        """See Told."""
        self.cancel()
        self._tell(answer)

    def set_exception(self, error: Exception) -> None:
        """See Told."""
        self.cancel()
        self._tell(error)

    def cancel(self) -> None:
        """Tell nothing any more: the caller has given up."""
        if not self._is_done:
            self._is_done = True
            self.on_done()


def _do_nothing() -> None:
    pass
