"""What is held for clients over all connections of a server: parts of requests, and answers that they don't take.

HTTP/1.1 and gRPC count alike. What hardly gets on is given up as what has stopped: the more is held of it, the faster
it has to come, or to be taken.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable
from typing import Final, Protocol

_LEAST_BYTES_PER_S: Final = 1024
_LEAST_PART: Final = 64
"""A 64th of what is held has to come, or to be taken, in the time that is given for nothing."""


class Holder(Hashable, Protocol):
    """What bytes are held for."""

    @property
    def owner(self) -> Hashable:
        """Whose it is: a connection, or a client."""

    def lose(self) -> None:
        """Give back all that is held for it, because too much is held of all."""


class HeldBudget:
    """Counts bytes by what they are held for, ``total_bytes`` in all.

    Above ``most_bytes`` it is the connection or client that holds the most which loses its largest, and not whoever
    sends the next piece: who begins much and finishes nothing takes nothing from the others. With ``spares_one``
    what is held alone may be larger.
    """

    def __init__(self, most_bytes: float, *, spares_one: bool = False) -> None:
        self.total_bytes = 0
        self._most_bytes = most_bytes
        self._spared = int(spares_one)
        self._held: dict[Holder, int] = {}

    def take(self, holder: Holder, size: int) -> None:
        """Count a piece; afterwards the holder, or another one, may have lost all of its pieces."""
        if size:
            self.total_bytes += size
            self._held[holder] = self._held.get(holder, 0) + size
        while self.total_bytes > self._most_bytes and len(self._held) > self._spared:
            self._choose_lost().lose()

    def give(self, holder: Holder, size: int) -> None:
        """Count so much of a holder no more."""
        if size:
            self.total_bytes -= size
            self._held[holder] -= size
            if not self._held[holder]:
                del self._held[holder]

    def _choose_lost(self) -> Holder:
        by_owner: Counter[Hashable] = Counter()
        for holder, size in self._held.items():
            by_owner[holder.owner] += size
        worst, _ = by_owner.most_common(1)[0]
        return max((holder for holder in self._held if holder.owner == worst), key=self._held.__getitem__)


def time_bought_s(size_bytes: int, held_bytes: int, stall_s: float) -> float:
    """Return the time that a piece buys its client, of a request or an answer of which so much is held.

    No trickle renews the time: besides ``stall_s`` there is a second for each KiB, and less where much is held.
    """
    return size_bytes / max(_LEAST_BYTES_PER_S, held_bytes / (_LEAST_PART * stall_s))
