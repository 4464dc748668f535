"""What one connection that floods costs the others: the longest call of a victim under a flood of each kind of frame.

``python -m benchmarks.floods --grpc HOST:PORT [--http HOST:PORT]`` floods a gateway that runs, over loopback. The
attacker has no token, opens its connection again whenever it is closed, and sends as fast as the socket takes; the
victim asks for health over one gRPC connection, and for readiness over HTTP on a new one each time.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import socket
import threading
import time
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import hpack

from orchestrator.http2.frames import (
    DATA,
    HEADERS,
    PING,
    PREFACE,
    PRIORITY,
    RST_STREAM,
    SETTINGS,
    frame,
    settings_frame,
    window_update_frame,
)
from orchestrator.http2.grpc.channel import GrpcChannel
from orchestrator.http2.grpc.wire import RpcError
from orchestrator.triton.messages import SERVICE

_PIECE_BYTES = 2**18
_OPEN = 0x4
_WHOLE = 0x5


def _block(method: str, *more: tuple[str, str], huffman: bool = False, path: str = "") -> bytes:
    fields = [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", path or f"/{SERVICE}/{method}"),
        (":authority", "here"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
        *more,
    ]
    encoder = hpack.Encoder()
    encoder.header_table_size = 0
    return encoder.encode([hpack.NeverIndexedHeaderTuple(*field) for field in fields], huffman=huffman)


def _calls(block: bytes, first: int, *after: Callable[[int], bytes], flags: int = _WHOLE) -> tuple[bytes, int]:
    """Return about a piece of calls from stream ``first`` on, and the stream that comes next."""
    parts, size, number = [], 0, first
    while size < _PIECE_BYTES:
        part = frame(HEADERS, flags, number, block) + b"".join(make(number) for make in after)
        parts.append(part)
        size += len(part)
        number += 2
    return b"".join(parts), number


_EMPTY_CALL = bytes(5)
_INDEX = _block("RepositoryIndex")
_LIVE = _block("ServerLive")
_HUFFMAN = _block("ServerLive", *((f"x-{n}", "&~'" * 400) for n in range(8)), huffman=True)
_SHORT = b"\x83\x86\x84"

REPEATED: dict[str, bytes] = {
    "nothing": b"",
    "WINDOW_UPDATE +1": window_update_frame(0, 1),
    "PING": frame(PING, 0, 0, bytes(8)),
    "SETTINGS": frame(SETTINGS, 0, 0),
    "SETTINGS that change windows": settings_frame([(4, 65535)]) + settings_frame([(4, 65534)]),
    "PRIORITY": frame(PRIORITY, 0, 1, bytes(4) + b"\x10"),
    "RST_STREAM": frame(RST_STREAM, 0, 1, bytes(4)),
    "unknown frames": frame(99, 0, 0),
    "DATA of one byte, closed stream": frame(DATA, 0, 1, b"x"),
    "DATA that ends a closed stream": frame(DATA, 1, 1),
    "WINDOW_UPDATE on a closed stream": window_update_frame(1, 1),
    "DATA of one byte, open stream": b"",
}
CALLS: dict[str, tuple[bytes, int, tuple[Callable[[int], bytes], ...]]] = {
    "HEADERS without a path": (_SHORT, _WHOLE, ()),
    "HEADERS of no method": (_block("Nothing"), _WHOLE, ()),
    "HEADERS that open calls": (_LIVE, _OPEN, ()),
    "HEADERS and RST_STREAM": (_LIVE, _OPEN, (lambda number: frame(RST_STREAM, 0, number, bytes(4)),)),
    "HEADERS in Huffman's code": (_HUFFMAN, _WHOLE, ()),
    "content-length that lies": (_block("ServerLive", ("content-length", "9")), _OPEN,
                                 (lambda number: frame(DATA, 1, number, b""),)),
    "calls of ServerLive": (_LIVE, _OPEN, (lambda number: frame(DATA, 1, number, _EMPTY_CALL),)),
    "calls of RepositoryIndex": (_INDEX, _OPEN, (lambda number: frame(DATA, 1, number, _EMPTY_CALL),)),
}  # fmt: skip


def _flood_all(connections: int, *attack: Any) -> None:
    threads = [threading.Thread(target=_flood, args=attack) for _ in range(connections)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _flood(address: str, what: str, stops: Any, closed: Any) -> None:
    host, _, port = address.rpartition(":")
    begin = PREFACE + settings_frame([]) + frame(HEADERS, _WHOLE, 1, _LIVE)
    if what == "SETTINGS that change windows":
        begin = PREFACE + settings_frame([])
        begin += b"".join(frame(HEADERS, _OPEN, number, _LIVE) for number in range(1, 2001, 2))
    if what == "DATA of one byte, open stream":
        begin = PREFACE + settings_frame([]) + frame(HEADERS, _OPEN, 1, _LIVE) + frame(DATA, 0, 1, b"\0\0\0\xff\xff")
    one = frame(DATA, 0, 1, b"x") if what == "DATA of one byte, open stream" else REPEATED.get(what, b"")
    repeated = one * (_PIECE_BYTES // max(1, len(one)))
    while not stops.is_set():
        try:
            with socket.create_connection((host, int(port)), timeout=2) as client:
                client.sendall(begin)
                client.setblocking(False)
                number = 3
                left = memoryview(b"")
                while not stops.is_set():
                    if not left:
                        if what in CALLS:
                            block, flags, after = CALLS[what]
                            piece, number = _calls(block, number, *after, flags=flags)
                            left = memoryview(piece)
                        else:
                            left = memoryview(repeated)
                    with suppress(BlockingIOError):
                        left = left[client.send(left) :]
                    try:
                        if not client.recv(2**18):
                            raise ConnectionResetError
                    except BlockingIOError:
                        time.sleep(0.0005)
        except OSError:
            closed.value += 1


def _longest_s(ask: Callable[[], object], until_s: float) -> tuple[float, int, int]:
    longest_s, count, failed = 0.0, 0, 0
    while time.monotonic() < until_s:
        began_s = time.monotonic()
        try:
            ask()
        except (OSError, RpcError):
            failed += 1
        longest_s = max(longest_s, time.monotonic() - began_s)
        count += 1
        time.sleep(0.02)
    return longest_s, count, failed


def _watch(address: str, http: str | None, seconds: float, into: Any) -> None:
    until_s = time.monotonic() + seconds
    if http:
        url = f"http://{http}/v2/health/ready"
        into.put(("http", *_longest_s(lambda: urllib.request.urlopen(url, timeout=30).read(), until_s)))
        return
    with asyncio.Runner() as runner:
        channel = runner.run(_open(address))
        into.put(("grpc", *_longest_s(lambda: runner.run(channel.call(f"/{SERVICE}/ServerLive", b"")), until_s)))
        runner.run(channel.close(drain_s=0.0))


async def _open(address: str) -> GrpcChannel:
    return GrpcChannel(address)


def main() -> None:
    """Print a line for each kind of flood."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--grpc", required=True)
    parser.add_argument("--http")
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--connections", type=int, default=1)
    parser.add_argument("--only", default="")
    found = parser.parse_args()
    spawn = multiprocessing.get_context("spawn")
    for what in [*REPEATED, *CALLS]:
        if found.only not in what:
            continue
        stops, closed, into = spawn.Event(), spawn.Value("i", 0), spawn.Queue()
        watchers = [spawn.Process(target=_watch, args=(found.grpc, None, found.seconds, into))]
        if found.http:
            watchers.append(spawn.Process(target=_watch, args=(found.grpc, found.http, found.seconds, into)))
        attack = found.connections, found.grpc, what, stops, closed
        floods = [spawn.Process(target=_flood_all, args=attack, daemon=True)] if what != "nothing" else []
        for process in (*floods, *watchers):
            process.start()
        figures = sorted(into.get(timeout=found.seconds + 120) for _ in watchers)
        stops.set()
        for process in (*floods, *watchers):
            process.join(10)
            process.kill()
        seen = ", ".join(
            f"{kind} {longest_s * 1e3:.0f} ms of {count} ({failed} failed)"
            for kind, longest_s, count, failed in figures
        )
        print(f"{what:36} {seen}, {closed.value} connections ended", flush=True)


if __name__ == "__main__":
    main()
