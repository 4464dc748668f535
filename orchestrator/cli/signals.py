"""Signals that commands act on: a stop, and a SIGHUP from a command's first moment on.

A SIGHUP is kept until there is someone to act on it, instead of ending the process.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)


def watch_for_stop(
    stop: Callable[[], None],
    *,
    then: Callable[[], None] | None = None,
    is_stopping: Callable[[], bool] = lambda: False,
    until_stdin_ends: bool = False,
) -> None:
    """Call ``stop`` on the first SIGTERM or SIGINT; a second one then does what it does by default, after ``then``.

    It is called from the running event loop, with ``until_stdin_ends`` at the end of standard input too; more than once
    does no harm. A signal that finds it stopping for another reason, by ``is_stopping``, counts as a second one.
    Without ``then`` a second signal ends a process whose loop is busy as well.
    """
    loop, come = asyncio.get_running_loop(), _StopHandler(stop, then, is_stopping).come
    for number in STOP_SIGNALS:
        loop.add_signal_handler(number, come, number)
    if until_stdin_ends:
        watch_stdin(stop)


class _StopHandler:
    """What is done about signals to stop. Two that come at once find the same handler of the loop."""

    def __init__(
        self, stop: Callable[[], None], then: Callable[[], None] | None, is_stopping: Callable[[], bool]
    ) -> None:
        self._stop, self._then, self._is_stopping = stop, then, is_stopping
        self._has_begun = False

    def come(self, number: signal.Signals) -> None:
        if self._has_begun or self._is_stopping():
            self._end(number)
            return
        self._has_begun = True
        if self._then is None:
            _leave_to_default()
        self._stop()

    def _end(self, number: signal.Signals) -> None:
        if self._then is not None:
            self._then()
        _leave_to_default()
        signal.raise_signal(number)


def _leave_to_default() -> None:
    for number in STOP_SIGNALS:
        asyncio.get_running_loop().remove_signal_handler(number)


def watch_stdin(stop: Callable[[], None]) -> None:
    """Call ``stop`` at the end of standard input.

    It is the pipe of a parent that must not be outlived: the kernel closes the parent's end, whatever has killed it.
    """
    loop, stdin = asyncio.get_running_loop(), sys.stdin.fileno()

    def read() -> None:
        if not os.read(stdin, 4096):
            loop.remove_reader(stdin)
            stop()

    loop.add_reader(stdin, read)


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
