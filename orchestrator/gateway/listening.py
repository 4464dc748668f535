"""An aiohttp server on a TCP address."""

from __future__ import annotations

from aiohttp import web

from orchestrator.errors import ConfigError


async def listen(server: web.Server, address: str, *, key: str) -> tuple[web.ServerRunner, str]:
    """Return a runner that listens on ``host:port``, and the address with the port it has.

    Args:
        server: that answers.
        address: to listen on; port 0 takes a free one.
        key: of fleet.yaml, for the message when it fails.

    Raises:
        ConfigError: when the address can't be listened on.
    """
    host, _, port = address.rpartition(":")
    runner = web.ServerRunner(server)
    await runner.setup()
    site = web.TCPSite(runner, host.strip("[]"), int(port))
    try:
        await site.start()
    except OSError as exc:
        await runner.cleanup()
        reason = exc.strerror or exc
        raise ConfigError(f"can't listen on {key} = {address} ({reason}); give a free address of this machine") from exc
    return runner, f"{host}:{runner.addresses[0][1]}"
