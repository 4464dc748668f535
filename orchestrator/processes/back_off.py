"""How long to wait before what has died is started again."""

from __future__ import annotations

STEADY_S = 10.0
"""What lived for so long was not ended by how it was started."""

_FIRST_S = 0.25
_LONGEST_S = 30.0


def count_short_lives(short_lives: int, lived_s: float) -> int:
    """Return how many lives in a row were short, after one more."""
    return 0 if lived_s >= STEADY_S else short_lives + 1


def restart_pause_s(short_lives: int) -> float:
    """Return the pause after so many short lives in a row: none after a steady one, then 0.25, 0.5, 1, … 30 s."""
    return 0.0 if short_lives == 0 else min(_LONGEST_S, _FIRST_S * 2.0 ** min(short_lives - 1, 10))
