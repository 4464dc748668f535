"""How far an event loop is behind with what has happened.

Who waits for a core, or is busy with what came before, finds what came meanwhile only later; and what came can't say
when that was. A timer can: it knows when it was due, and waits as long for its turn as anything else does.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, Protocol

PERIOD_S: Final = 0.01
_GRAIN_S: Final = 1e-3
"""Timers are not finer, so that much late is in time."""
_KEPT: Final = 0.8
"""Of what was measured each look keeps so much while less is seen; half of it is gone after 30 ms."""


class Timers(Protocol):
    """What is needed of an event loop."""

    def time(self) -> float:
        """Return seconds on the loop's clock."""

    def call_later(self, delay: float, callback: Callable[[], object], /) -> asyncio.TimerHandle:
        """Call back after so many seconds."""


class LoopLag:
    """Measures an event loop, the running one unless another is given, from when it is made until ``stop``."""

    def __init__(self, loop: Timers | None = None) -> None:
        self._loop: Timers = asyncio.get_running_loop() if loop is None else loop
        self._recent_s = 0.0
        self._due_s = 0.0
        self._timer = self._set()

    @property
    def seconds(self) -> float:
        """How long what happens waits for the loop: the most of late, or since the timer was due."""
        return max(0.0, self._recent_s, self._loop.time() - self._due_s - _GRAIN_S)

    def stop(self) -> None:
        """Measure no more."""
        self._timer.cancel()

    def _set(self) -> asyncio.TimerHandle:
        self._due_s = self._loop.time() + PERIOD_S
        return self._loop.call_later(PERIOD_S, self._look)

    def _look(self) -> None:
        late_s = max(0.0, self._loop.time() - self._due_s - _GRAIN_S)
        self._recent_s = max(late_s, _KEPT * self._recent_s + (1 - _KEPT) * late_s)
        self._timer = self._set()
