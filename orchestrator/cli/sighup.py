"""SIGHUP from a command's first moment on: kept until there is someone to act on it, instead of ending the process."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class SighupHandler:
    """What is done about a SIGHUP, and whether one has come before that was known; for the main thread alone."""

    def __init__(self) -> None:
        self._is_pending = False
        self._act: Callable[[], None] | None = None

    def come(self) -> None:
        """Act on a SIGHUP, or keep it; several that are kept count as one."""
        if self._act is None:
            self._is_pending = True
        else:
            self._act()

    def take_over(self, act: Callable[[], None]) -> None:
        """Act on each from now on, and at once on one that was kept."""
        self._act = act
        if self._is_pending:
            self._is_pending = False
            act()


@contextmanager
def caught_sighup() -> Iterator[SighupHandler]:
    """Catch SIGHUP while it lasts."""
    sighup = SighupHandler()
    old = signal.signal(signal.SIGHUP, lambda number, frame: sighup.come())
    try:
        yield sighup
    finally:
        signal.signal(signal.SIGHUP, old)
