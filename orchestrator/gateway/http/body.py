"""Bodies of HTTP requests and answers: read within bounds, and as the other side compresses them.

What clients can make of a few bytes is bounded at each step: what a body grows to by gzip or deflate is counted as it
grows, how many values its JSON holds before any is built, and what takes longer than some milliseconds is done beside
the event loop. JSON is parsed and written by one thread for all: that needs the lock of the interpreter, so several
threads would only make the event loop wait for each in turn. And so does copying: 64 MiB at once take 60 to 120 ms,
most of it for new pages of memory. So binary data stays where it came, and is read and written in small steps.
"""

from __future__ import annotations

import asyncio
import gc
import time
import zlib
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

from aiohttp import web

from orchestrator.config import ClientLimitSettings
from orchestrator.errors import CapacityError, ConfigError
from orchestrator.gateway.http.connection import HttpConnection
from orchestrator.gateway.http.errors import StalledError, TooLargeError, UnsupportedEncodingError
from orchestrator.gateway.http.json_text import QUICK_BYTES, count_values
from orchestrator.http2.budget import HeldBudget, time_bought_s
from orchestrator.http2.connection import STOOD_S
from orchestrator.http2.flow import Buffer
from orchestrator.http2.grpc.server_call import unpack_beside
from orchestrator.http2.grpc.wire import ENCODINGS, PIECE_BYTES, collect, inflate

_MIB = 2**20
_PAUSE_S = 0.01
"""Between two large messages, in which the event loop gets done what has gathered while it waited for the first."""
_MAX_GROWING = 4
"""Most bodies that are unpacked to a large size, and then parsed, at a time; the others wait with their first piece."""
_LEVEL = 1  # tensors hardly compress; more effort costs the event loop's time
MAX_VALUES = 250_000
"""Most values of a request's JSON, as ``count_values`` counts them; an image of ImageNet's size has 200,929 at most.

Parsing so many takes some 20 ms, in which all of the process waits.
"""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class BodyLimit:
    """Most bytes of a body, before and after decompression, and what to do about a larger one."""

    max_bytes: int
    remedy: str

    def check(self, size_bytes: int, what: str = "body") -> None:
        """Raise TooLargeError when the body, or the part of it that is named, is larger."""
        if size_bytes > self.max_bytes:
            raise TooLargeError(f"the {what} is larger than {self.max_bytes} bytes; {self.remedy}")


JSON_LIMIT = BodyLimit(16 * _MIB, "send tensors as binary data")
"""Of an inference's JSON; the most values with seventeen digits each have less."""
SETTINGS_LIMIT = BodyLimit(_MIB, "nothing that is said here needs more")
"""Of what is no inference."""


class BodyReader:
    """Reads the bodies of all requests of a server: none larger than ``max_bytes``, nor all together than allowed."""

    def __init__(self, limits: ClientLimitSettings, *, max_bytes: int) -> None:
        self.limits = limits
        self.limit = BodyLimit(max_bytes, "see gateway.max_message_mib")
        self.budget = HeldBudget(int(limits.max_held_mib * _MIB))
        """Counts what is held of bodies that have not been parsed."""
        self.growing = asyncio.Semaphore(_MAX_GROWING)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="http-json")
        self._paused_at_s = 0.0

    def close(self) -> None:
        """End the thread, once what is parsed has been."""
        self._thread.shutdown(wait=False)

    def open(self, request: web.BaseRequest) -> Body:
        """Return the body of a request, to be read and parsed in a ``with`` block, at whose end it counts no more."""
        return Body(self, request)

    async def build(self, build: Callable[[], T], *, json_bytes: int) -> T:
        """Return what ``build`` returns; with much JSON to read or write it is called in the thread."""
        if json_bytes <= QUICK_BYTES:
            return build()
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._build, build)

    def _build(self, build: Callable[[], T]) -> T:
        time.sleep(max(0.0, self._paused_at_s + _PAUSE_S - time.monotonic()))
        # What is parsed has no cycles, but the garbage collector would go through it again and again.
        is_collecting = gc.isenabled()
        gc.disable()
        try:
            return build()
        finally:
            if is_collecting:
                gc.enable()
            self._paused_at_s = time.monotonic()


class Body:
    """The body of one request."""

    def __init__(self, reader: BodyReader, request: web.BaseRequest) -> None:
        self._reader = reader
        self._request = request
        self._held_bytes = 0
        self._is_growing = False
        self._is_lost = False
        self._progress_s = 0.0  # when it last got on, seconds on the loop's clock
        self._waiting: asyncio.Timeout | None = None

    def __enter__(self) -> Body:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._give(self._held_bytes)
        if self._is_growing:
            self._reader.growing.release()

    async def read(self, limit: BodyLimit | None = None) -> bytes | bytearray:
        """Return the body, decompressed; ``limit`` None is the server's own.

        Raises:
            ConfigError: It is larger than allowed, or damaged.
            StalledError: It has stopped coming.
            CapacityError: Too much of all bodies is held, and the most of this one, or of others of its client.
        """
        limit = min(limit or self._reader.limit, self._reader.limit, key=lambda each: each.max_bytes)
        limit.check(self._request.content_length or 0)
        data = await self._read_raw(limit)
        encoding = self._request.headers.get("Content-Encoding", "").strip().lower()
        if encoding in ("", "identity") or not data:
            return data
        raw_bytes = len(data)
        data = await self._unpack(data, encoding, limit)
        self._give(raw_bytes)
        return data

    async def parse(self, build: Callable[[], T], text: bytes | bytearray) -> T:
        """Return what ``build`` makes of JSON, as the reader's ``build`` does.

        Raises TooLargeError when the JSON holds too many values, and what ``build`` raises.
        """

        def build_bounded() -> T:
            if len(text) > QUICK_BYTES and count_values(text, MAX_VALUES) > MAX_VALUES:
                raise TooLargeError(f"the request's JSON holds more than {MAX_VALUES} values; {JSON_LIMIT.remedy}")
            return build()

        found = await self._reader.build(build_bounded, json_bytes=len(text))
        self._require_kept()
        return found

    async def _read_raw(self, limit: BodyLimit) -> bytes | bytearray:
        """Return the body as it came; what all clients send at a time is bounded, not only what each does."""
        request = self._request
        found: bytes | bytearray = b""
        if request.headers.get("Expect", "").lower() == "100-continue" and not request.content.is_eof():
            await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            request.writer.output_size = 0  # the answer has not begun
        try:
            chunk: bytes = b""
            while chunk := await self._next_chunk(len(chunk), len(found)):
                limit.check(len(found) + len(chunk))
                self._hold(len(chunk))
                found = collect(found, chunk)
        except web.RequestPayloadError:
            raise ConfigError("the body's framing is broken") from None
        return found

    async def _unpack(self, data: bytes | bytearray, encoding: str, limit: BodyLimit) -> bytes | bytearray:
        """Return what a compressed body holds, counted as it grows."""
        found: bytes | bytearray = b""
        pieces = decompress(data, encoding)
        is_quick = len(data) < PIECE_BYTES
        while piece := next(pieces, b"") if is_quick else await self._grow(pieces):
            limit.check(len(found) + len(piece))
            self._hold(len(piece))
            found = collect(found, piece)
            is_quick = is_quick and len(piece) < PIECE_BYTES  # else it is a thousand times larger, perhaps
        return found

    async def _grow(self, pieces: Iterator[bytes]) -> bytes:
        """Return what a large body holds next, nothing at its end."""
        if not self._is_growing:
            await self._reader.growing.acquire()
            self._is_growing = True
        return await unpack_beside(pieces)

    async def _next_chunk(self, last_bytes: int, held_bytes: int) -> bytes:
        """Return what has come of the body next, nothing at its end; so much came last, and in all."""
        content = self._request.content
        if content.is_eof():  # all has come, as of most bodies before they are read
            return content.read_nowait()
        connection = self._request.protocol
        assert isinstance(connection, HttpConnection)
        stall_s, clock = self._reader.limits.stall_timeout_s, asyncio.get_running_loop().time
        bought_s, now_s = time_bought_s(last_bytes, held_bytes, stall_s), clock()
        self._progress_s = min(now_s, self._progress_s + bought_s) if held_bytes else now_s
        with connection.receiving():
            while True:
                until_s = self._progress_s + stall_s
                try:
                    async with asyncio.timeout_at(until_s) as self._waiting:
                        return await content.readany()
                except TimeoutError:
                    self._require_kept()
                    late_s = clock() - until_s
                    if late_s < STOOD_S:
                        reason = f"nothing of the body has come for {stall_s:g} s, or hardly anything"
                        raise StalledError(reason) from None
                    # As long again, because what came meanwhile has not been read.
                    self._progress_s = min(clock(), self._progress_s + 2 * late_s)
                finally:
                    self._waiting = None

    @property
    def owner(self) -> Hashable:
        """The address of its client, which may send bodies on many connections."""
        connection = self._request.protocol
        assert isinstance(connection, HttpConnection)
        return connection.peer

    def lose(self) -> None:
        """Give back what is held of it, and refuse it to its client, because too much is held of all."""
        self._give(self._held_bytes)
        self._is_lost = True
        if self._waiting is not None and not self._waiting.expired():  # else its time is over just now
            self._waiting.reschedule(0.0)

    def _require_kept(self) -> None:
        if self._is_lost:
            raise CapacityError("too many large requests are coming in at a time; send it again")

    def _hold(self, size_bytes: int) -> None:
        """Count a piece; raises CapacityError when the body is lost by that, or was before."""
        self._require_kept()
        self._held_bytes += size_bytes
        self._reader.budget.take(self, size_bytes)
        self._require_kept()

    def _give(self, size_bytes: int) -> None:
        if not self._is_lost:
            self._held_bytes -= size_bytes
            self._reader.budget.give(self, size_bytes)


async def encoded(request: web.BaseRequest, parts: Sequence[Buffer], headers: dict[str, str]) -> web.StreamResponse:
    """Return an answer of these parts, compressed when its client takes that; a large one has been sent already."""
    encoding = choose_encoding(request.headers.get("Accept-Encoding", ""))
    if encoding is not None:
        headers["Content-Encoding"] = encoding
        in_thread = sum(map(len, parts)) >= PIECE_BYTES
        packed = compress(parts, encoding)
        parts = await asyncio.to_thread(list, packed) if in_thread else list(packed)
    size = sum(map(len, parts))
    if size <= PIECE_BYTES:
        return web.Response(body=b"".join(parts), headers=headers)
    response = web.StreamResponse(headers=headers | {"Content-Length": str(size)})
    await response.prepare(request)
    for step in _steps(parts):
        await response.write(step)
    await response.write_eof()
    return response


def decompress(data: bytes | bytearray, encoding: str) -> Iterator[bytes]:
    """Yield what a body holds in pieces of some hundred kilobytes.

    Raises UnsupportedEncodingError, or ConfigError when it is damaged.
    """
    if encoding not in ENCODINGS:
        raise UnsupportedEncodingError("Unsupported compression type")
    try:
        yield from inflate(data, encoding)
    except zlib.error as exc:
        raise ConfigError(f"the body is no {encoding} data ({exc})") from exc
    except EOFError:
        raise ConfigError(f"the body's {encoding} data breaks off") from None


def compress(parts: Iterable[Buffer], encoding: str) -> Iterator[bytes]:
    """Yield a body of these parts in one of ENCODINGS, in pieces."""
    packer = zlib.compressobj(_LEVEL, wbits=ENCODINGS[encoding])
    yield from filter(None, map(packer.compress, _steps(parts)))
    yield packer.flush()


def _steps(parts: Iterable[Buffer]) -> Iterator[memoryview]:
    return (
        memoryview(part)[begin : begin + PIECE_BYTES] for part in parts for begin in range(0, len(part), PIECE_BYTES)
    )


def choose_encoding(accepted: str) -> str | None:
    """Return the encoding to answer in for an Accept-Encoding header, None for none; gzip goes first, as in Triton."""
    wanted = set()
    for part in accepted.lower().split(","):
        name, _, quality = part.strip().partition(";")
        if quality.replace(" ", "") not in ("q=0", "q=0.0", "q=0.00", "q=0.000"):
            wanted.add(name.strip())
    return next((encoding for encoding in ENCODINGS if encoding in wanted), None)
