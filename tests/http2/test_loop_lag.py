"""How far an event loop is behind, by the lateness of a timer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from orchestrator.http2.loop_lag import PERIOD_S, LoopLag


class HandTurnedLoop:
    """A loop whose clock and timers a test moves."""

    def __init__(self) -> None:
        self.now_s = 100.0
        self.timers: list[tuple[float, Callable[[], object]]] = []

    def time(self) -> float:
        return self.now_s

    def call_later(self, delay: float, callback: Callable[[], object], /) -> Any:
        self.timers.append((self.now_s + delay, callback))
        return self

    def cancel(self) -> None:
        self.timers.clear()

    def turn(self, *, at_s: float) -> None:
        """Let a time come, and call what is due, however late that is."""
        self.now_s = at_s
        due, self.timers = [t for t in self.timers if t[0] <= at_s], [t for t in self.timers if t[0] > at_s]
        for _, callback in due:
            callback()


def test_a_loop_that_turns_in_time_is_not_behind() -> None:
    loop = HandTurnedLoop()
    lag = LoopLag(loop)
    for _ in range(5):
        loop.turn(at_s=loop.now_s + PERIOD_S + 0.0005)  # timers are no finer
        assert lag.seconds == 0


def test_what_a_loop_is_behind_shows_while_it_is_and_is_forgotten_slowly() -> None:
    loop = HandTurnedLoop()
    lag = LoopLag(loop)
    loop.now_s += PERIOD_S + 0.051  # it is busy with something, and the timer waits
    assert lag.seconds == pytest.approx(0.05)
    loop.turn(at_s=loop.now_s + 0.03)
    assert lag.seconds == pytest.approx(0.08)
    seen = []
    for _ in range(10):
        loop.turn(at_s=loop.now_s + PERIOD_S)
        seen.append(lag.seconds)
    assert seen == sorted(seen, reverse=True)
    assert seen[2] > 0.03
    assert seen[-1] < 0.01


def test_a_loop_is_looked_at_no_more_once_nobody_asks() -> None:
    loop = HandTurnedLoop()
    LoopLag(loop).stop()
    assert not loop.timers
