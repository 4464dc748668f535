"""KServe v2 over HTTP with Triton's extensions: bodies to messages, errors to statuses; the data plane does the rest.

aiohttp's low-level server with a routing of our own: Triton's paths carry optional parts in the middle
(``/v2/models/M[/versions/V]/...``), and matching a split path is quicker than a table of patterns.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl as tls
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any
from urllib.parse import unquote

from aiohttp import web

from orchestrator.config import ClientLimitSettings
from orchestrator.errors import CapacityError, ConfigError, SlimError
from orchestrator.gateway.compression import (
    TooLargeError,
    choose_encoding,
    compress,
    decompress,
)
from orchestrator.gateway.dataplane import DataPlane
from orchestrator.gateway.descriptions import Descriptions
from orchestrator.gateway.generate import parse_generate, render_generate
from orchestrator.gateway.guard import Caller
from orchestrator.gateway.http_codec import (
    OutputForms,
    dump_json,
    load_json,
    parse_infer,
    parse_raw,
    render_infer,
    split_body,
)
from orchestrator.gateway.http_connection import HttpConnection, HttpCrowd
from orchestrator.gateway.http_errors import error_response, refusal
from orchestrator.gateway.listening import BACKLOG, refused_address
from orchestrator.gateway.messages import Message, pb, to_json_value
from orchestrator.gateway.stream import StreamSession
from orchestrator.triton.passthrough import Metadata

log = logging.getLogger(__name__)

JSON_BYTES_HEADER = "Inference-Header-Content-Length"
_MIB = 2**20
_THREAD_FROM_BYTES = 256 * 1024  # (de)compressing more takes milliseconds, which the event loop can't spare


class _NoSuchRouteError(SlimError):
    """No route has this path."""


class _StalledError(SlimError):
    """A body has stopped coming."""


class _WrongMethodError(SlimError):
    """The path is there, but not with this method."""


@dataclass(frozen=True, slots=True)
class _Target:
    """A model that a path names, what is asked of it, and by whom."""

    model: str
    version: str
    action: str
    caller: Caller


class HttpServer:
    """The HTTP endpoint of a gateway.

    Args:
        plane: that answers.
        address: ``host:port`` to listen on; port 0 takes a free one.
        max_message_bytes: of a request, before and after decompression.
        listens: itself; else another process does, and its connections are adopted.
        ssl: to speak TLS with; None: plain.
        limits: of what clients may take.

    Attributes:
        address: where it listens, once started.
    """

    def __init__(
        self,
        plane: DataPlane,
        address: str,
        *,
        max_message_bytes: int,
        listens: bool = True,
        ssl: tls.SSLContext | None = None,
        limits: ClientLimitSettings | None = None,
    ) -> None:
        self.address = address
        self._ssl = ssl
        self._limits = limits or ClientLimitSettings()
        self._listens = listens
        self._plane = plane
        self._limit_bytes = max_message_bytes
        self._descriptions = Descriptions(plane)
        self._held_bytes = 0  # of bodies that are coming
        self._server: web.Server | None = None
        self._crowd: HttpCrowd | None = None
        self._listener: asyncio.Server | None = None

    async def start(self) -> None:
        """Listen.

        Raises:
            ConfigError: when the address can't be listened on.
        """
        # A client that leaves withdraws its request from the router's queue.
        self._server = web.Server(self._answer, handler_cancellation=True)
        self._crowd = HttpCrowd(self._server, self._limits)
        self._crowd.open()
        if self._listens:
            try:
                self._listener = await self._listen(self._crowd)
            except ConfigError:
                self._crowd.close()
                raise

    async def _listen(self, crowd: HttpCrowd) -> asyncio.Server:
        host, _, port = self.address.rpartition(":")
        try:
            listener = await asyncio.get_running_loop().create_server(
                crowd.new_connection, host.strip("[]"), int(port), backlog=BACKLOG, **self._tls()
            )
        except OSError as exc:
            raise refused_address(self.address, "gateway.http", exc) from exc
        self.address = f"{host}:{listener.sockets[0].getsockname()[1]}"
        return listener

    def _tls(self) -> dict[str, Any]:
        if self._ssl is None:
            return {}
        return {"ssl": self._ssl, "ssl_handshake_timeout": self._limits.header_timeout_s}

    async def adopt(self, connection: socket.socket) -> None:
        """Serve a connection that another process has accepted; it belongs to this one from now on."""
        assert self._crowd is not None, "adopt follows start"
        loop = asyncio.get_running_loop()
        await loop.connect_accepted_socket(self._crowd.new_connection, sock=connection, **self._tls())

    @property
    def connections(self) -> int:
        """Open now."""
        return 0 if self._server is None else len(self._server.connections)

    async def stop(self, grace_s: float) -> None:
        """Take no more connections, wait for requests under way for so long, and end the rest."""
        if self._server is None or self._crowd is None:
            return
        if self._listener is not None:
            self._listener.close()
        self._server.pre_shutdown()  # ends connections that wait for a next request
        await self._server.shutdown(grace_s)
        self._crowd.close()

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        connection = request.protocol
        assert isinstance(connection, HttpConnection)
        size = sum(len(name) + len(value) for name, value in request.raw_headers) + len(request.raw_path)
        with connection.answering():
            if size > self._limits.max_header_kib * 1024:
                response: web.StreamResponse = _refuse_headers(self._limits.max_header_kib)
            else:
                response = await self._answer_or_error(request)
        if self._plane.is_draining and not response.prepared:
            response.force_close()  # the next request is to find another gateway
        return response

    async def _answer_or_error(self, request: web.BaseRequest) -> web.StreamResponse:
        try:
            return await self._route(request)
        except _NoSuchRouteError:
            return error_response(HTTPStatus.NOT_FOUND, "Not Found")
        except _StalledError as exc:
            response = error_response(HTTPStatus.REQUEST_TIMEOUT, str(exc))
            response.force_close()
            return response
        except _WrongMethodError:
            return error_response(HTTPStatus.METHOD_NOT_ALLOWED, "Method Not Allowed")
        except SlimError as exc:
            return refusal(exc)
        except (ConnectionError, web.HTTPException):
            raise
        except Exception as exc:
            log.exception("%s %s failed unexpectedly", request.method, request.path)
            return error_response(
                HTTPStatus.INTERNAL_SERVER_ERROR, f"the gateway failed: {type(exc).__name__}; its log says more"
            )

    async def _route(self, request: web.BaseRequest) -> web.StreamResponse:
        parts = _split_path(request)
        # Before anything of the body is read, and before it is told which paths there are.
        caller = self._plane.identify(
            "ServerReady" if parts is not None and parts[:1] == ["health"] else "", _credentials(request)
        )
        match parts:
            case None:
                raise _NoSuchRouteError
            case []:
                _require(request, "GET")
                asked = pb.ServerMetadataRequest()
                return await self._reply("ServerMetadata", asked, pb.ServerMetadataResponse, caller)
            case ["health", "live"]:
                return _health(request, True)
            case ["health", "ready"]:
                return _health(request, self._plane.is_ready())
            case ["models", "stats"]:
                _require(request, "GET")
                statistics = pb.ModelStatisticsRequest()
                return await self._reply("ModelStatistics", statistics, pb.ModelStatisticsResponse, caller)
            case ["models", model, "versions", version, *rest]:
                return await self._answer_model(request, _Target(model, version, "/".join(rest), caller))
            case ["models", model, *rest]:
                return await self._answer_model(request, _Target(model, "", "/".join(rest), caller))
            case ["repository", *rest]:
                return await self._answer_repository(request, rest, caller)
            case ["trace", "setting"]:
                return await self._answer_settings(request, "TraceSetting", caller)
            case ["logging"]:
                return await self._answer_settings(request, "LogSettings", caller)
            case ["systemsharedmemory" | "cudasharedmemory" as kind, *rest]:
                name = kind.partition("sharedmemory")[0].capitalize()
                return await self._answer_shared_memory(request, name, rest, caller)
        raise _NoSuchRouteError

    # --- models ---

    async def _answer_model(self, request: web.BaseRequest, target: _Target) -> web.StreamResponse:
        name, version, caller = target.model, target.version, target.caller
        posted: dict[str, Callable[[web.BaseRequest, _Target], Awaitable[web.StreamResponse]]] = {
            "infer": self._infer,
            "generate": self._generate,
        }
        if target.action in posted:
            _require(request, "POST")
            with self._plane.admit(caller, name):
                return await posted[target.action](request, target)
        self._plane.guard.require_model(caller, name)
        if target.action == "generate_stream":  # the session admits, as for every stream
            _require(request, "POST")
            return await self._generate_stream(request, target)
        if target.action == "trace/setting":
            return await self._answer_settings(request, "TraceSetting", caller)
        match target.action:
            case "ready":
                return _health(request, self._plane.is_model_ready(name, version))
            case "":
                _require(request, "GET")
                asked = pb.ModelMetadataRequest(name=name, version=version)
                return await self._reply("ModelMetadata", asked, pb.ModelMetadataResponse, caller)
            case "config":
                _require(request, "GET")
                asked = pb.ModelConfigRequest(name=name, version=version)
                answer = await self._plane.ask("ModelConfig", asked, pb.ModelConfigResponse, caller)
                return _json(to_json_value(answer.config))
            case "stats":
                _require(request, "GET")
                statistics = pb.ModelStatisticsRequest(name=name, version=version)
                return await self._reply("ModelStatistics", statistics, pb.ModelStatisticsResponse, caller)
        raise _NoSuchRouteError

    async def _infer(self, request: web.BaseRequest, target: _Target) -> web.StreamResponse:
        body = await self._read(request)
        length = _json_bytes(request, body)
        text, binary = split_body(body, length)
        if length == 0:
            config = (await self._descriptions.of(target.model, target.version)).config
            message, forms = parse_raw(target.model, target.version, config, binary), OutputForms(by_default=True)
        else:
            message, forms = parse_infer(target.model, target.version, text, binary)
        reply = render_infer(await self._plane.infer(message, target.caller), forms)
        headers = {"Content-Type": "application/json"}
        if reply.json_bytes is not None:
            headers = {"Content-Type": "application/octet-stream", JSON_BYTES_HEADER: str(reply.json_bytes)}
        return await _encoded(request, reply.data, headers)

    async def _generate(self, request: web.BaseRequest, target: _Target) -> web.StreamResponse:
        message = await self._read_generate(request, target)
        return _json(render_generate(await self._plane.infer(message, target.caller)))

    async def _generate_stream(self, request: web.BaseRequest, target: _Target) -> web.StreamResponse:
        message = await self._read_generate(request, target)
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream; charset=utf-8"})

        async def send(serialised: bytes) -> None:
            answer = pb.ModelStreamInferResponse.FromString(serialised)
            if answer.error_message and not response.prepared:
                raise ConfigError(answer.error_message)
            if not response.prepared:
                await response.prepare(request)
            event = {"error": answer.error_message} if answer.error_message else render_generate(answer.infer_response)
            await response.write(b"data: " + dump_json(event) + b"\n\n")

        try:
            session = StreamSession(self._plane, send, window=1, caller=target.caller)
            await session.run(_one(message.SerializeToString()))
        except SlimError as exc:
            if not response.prepared:
                raise
            await response.write(b"data: " + dump_json({"error": str(exc)}) + b"\n\n")
        if not response.prepared:
            await response.prepare(request)
        await response.write_eof()
        return response

    async def _read_generate(self, request: web.BaseRequest, target: _Target) -> Message:
        content = load_json(await self._read(request))
        found = await self._descriptions.of(target.model, target.version)
        return parse_generate(target.model, target.version, content, found.config, found.metadata)

    # --- the rest ---

    async def _answer_repository(self, request: web.BaseRequest, rest: list[str], caller: Caller) -> web.StreamResponse:
        match rest:
            case ["index"]:
                _require(request, "POST")
                content = load_json(await self._read(request))
                if not isinstance(content.get("ready", False), bool):
                    raise ConfigError("Unable to parse 'ready': give true or false")
                asked = pb.RepositoryIndexRequest(ready=content.get("ready", False))
                index = await self._plane.ask("RepositoryIndex", asked, pb.RepositoryIndexResponse, caller)
                # Triton leaves out what is empty.
                return _json([{k: v for k, v in to_json_value(model).items() if v} for model in index.models])
            case ["models", model, "load" | "unload" as action]:
                _require(request, "POST")
                kind = f"RepositoryModel{action.capitalize()}"
                asked = getattr(pb, f"{kind}Request")(model_name=model)
                await self._plane.ask(kind, asked, getattr(pb, f"{kind}Response"), caller)
        raise _NoSuchRouteError

    async def _answer_settings(self, request: web.BaseRequest, method: str, caller: Caller) -> web.StreamResponse:
        asked = getattr(pb, f"{method}Request")()
        if request.method == "POST":
            if load_json(await self._read(request)):
                asked.settings["changed"].SetInParent()  # which one does not matter: all are closed
        else:
            _require(request, "GET")
        answer = await self._plane.ask(method, asked, getattr(pb, f"{method}Response"), caller)
        return _json(to_json_value(answer)["settings"])

    async def _answer_shared_memory(
        self, request: web.BaseRequest, kind: str, rest: list[str], caller: Caller
    ) -> web.StreamResponse:
        match rest:
            case ["region", region, action]:
                pass
            case [action]:
                region = ""
            case _:
                raise _NoSuchRouteError
        if action not in ("status", "register", "unregister"):
            raise _NoSuchRouteError
        _require(request, "GET" if action == "status" else "POST")
        method = f"{kind}SharedMemory{action.capitalize()}"
        asked = getattr(pb, f"{method}Request")(name=region)
        await self._plane.ask(method, asked, getattr(pb, f"{method}Response"), caller)
        return _json([]) if action == "status" else web.Response(headers={"Content-Type": "application/json"})

    async def _reply(self, method: str, asked: Message, kind: Any, caller: Caller) -> web.Response:
        return _json(to_json_value(await self._plane.ask(method, asked, kind, caller)))

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

    async def _read(self, request: web.BaseRequest) -> bytes:
        """Return the body, decompressed.

        Raises:
            ConfigError: when it is larger than allowed, or damaged.
        """
        too_large = TooLargeError(f"the body is larger than {self._limit_bytes} bytes; see gateway.max_message_mib")
        if (request.content_length or 0) > self._limit_bytes:
            raise too_large
        body = await self._read_raw(request, too_large)
        encoding = request.headers.get("Content-Encoding", "").strip().lower()
        if not encoding or not body:
            return body
        if len(body) < _THREAD_FROM_BYTES:
            return decompress(body, encoding, limit_bytes=self._limit_bytes)
        return await asyncio.to_thread(decompress, body, encoding, limit_bytes=self._limit_bytes)


def _refuse_headers(most_kib: float) -> web.Response:
    reason = f"the headers are larger than {most_kib:g} KiB; see gateway.limits.max_header_kib"
    return error_response(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, reason)


async def _next_chunk(request: web.BaseRequest, stall_s: float) -> bytes:
    """Return what has come of a body next, nothing at its end."""
    content = request.content
    if content.is_eof():  # all has come, as of most bodies before they are asked for
        return content.read_nowait()
    connection = request.protocol
    assert isinstance(connection, HttpConnection)
    with connection.receiving():
        try:
            async with asyncio.timeout(stall_s):
                return await content.readany()
        except TimeoutError:
            raise _StalledError(f"nothing of the body has come for {stall_s:g} s") from None


def _split_path(request: web.BaseRequest) -> list[str] | None:
    """Return the decoded parts of the path after ``/v2``, None when it is no such path.

    Parts are decoded after they were split, so an encoded slash stays inside a model's name, where no server has it.
    """
    path = request.raw_path.partition("?")[0]
    if path.startswith(("http://", "https://")):  # as clients send it to a proxy
        path = "/" + "/".join(path.split("/")[3:])
    try:
        parts = [unquote(part, errors="strict") for part in path.split("/")[1:]]
    except UnicodeDecodeError:
        return None
    if not parts or parts[0] != "v2" or parts[-1] == "":
        return None
    return parts[1:]


def _credentials(request: web.BaseRequest) -> Metadata:
    """Return what says who calls, as gRPC's metadata has it."""
    return tuple(("authorization", value) for value in request.headers.getall("Authorization", ()))


async def _one(message: bytes) -> AsyncIterator[bytes]:
    yield message


def _json_bytes(request: web.BaseRequest, body: bytes) -> int | None:
    text = request.headers.get(JSON_BYTES_HEADER)
    if text is None:
        return None
    try:
        return int(text)
    except ValueError:
        raise ConfigError(f"inference header size should be in range (0, {len(body)}), got: {text}") from None


def _require(request: web.BaseRequest, method: str) -> None:
    if request.method != method:
        raise _WrongMethodError


def _health(request: web.BaseRequest, is_good: bool) -> web.Response:
    """Return 200 or 503; Triton says 400, which load balancers take for their own fault."""
    _require(request, "GET")
    return web.Response(status=HTTPStatus.OK if is_good else HTTPStatus.SERVICE_UNAVAILABLE)


def _json(value: object) -> web.Response:
    return web.Response(body=dump_json(value), headers={"Content-Type": "application/json"})


async def _encoded(request: web.BaseRequest, data: bytes, headers: dict[str, str]) -> web.Response:
    encoding = choose_encoding(request.headers.get("Accept-Encoding", ""))
    if encoding is not None:
        headers["Content-Encoding"] = encoding
        in_thread = len(data) >= _THREAD_FROM_BYTES
        data = await asyncio.to_thread(compress, data, encoding) if in_thread else compress(data, encoding)
    return web.Response(body=data, headers=headers)
