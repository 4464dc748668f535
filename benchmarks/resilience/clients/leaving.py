"""Clients that leave: with a call under way, with half a request sent, or without ever saying what they want."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from collections.abc import Mapping

import numpy as np
from tritonclient.grpc.aio import InferenceServerClient as GrpcClient
from tritonclient.utils import InferenceServerException

from benchmarks.resilience.clients.mixed_kinds import FAMILY, INPUT, ITEM_SHAPE, OK, Kind, World, grpc_inputs

LEFT = "left"
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_SETTINGS = bytes(3) + b"\x04" + bytes(5)
_HALF_HEADERS = (100).to_bytes(3, "big") + b"\x01\x04" + (1).to_bytes(4, "big") + b"\x82\x86"


async def give_up(world: World) -> str:
    """A gRPC call whose client waits for a millisecond."""
    try:
        await world.grpc_client.infer(FAMILY, grpc_inputs(world.batch()), client_timeout=0.001)
    except InferenceServerException as exc:
        return f"{exc.status()}"
    return OK


async def cancel(world: World) -> str:
    """A gRPC call that is cancelled under way."""
    call = asyncio.ensure_future(world.grpc_client.infer(FAMILY, grpc_inputs(world.batch())))
    await asyncio.sleep(float(world.rng.uniform(0, 0.01)))
    call.cancel()
    await asyncio.gather(call, return_exceptions=True)
    return LEFT


async def come_once(world: World) -> str:
    """A connection of its own for one request."""
    async with GrpcClient(world.grpc, channel_args=[("grpc.use_local_subchannel_pool", 1)]) as client:
        await client.infer(FAMILY, grpc_inputs(world.batch(1)))
    return OK


async def post_and_leave(world: World) -> str:
    """A whole HTTP request, or half of one, and a reset before its answer."""
    data = np.zeros((1, *ITEM_SHAPE), np.float32)
    tensor = {"name": INPUT, "shape": list(data.shape), "datatype": "FP32", "data": data.ravel().tolist()}
    body = json.dumps({"inputs": [tensor]}).encode()
    head = f"POST /v2/models/{FAMILY}/infer HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    sent = head + (body if world.rng.integers(2) else body[: len(body) // 2])
    return await _send_and_reset(world, world.http, sent)


async def half_speak_grpc(world: World) -> str:
    """The beginning of HTTP/2, cut somewhere, and a reset."""
    spoken = _PREFACE + _SETTINGS + _HALF_HEADERS
    return await _send_and_reset(world, world.grpc, spoken[: int(world.rng.integers(0, len(spoken) + 1))])


async def _send_and_reset(world: World, address: str, data: bytes) -> str:
    host, _, port = address.rpartition(":")
    _, writer = await asyncio.open_connection(host, int(port))
    # Closed with a reset instead of in order, as the kernel does for a process that crashed with data unread.
    raw = writer.get_extra_info("socket")
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.write(data)
    await asyncio.sleep(float(world.rng.uniform(0, 0.02)))
    writer.transport.abort()
    return LEFT


_LEFT = frozenset({LEFT})
LEAVING: Mapping[str, Kind] = {
    "gRPC, given up after 1 ms": Kind(3, give_up, frozenset({OK, "StatusCode.DEADLINE_EXCEEDED"})),
    "gRPC, cancelled": Kind(3, cancel, _LEFT),
    "gRPC, a connection for one request": Kind(2, come_once, frozenset({OK})),
    "HTTP, reset before the answer": Kind(3, post_and_leave, _LEFT),
    "gRPC, half a beginning": Kind(2, half_speak_grpc, _LEFT),
}
