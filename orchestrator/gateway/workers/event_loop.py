"""The event loop that a gateway runs on, and what could hold it up from below."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import time

log = logging.getLogger(__name__)

try:
    import uvloop
except ImportError:  # asked for on Linux only
    new_event_loop = asyncio.new_event_loop
else:

    class _PreciseLoop(uvloop.Loop):
        """uvloop costs less CPU a request, but its clock is read once a turn and counts whole milliseconds.

        The router times batches of less than a millisecond by the loop's clock, so that has to be a real one. Timers
        are set by their distance from now, so they stay right.
        """

        def time(self) -> float:
            return time.monotonic()

    def new_event_loop() -> asyncio.AbstractEventLoop:
        """Return a new loop, uvloop's where it is installed."""
        return _PreciseLoop()


def freeze_heap() -> None:
    """Let the garbage collector look no more at what is there now, as a gateway has started, but at what comes.

    A look at all of it, compiled decisions and their libraries, takes a tenth of a second, in which nobody is answered.
    Who floods with calls brings it on, because every call leaves objects.
    """
    gc.collect()
    gc.freeze()
    gc.enable()


def go_first(nice: int | None) -> None:
    """Have this thread, which is to be the event loop's, get a core before what has a greater niceness.

    Every request waits for it, and it needs a core for far shorter than a batch or a job beside it does. Whoever was
    started with a niceness of its own keeps it; so does who may not change it, which is logged with the remedy.
    """
    if nice is None or os.getpriority(os.PRIO_PROCESS, 0) != 0:
        return
    try:
        os.setpriority(os.PRIO_PROCESS, 0, nice)
    except OSError as exc:
        log.info(
            "gateway.nice = %d is not allowed (%s), it stays 0: beside jobs that take all cores answers come late; "
            "start it with 'Nice=%d' (systemd) or CAP_SYS_NICE, or keep a core free",
            nice,
            exc.strerror,
            nice,
        )


__all__ = ["freeze_heap", "go_first", "new_event_loop"]
