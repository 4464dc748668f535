"""Listening on TCP addresses, and one line when that fails."""

from __future__ import annotations

import socket

from orchestrator.errors import ConfigError

BACKLOG = 1024


def bind(address: str, *, key: str) -> socket.socket:
    """Return a non-blocking socket on ``host:port``, which nobody else has; it does not listen yet.

    Of a name that has several addresses it is the first; ``key`` is the address' key in fleet.yaml.

    Raises:
        ConfigError: The address can't be had.
    """
    host, _, port = address.rpartition(":")
    try:
        found = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, place = found[0]
        bound = socket.socket(family, kind, protocol)
        try:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            bound.bind(place)
        except BaseException:
            bound.close()
            raise
    except OSError as exc:
        raise refused_address(address, key, exc) from exc
    bound.setblocking(False)
    return bound


def refused_address(address: str, key: str, error: OSError) -> ConfigError:
    """Return the error that says that the address under ``key`` of fleet.yaml can't be listened on."""
    return ConfigError(
        f"can't listen on {key} = {address} ({error.strerror or error}); give a free address of this machine"
    )
