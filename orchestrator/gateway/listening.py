"""Listening on TCP addresses, and one line when that fails."""

from __future__ import annotations

import socket

from aiohttp import web

from orchestrator.errors import ConfigError

BACKLOG = 1024


async def listen(server: web.Server, address: str, *, key: str) -> tuple[web.ServerRunner, str]:
    """Return a runner that listens on ``host:port``, and the address with the port it has.

    Args:
        server: The server that answers.
        address: Where to listen; port 0 takes a free one.
        key: The key of fleet.yaml, for the message when it fails.

    Raises:
        ConfigError: The address can't be listened on.
    """
    host, _, port = address.rpartition(":")
    runner = web.ServerRunner(server)
    await runner.setup()
    site = web.TCPSite(runner, host.strip("[]"), int(port))
    try:
        await site.start()
    except OSError as exc:
        await runner.cleanup()
        raise refused_address(address, key, exc) from exc
    return runner, f"{host}:{runner.addresses[0][1]}"


def bind(address: str, *, key: str) -> socket.socket:
    """Return a non-blocking socket on ``host:port``, which nobody else has; it does not listen yet.

    Args:
        address: Where to bind; of a name that has several addresses, the first.
        key: The key of fleet.yaml, for the message when it fails.

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
