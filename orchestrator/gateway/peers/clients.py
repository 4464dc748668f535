"""The calls to other gateways and to controllers, over the network.

A peer at ``unix:PATH`` is another worker of this gateway.
"""

from __future__ import annotations

import asyncio
import errno
import json
import os
import socket
from collections.abc import Sequence
from typing import Any, Final

import aiohttp

from orchestrator.errors import ServerUnavailableError
from orchestrator.gateway.peers.leases import NoKeeperError
from orchestrator.gateway.peers.links import PeerGoneError
from orchestrator.http2.flow import Buffer
from orchestrator.http2.grpc.channel import Dial, GrpcChannel
from orchestrator.http2.grpc.wire import Metadata, RpcError
from orchestrator.ownership import GatewayName
from orchestrator.triton.errors import translate_status
from orchestrator.triton.messages import SERVICE

REPORT: Final = "/slimsched.Gateway/Report"
UNIX: Final = "unix:"
_INFER: Final = f"/{SERVICE}/ModelInfer"
_KEEPER_S: Final = 0.5
_LEAVE_S: Final = 0.5
_NOBODY: Final = tuple(os.strerror(number) for number in (errno.ECONNREFUSED, errno.ENOENT))  # no process listens


class GrpcPeerClient:
    """The calls to one gateway, at ``host:port`` or ``unix:PATH``."""

    def __init__(self, address: str) -> None:
        self._told_as = f"gateway at {address}"
        path = address.removeprefix(UNIX)
        self._channel = GrpcChannel(address) if path == address else GrpcChannel("worker:1", dial=_dial(path))

    async def exchange_reports(self, own: bytes) -> bytes:
        """Tell it this gateway's report and return its own, both as JSON; raises SlimError."""
        return await self._call(REPORT, (own,))

    def reconnect(self) -> None:
        """Call it over a new connection from now on; what is under way may end."""
        self._channel.set_aside()

    async def infer(self, parts: Sequence[Buffer], metadata: Metadata) -> bytes:
        """Return its answer to a ModelInferRequest, both serialised; raises SlimError."""
        return await self._call(_INFER, parts, metadata)

    async def _call(self, path: str, parts: Sequence[Buffer], metadata: Metadata = ()) -> bytes:
        head, *rest = parts
        try:
            return await self._channel.call(path, head, metadata, rest=rest)
        except RpcError as exc:
            if exc.detail.endswith(_NOBODY):
                raise PeerGoneError(f"{self._told_as}: {exc.detail}", executed=False) from exc
            raise translate_status(exc.status, exc.detail or "no reason given", self._told_as) from exc

    async def close(self) -> None:
        """Let go of it, once it has answered what is under way, or has had some time to."""
        await self._channel.close(drain_s=_LEAVE_S)


def _dial(path: str) -> Dial:
    async def dial(host: str, port: int) -> socket.socket:
        one = socket.socket(socket.AF_UNIX)
        try:
            one.setblocking(False)
            await asyncio.get_running_loop().sock_connect(one, path)
        except BaseException:
            one.close()
            raise
        return one

    return dial


class ControllerKeeper:
    """The record of one server's driver at its controller; see orchestrator.controller.status.holder.

    Args:
        session: What makes the connections; without proxies.
        address: Where the controller answers, ``host:port``.
        headers: Those of Triton's restricted protocols, which the controller asks for too.
    """

    def __init__(self, session: aiohttp.ClientSession, address: str, headers: Sequence[tuple[str, str]] = ()) -> None:
        self._session = session
        self._address = address
        self._headers = dict(headers)

    async def claim(self, gateway: GatewayName) -> int | None:
        """Return the term that was granted; None when it was not; raises as ``Keeper.claim``."""
        answer = await self._ask(ask="claim", gateway=gateway)
        term = None if answer is None else answer.get("term")
        return term if isinstance(term, int) else None

    async def renew(self, gateway: GatewayName, term: int) -> bool:
        """Return whether the term goes on; raises as ``Keeper.claim``."""
        return await self._ask(ask="renew", gateway=gateway, term=term) is not None

    async def release(self, gateway: GatewayName, term: int, successor: GatewayName | None) -> None:
        """End a term, and begin the successor's if there is one; raises as ``Keeper.claim``."""
        body = {"ask": "release", "gateway": gateway, "term": term}
        await self._ask(**body, **({} if successor is None else {"successor": successor}))

    async def _ask(self, **body: Any) -> dict[str, Any] | None:
        """Return the record after it was granted; None when it was not."""
        url = f"http://{self._address}/holder"
        try:
            async with (
                asyncio.timeout(_KEEPER_S),
                self._session.post(url, json=body, headers=self._headers) as answer,
            ):
                if answer.status == 409:
                    return None
                text = await answer.read()
                if answer.status != 200:
                    said = " ".join(text.decode(errors="replace").split())[:200]
                    raise NoKeeperError(f"the controller at {self._address} answers {answer.status}: {said}")
                found = json.loads(text)
        except ValueError as exc:
            raise NoKeeperError(f"what answers at {self._address} is no controller") from exc
        except (TimeoutError, aiohttp.ClientError, OSError) as exc:
            cause = getattr(exc, "os_error", exc)
            if isinstance(cause, ConnectionRefusedError):
                raise NoKeeperError(f"no controller listens at {self._address}") from exc
            why = f"no answer within {_KEEPER_S:g} s" if isinstance(exc, TimeoutError) else str(exc)
            raise ServerUnavailableError(f"the controller at {self._address}: {why}", executed=False) from exc
        if not isinstance(found, dict):
            raise NoKeeperError(f"what answers at {self._address} is no controller")
        return found
