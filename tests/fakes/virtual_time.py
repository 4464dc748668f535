"""An event loop whose clock jumps to the next timer, so that a test of ten minutes takes none and is exact.

Tests marked ``virtual_time`` run on it. looptime's own pytest plugin is switched off: version 0.9 asks asyncio for a
loop in every test and leaves those it so creates unclosed, which fails tests in which warnings are errors.

Before each jump looptime turns its loop 42 times, unless told otherwise, for coroutines that might still have to run.
asyncio lets all of them run before it looks at its timers, so here the loop turns once.
"""

from __future__ import annotations

import asyncio
from typing import cast

import looptime


def new_virtual_loop(*, resolution_s: float = 1e-6) -> asyncio.AbstractEventLoop:
    """Return a new loop at time 0, whose clock counts in steps of ``resolution_s``."""
    plain = cast(asyncio.BaseEventLoop, asyncio.new_event_loop())
    return looptime.patch_event_loop(plain, start=0.0, resolution=resolution_s, noop_cycles=0)
