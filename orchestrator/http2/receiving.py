"""What clients may take of a transport by bodies that have not come whole, over HTTP/1.1 and gRPC alike.

What is held of them is counted over all connections. When that is too much, it is the connection or client that holds
the most which loses its largest body, and not whoever sends the next piece: so a client that begins much and finishes
nothing takes nothing from the others. And a body that hardly grows is given up as one that has stopped: the more is
held of it, the faster it has to come.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable
from typing import Final, Protocol

_LEAST_GROWTH: Final = 64


class Holder(Protocol):
    """A body of which something is held."""

    @property
    def owner(self) -> Hashable:
        """Whose it is: a connection, or a client."""
        ...

    def lose(self) -> None:
        """Give back all that is held of it, and refuse it to its client."""
        ...


class ReceiveBudget:
    """Counts bytes by the body they are of, ``total_bytes`` in all; ``most_bytes`` should hold the largest body."""

    def __init__(self, most_bytes: int) -> None:
        self.total_bytes = 0
        self._most_bytes = most_bytes
        self._held: dict[Holder, int] = {}

    def take(self, holder: Holder, size: int) -> None:
        """Count a piece; afterwards its holder, or another one, may have lost all of its pieces."""
        if size:
            self.total_bytes += size
            self._held[holder] = self._held.get(holder, 0) + size
        while self.total_bytes > self._most_bytes:
            self._choose_lost().lose()

    def give(self, holder: Holder, size: int) -> None:
        """Count so much of a body no more."""
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


class Growth:
    """Tells a body that comes from one that hardly does: it has to grow by a 64th for its client to be given time."""

    __slots__ = ("_due_bytes",)

    def __init__(self) -> None:
        self._due_bytes = 1

    def is_progress(self, size_bytes: int) -> bool:
        """Return whether a body, which has this size now, has grown enough since the last time that it had."""
        if size_bytes < self._due_bytes:
            return False
        self._due_bytes = size_bytes + 1 + size_bytes // _LEAST_GROWTH
        return True
