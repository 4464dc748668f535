"""When a command that runs until it is told to stop is told so."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable

_STOPPING = (signal.SIGTERM, signal.SIGINT)


def watch_for_stop(stop: Callable[[], None], *, until_stdin_ends: bool = False) -> None:
    """Call ``stop`` once, on the first SIGTERM or SIGINT; a second one then does what it does by default.

    Args:
        stop: to call from the running event loop.
        until_stdin_ends: at the end of standard input too. It is the pipe of a parent that must not be outlived: the
            kernel closes the parent's end, whatever has killed it.
    """
    loop = asyncio.get_running_loop()

    def begin() -> None:
        for number in _STOPPING:
            loop.remove_signal_handler(number)
        if until_stdin_ends:
            loop.remove_reader(sys.stdin.fileno())
        stop()

    def read() -> None:
        if not os.read(sys.stdin.fileno(), 4096):
            begin()

    for number in _STOPPING:
        loop.add_signal_handler(number, begin)
    if until_stdin_ends:
        loop.add_reader(sys.stdin.fileno(), read)
