"""Bodies of HTTP requests and answers: read within bounds, and as the other side compresses them.

What a small body may grow to by gzip or deflate is bounded too.
"""

from __future__ import annotations

import asyncio
import zlib

from aiohttp import web

from orchestrator.config import ClientLimitSettings
from orchestrator.errors import CapacityError, ConfigError
from orchestrator.gateway.http.connection import HttpConnection
from orchestrator.gateway.http.errors import StalledError, TooLargeError, UnsupportedEncodingError
from orchestrator.http2.grpc.wire import ENCODINGS

_MIB = 2**20
# (De)compressing more takes milliseconds, which the event loop can't spare.
_THREAD_FROM_BYTES = 256 * 1024
_LEVEL = 1  # tensors hardly compress; more effort costs the event loop's time


class BodyReader:
    """Reads the bodies of all requests of a server.

    None is larger than ``max_bytes``, before and after decompression, nor all together than allowed.
    """

    def __init__(self, limits: ClientLimitSettings, *, max_bytes: int) -> None:
        self._limits = limits
        self._limit_bytes = max_bytes
        self._held_bytes = 0  # of bodies that are coming

    async def read(self, request: web.BaseRequest) -> bytes:
        """Return the body, decompressed.

        Raises:
            ConfigError: It is larger than allowed, or damaged.
            StalledError: It has stopped coming.
            CapacityError: Too much of other bodies is coming.
        """
        too_large = TooLargeError(f"the body is larger than {self._limit_bytes} bytes; see gateway.max_message_mib")
        if (request.content_length or 0) > self._limit_bytes:
            raise too_large
        body = await self._read_raw(request, too_large)
        encoding = request.headers.get("Content-Encoding", "").strip().lower()
        if not encoding or not body:
            return body
        if len(body) < _THREAD_FROM_BYTES:
            least_bytes = min(_THREAD_FROM_BYTES, self._limit_bytes)
            try:
                return decompress(body, encoding, limit_bytes=least_bytes)
            except TooLargeError:  # a thousand times larger than it came, perhaps
                if least_bytes == self._limit_bytes:
                    raise
        return await asyncio.to_thread(decompress, body, encoding, limit_bytes=self._limit_bytes)

    async def _read_raw(self, request: web.BaseRequest, too_large: TooLargeError) -> bytes:
        """Return the body as it came; what all clients send at a time is bounded, not only what each does."""
        chunks, size = [], 0
        if request.headers.get("Expect", "").lower() == "100-continue" and not request.content.is_eof():
            await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            request.writer.output_size = 0  # the answer has not begun
        try:
            while chunk := await _next_chunk(request, self._limits.stall_timeout_s):
                size += len(chunk)
                self._held_bytes += len(chunk)
                if size > self._limit_bytes:
                    raise too_large
                if self._held_bytes > self._limits.max_held_mib * _MIB:
                    raise CapacityError("too many large requests are coming in at a time; send it again")
                chunks.append(chunk)
        except web.RequestPayloadError:
            raise ConfigError("the body's framing is broken") from None
        finally:
            self._held_bytes -= size
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)


async def _next_chunk(request: web.BaseRequest, stall_s: float) -> bytes:
    """Return what has come of a body next, nothing at its end."""
    content = request.content
    if content.is_eof():  # all has come, as of most bodies before they are read
        return content.read_nowait()
    connection = request.protocol
    assert isinstance(connection, HttpConnection)
    with connection.receiving():
        try:
            async with asyncio.timeout(stall_s):
                return await content.readany()
        except TimeoutError:
            raise StalledError(f"nothing of the body has come for {stall_s:g} s") from None


async def encoded(request: web.BaseRequest, data: bytes, headers: dict[str, str]) -> web.Response:
    """Return an answer, compressed when its client takes that."""
    encoding = choose_encoding(request.headers.get("Accept-Encoding", ""))
    if encoding is not None:
        headers["Content-Encoding"] = encoding
        in_thread = len(data) >= _THREAD_FROM_BYTES
        data = await asyncio.to_thread(compress, data, encoding) if in_thread else compress(data, encoding)
    return web.Response(body=data, headers=headers)


def decompress(data: bytes, encoding: str, *, limit_bytes: int) -> bytes:
    """Return what a body holds; raises UnsupportedEncodingError, TooLargeError, or ConfigError when it is damaged."""
    if encoding in ("", "identity"):
        return data
    if encoding not in ENCODINGS:
        raise UnsupportedEncodingError("Unsupported compression type")
    unpacker = zlib.decompressobj(ENCODINGS[encoding])
    try:
        found = unpacker.decompress(data, limit_bytes + 1)
    except zlib.error as exc:
        raise ConfigError(f"the body is no {encoding} data ({exc})") from exc
    if len(found) > limit_bytes:
        raise TooLargeError(f"the body holds more than {limit_bytes} bytes; see gateway.max_message_mib")
    if not unpacker.eof:
        raise ConfigError(f"the body's {encoding} data breaks off")
    return found


def compress(data: bytes, encoding: str) -> bytes:
    """Return a body in one of ENCODINGS."""
    packer = zlib.compressobj(_LEVEL, wbits=ENCODINGS[encoding])
    return packer.compress(data) + packer.flush()


def choose_encoding(accepted: str) -> str | None:
    """Return the encoding to answer in for an Accept-Encoding header, None for none; gzip goes first, as in Triton."""
    wanted = set()
    for part in accepted.lower().split(","):
        name, _, quality = part.strip().partition(";")
        if quality.replace(" ", "") not in ("q=0", "q=0.0", "q=0.00", "q=0.000"):
            wanted.add(name.strip())
    return next((encoding for encoding in ENCODINGS if encoding in wanted), None)
