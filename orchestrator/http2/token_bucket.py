"""How much of what costs us and brings nobody an answer a peer may do: a token bucket."""

from __future__ import annotations


class TokenBucket:
    """Refills with time up to a bound.

    Args:
        most: that may be spent at once.
        per_s: that come back.
        now_s: when it is full.
    """

    __slots__ = ("_left", "_most", "_per_s", "_since_s")

    def __init__(self, most: float, per_s: float, now_s: float) -> None:
        self._left = self._most = most
        self._per_s = per_s
        self._since_s = now_s

    def spend(self, now_s: float) -> bool:
        """Take one; False when there is none left."""
        self._left = min(self._most, self._left + (now_s - self._since_s) * self._per_s)
        self._since_s = now_s
        if self._left < 1:
            return False
        self._left -= 1
        return True
