"""The driver of each server, from the names of all and the servers' capacities.

Rendezvous hashing (Thaler and Ravishankar, IEEE/ACM Trans. Networking 1998): each gateway has a score for each server,
and the highest drives it. It needs no state, and whoever knows the same names gets the same answer. Of few servers it
alone would often give one gateway all, so loads are bounded (Mirrokni, Thorup and Zadimoghaddam, SODA 2018), here in
the servers' capacities: the servers choose in turn, the largest first, and a gateway that would have more than 1.1
times its fair share is passed over. Where all would, the gateway that has the least takes the server.

A ring of virtual nodes needs hundreds of them for shares as even. An optimal partition would move nearly all servers
when a gateway comes or goes; here those of the gateway itself move, and few others.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from typing import NewType

from orchestrator.snapshot import ServerName

GatewayName = NewType("GatewayName", str)
"""What identifies one running gateway among those that share a fleet, the same for all of them."""

_MOST_OF_FAIR = 1.1
"""Of its fair share that a gateway may have: less moves more servers at each change, more is less even."""


def score(gateway: GatewayName, server: ServerName) -> int:
    """Return how much a gateway is meant for a server, 0 to 2^64 - 1; the same on every machine."""
    digest = hashlib.blake2b(f"{gateway}\0{server}".encode(), digest_size=8).digest()
    return int.from_bytes(digest)


def assign(
    capacities_rps: Mapping[ServerName, float], gateways: Collection[GatewayName]
) -> Mapping[ServerName, GatewayName]:
    """Return the driver of each server, given at least one gateway; nothing without any.

    Capacities are items a second, each above 0; equal ones do where they are not known. The order of neither matters.
    """
    if not gateways:
        return {}
    most_rps = _MOST_OF_FAIR * sum(sorted(capacities_rps.values())) / len(set(gateways))
    given_rps = dict.fromkeys(sorted(gateways), 0.0)
    drivers: dict[ServerName, GatewayName] = {}
    for server, capacity_rps in sorted(capacities_rps.items(), key=lambda entry: (-entry[1], entry[0])):
        ranked = sorted(given_rps, key=lambda gateway: (-score(gateway, server), gateway))
        fitting = [gateway for gateway in ranked if given_rps[gateway] + capacity_rps <= most_rps]
        driver = fitting[0] if fitting else min(ranked, key=given_rps.__getitem__)
        drivers[server] = driver
        given_rps[driver] += capacity_rps
    return drivers
