"""How fast a total grows between two reads: watts of joules, CPUs of CPU seconds."""

from __future__ import annotations

# CPU time is counted in ticks of 10 ms and powercap counters move about once a millisecond: over less than this the
# quotient is mostly noise.
MIN_WINDOW_S = 0.05


class RateMeter:
    """Differences of a growing total over the time between reads.

    A read too soon after the last one keeps the window open and repeats the rate of the window before.
    """

    def __init__(self) -> None:
        self._total: float | None = None
        self._at_s = 0.0
        self._rate: float | None = None

    def update(self, total: float, now_s: float) -> float | None:
        """Return the growth a second since the last read; None at the first, and when the total fell."""
        if self._total is not None and now_s - self._at_s < MIN_WINDOW_S:
            return self._rate
        if self._total is None or total < self._total:
            self._rate = None
        else:
            self._rate = (total - self._total) / (now_s - self._at_s)
        self._total, self._at_s = total, now_s
        return self._rate
