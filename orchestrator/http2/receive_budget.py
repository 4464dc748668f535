"""What has come of requests that are not whole, of all connections of a server together.

When that is too much, it is the connection that holds the most which loses its largest request, and not whoever sends
the next piece: so a client that begins much and finishes nothing takes nothing from the others.
"""

from __future__ import annotations

from collections import Counter
from typing import Protocol

from orchestrator.http2.flow import AnyFlow


class Holder(Protocol):
    """A call of which something is held."""

    @property
    def connection(self) -> AnyFlow:
        """The connection that the call came on."""
        ...

    def lose(self) -> None:
        """Give back all that is held of it, and tell its client."""
        ...


class ReceiveBudget:
    """Counts bytes by the call they came for.

    Args:
        most_bytes: how much may be held; the largest message must fit.

    Attributes:
        total_bytes: how much is held.
    """

    def __init__(self, most_bytes: int) -> None:
        self.total_bytes = 0
        self._most_bytes = most_bytes
        self._held: dict[Holder, int] = {}

    def take(self, call: Holder, size: int) -> None:
        """Count a piece; afterwards the call, or another one, may have lost all of its pieces."""
        if size:
            self.total_bytes += size
            self._held[call] = self._held.get(call, 0) + size
        while self.total_bytes > self._most_bytes:
            self._choose_victim().lose()

    def give(self, call: Holder, size: int) -> None:
        """Count so much of a call no more."""
        if size:
            self.total_bytes -= size
            self._held[call] -= size
            if not self._held[call]:
                del self._held[call]

    def _choose_victim(self) -> Holder:
        by_connection: Counter[AnyFlow] = Counter()
        for call, size in self._held.items():
            by_connection[call.connection] += size
        worst, _ = by_connection.most_common(1)[0]
        return max((call for call in self._held if call.connection is worst), key=self._held.__getitem__)
