"""Host names to addresses, by the system's resolver."""

from __future__ import annotations

import asyncio
import logging
import socket

log = logging.getLogger(__name__)


async def resolve_host(host: str) -> tuple[str, ...]:
    """Return the addresses of a host name, ascending; none when it can't be resolved now.

    Those of IPv4 only, where there are any: the two families of one host would look like two servers.
    """
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError as exc:
        log.debug("resolving %s: %s", host, exc)
        return ()
    by_family = {family: {str(entry[4][0]) for entry in found if entry[0] is family} for family, *_ in found}
    return tuple(sorted(by_family.get(socket.AF_INET) or by_family.get(socket.AF_INET6) or ()))
