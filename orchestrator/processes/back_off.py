"""How long to wait before what has ended is started again."""

from __future__ import annotations

STEADY_S = 10.0
"""What ran for so long was not ended by how it was started."""

_FIRST_S = 0.25
_LONGEST_S = 30.0


def count_short_runs(short_runs: int, ran_s: float) -> int:
    """Return how many runs in a row were short, after one more that took so many seconds."""
    return 0 if ran_s >= STEADY_S else short_runs + 1


def restart_pause_s(short_runs: int) -> float:
    """Return the pause after so many short runs in a row: none after a steady one, then 0.25, 0.5, 1, … 30 s."""
    return 0.0 if short_runs == 0 else min(_LONGEST_S, _FIRST_S * 2.0 ** min(short_runs - 1, 10))
