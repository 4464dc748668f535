"""Who drives one server, as it is kept beside that server: a holder, a term and an expiry.

A lease (Gray and Cheriton, SOSP 1989). A gateway claims a server that nobody holds, renews it several times within
``LEASE_S``, and releases it, to nobody or to a successor. One that can't renew it, because it died or can't be reached,
loses it when it expires, and another one gets it. Each new holder has a term of its own, higher than all before; what
comes with another term is old and changes nothing (fencing).

Two clocks are never compared: the holder counts the time from before it asked, the keeper from when it was asked. So
the holder ends first, however far apart their clocks are. A batch that it sent just before may still run for a while.

A keeper that was started anew knows of no holder, though there may be one. So for the first ``LEASE_S`` it grants no
claim, but believes who renews first. That may be a late message of a holder whose time is over: it lets nobody in, it
only sends the real one to claim again.

The state is a value; time is in seconds on the keeper's clock, which never goes back.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

from orchestrator.ownership.rendezvous import GatewayName

LEASE_S = 2.0
"""Time from a claim or renewal to its expiry: how long a server whose gateway has died is idle at the most."""


@dataclass(frozen=True, slots=True)
class HolderRecord:
    """Who holds a server.

    Attributes:
        holder: The gateway that may drive it until ``expires_s``.
        term: The number of the holder's time, 1 or more; higher than that of each holder before.
        expires_s: When that ends unless it is renewed.
    """

    holder: GatewayName
    term: int
    expires_s: float


@dataclass(frozen=True, slots=True)
class Holding:
    """All that a keeper knows.

    Attributes:
        opened_s: When it began to keep the record.
        first_term: The first term that it gives. It is to be another than those that an earlier keeper gave, of which
            messages may still come; it may be lower, because terms of two keepers are only held against each other for
            being the same, and each keeper's own go up from the highest that it has given or believed.
        record: The last holder, whose time may be over; None before the first.
    """

    opened_s: float
    first_term: int = 1
    record: HolderRecord | None = None

    def held(self, *, now_s: float) -> HolderRecord | None:
        """Return the record of the gateway that holds the server now; None when none is known to."""
        record = self.record
        return record if record is not None and now_s < record.expires_s else None

    def wait_s(self, *, now_s: float) -> float:
        """Return for how long nobody else can get the server, unless it is released: 0 for one to be had now."""
        held = self.held(now_s=now_s)
        expires_s = now_s if held is None else held.expires_s
        return max(expires_s, self.opened_s + LEASE_S, now_s) - now_s

    def claim(self, gateway: GatewayName, *, now_s: float) -> Self | None:
        """Return the state in which a gateway holds the server; None when another does, or may do.

        A gateway that holds it gets it again, in a new term: that is how a successor learns its term.
        """
        held = self.held(now_s=now_s)
        if self._is_new(now_s) or (held is not None and held.holder != gateway):
            return None
        return self._give(gateway, now_s=now_s)

    def renew(self, gateway: GatewayName, term: int, *, now_s: float) -> Self | None:
        """Return the state in which a gateway holds the server for longer; None when its term is over."""
        held = self.held(now_s=now_s)
        if self.record is None and self._is_new(now_s):
            return replace(self, record=HolderRecord(gateway, term, now_s + LEASE_S))
        if held is None or (held.holder, held.term) != (gateway, term):
            return None
        return replace(self, record=replace(held, expires_s=now_s + LEASE_S))

    def release(
        self, gateway: GatewayName, term: int, successor: GatewayName | None = None, *, now_s: float
    ) -> Self | None:
        """Return the state in which nobody holds the server, or a successor does; None when the term is over.

        The successor is given a term at once, so that nobody comes in between; it learns it when it claims.
        """
        held = self.held(now_s=now_s)
        if held is None or (held.holder, held.term) != (gateway, term):
            return None
        if successor is not None:
            return self._give(successor, now_s=now_s)
        return replace(self, record=replace(held, expires_s=now_s))

    def _give(self, gateway: GatewayName, *, now_s: float) -> Self:
        last_term = 0 if self.record is None else self.record.term
        return replace(self, record=HolderRecord(gateway, max(last_term + 1, self.first_term), now_s + LEASE_S))

    def _is_new(self, now_s: float) -> bool:
        return now_s < self.opened_s + LEASE_S
