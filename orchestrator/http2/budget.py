"""What is held for clients over all connections of a server: parts of requests, and answers that they don't take."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable
from typing import Protocol


class Holder(Hashable, Protocol):
    """What bytes are held for."""

    @property
    def connection(self) -> Hashable:
        """The connection that it belongs to."""
        ...

    def lose(self) -> None:
        """Give back all that is held for it, because too much is held of all."""
        ...


class HeldBudget:
    """Counts bytes by what they are held for, ``total_bytes`` in all.

    Above ``most_bytes`` the connection that holds the most loses its largest; what is held alone may be larger.
    """

    def __init__(self, most_bytes: float) -> None:
        self.total_bytes = 0
        self._most_bytes = most_bytes
        self._held: dict[Holder, int] = {}

    def take(self, holder: Holder, size: int) -> None:
        """Count a piece; afterwards the holder, or another one, may have lost all of its pieces."""
        if size:
            self.total_bytes += size
            self._held[holder] = self._held.get(holder, 0) + size
        while self.total_bytes > self._most_bytes and len(self._held) > 1:
            self._choose_lost().lose()

    def give(self, holder: Holder, size: int) -> None:
        """Count so much of a holder no more."""
        if size:
            self.total_bytes -= size
            self._held[holder] -= size
            if not self._held[holder]:
                del self._held[holder]

    def _choose_lost(self) -> Holder:
        by_connection: Counter[Hashable] = Counter()
        for holder, size in self._held.items():
            by_connection[holder.connection] += size
        worst, _ = by_connection.most_common(1)[0]
        return max((holder for holder in self._held if holder.connection is worst), key=self._held.__getitem__)
