"""When a command that runs until it is told to stop is told so."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable

import click

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)

until_stdin_ends_option = click.option("--until-stdin-ends", is_flag=True, hidden=True)
"""For a command that another starts; see ``watch_stdin``."""


def watch_for_stop(stop: Callable[[], None], *, until_stdin_ends: bool = False) -> None:
    """Call ``stop`` on the first SIGTERM or SIGINT; a second one then does what it does by default.

    Args:
        stop: What to call, from the running event loop; more than once does no harm.
        until_stdin_ends: Whether to call it at the end of standard input too.
    """
    loop = asyncio.get_running_loop()

    def begin() -> None:
        for number in STOP_SIGNALS:
            loop.remove_signal_handler(number)
        stop()

    for number in STOP_SIGNALS:
        loop.add_signal_handler(number, begin)
    if until_stdin_ends:
        watch_stdin(stop)


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
