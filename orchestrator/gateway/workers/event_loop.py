"""The event loop that a gateway runs on, and what could hold it up from below."""

from __future__ import annotations

import asyncio
import gc
import time

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


__all__ = ["freeze_heap", "new_event_loop"]
