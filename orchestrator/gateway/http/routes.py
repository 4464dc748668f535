"""KServe v2 over HTTP with Triton's extensions: bodies to messages, errors to statuses; the data plane does the rest.

A routing of our own: Triton's paths carry optional parts in the middle (``/v2/models/M[/versions/V]/...``), and
matching a split path is quicker than a table of patterns.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from typing import Any, TypeVar
from urllib.parse import unquote

from aiohttp import web

from orchestrator.errors import ConfigError, SlimError
from orchestrator.gateway.auth.callers import Caller
from orchestrator.gateway.dataplane.dataplane import DataPlane
from orchestrator.gateway.dataplane.inference import call_beside
from orchestrator.gateway.http import codec
from orchestrator.gateway.http.body import JSON_LIMIT, SETTINGS_LIMIT, BodyReader, encoded
from orchestrator.gateway.http.errors import (
    FailedModelError,
    NoSuchRouteError,
    WrongMethodError,
    cut,
    error_response,
    refusal,
)
from orchestrator.gateway.http.json_text import dump_json, load_json
from orchestrator.gateway.protocol.messages import Message, to_json_value
from orchestrator.http2.flow import Buffer
from orchestrator.http2.grpc.wire import Metadata
from orchestrator.triton.errors import RefusedCallError

log = logging.getLogger(__name__)

_OF_CALLERS = ("authorization", "traceparent", "tracestate")
JSON_BYTES_HEADER = "Inference-Header-Content-Length"
_NOT_RUN = "[request id: "
"""How Triton begins to say what is wrong with a request that it gives to no model."""


T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Target:
    """A model that a path names, what is wanted of it, and by whom."""

    model: str
    version: str
    action: str
    caller: Caller


class HttpRoutes:
    """What is answered under each path."""

    def __init__(self, data_plane: DataPlane, bodies: BodyReader) -> None:
        self._data_plane = data_plane
        self._bodies = bodies

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        """Return the answer to a request, whatever it is; it may have been sent already.

        Raises:
            ConnectionError: The client is gone.
            web.HTTPException: Aiohttp refuses a body.
        """
        try:
            return await self._route(request)
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
        # Before anything of the body is read, and before anybody learns which paths there are.
        caller = self._data_plane.identify(
            "ServerReady" if parts is not None and parts[:1] == ["health"] else "",
            _metadata(request),
            request.remote or "",
        )
        match parts:
            case None:
                raise NoSuchRouteError("Not Found")
            case []:
                return await self._show(request, "ServerMetadata", caller)
            case ["health", "live"]:
                return _health(request, True)
            case ["health", "ready"]:
                return _health(request, self._data_plane.health.is_ready())
            case ["models", "stats"]:
                return await self._show(request, "ModelStatistics", caller)
            case ["models", model, "versions", version, *rest] if version.isascii() and version.isdigit():
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
        raise NoSuchRouteError("Not Found")

    # --- models ---

    async def _answer_model(self, request: web.BaseRequest, target: _Target) -> web.StreamResponse:
        name, version, caller = target.model, target.version, target.caller
        named = {"name": name, "version": version}
        inferences = {"infer": self._infer, "generate": self._generate, "generate_stream": self._generate_stream}
        if target.action in inferences:
            _require(request, "POST")
            with self._data_plane.inference.admit(caller, name):
                return await inferences[target.action](request, target)
        self._data_plane.guard.require_model(caller, name)
        match target.action:
            case "trace/setting":
                return await self._answer_settings(request, "TraceSetting", caller)
            case "ready":
                return _health(request, self._data_plane.health.is_model_ready(name, version))
            case "":
                return await self._show(request, "ModelMetadata", caller, **named)
            case "config":
                _require(request, "GET")
                return _json(to_json_value((await self._data_plane.query("ModelConfig", caller, **named)).config))
            case "stats":
                return await self._show(request, "ModelStatistics", caller, **named)
        raise NoSuchRouteError("Not Found")

    async def _infer(self, request: web.BaseRequest, target: _Target) -> web.StreamResponse:
        asked = await self._admitted(target, self._read_infer(request, target))
        forms = asked.forms
        response, raws = await self._data_plane.inference.infer(asked.request, asked.raws, target.caller)
        del asked  # it may be as large as its answer
        reply = await self._render_infer(response, raws, forms)
        headers = {"Content-Type": "application/json"}
        if reply.json_bytes is not None:
            headers = {"Content-Type": "application/octet-stream", JSON_BYTES_HEADER: str(reply.json_bytes)}
        return await encoded(request, reply.parts, headers)

    async def _generate(self, request: web.BaseRequest, target: _Target) -> web.StreamResponse:
        asked, is_decoupled = await self._admitted(target, self._read_generate(request, target))
        infer = self._data_plane.inference.infer
        try:
            response, raws = await infer(asked.request, asked.raws, target.caller, is_decoupled=is_decoupled)
        except RefusedCallError as exc:
            if exc.status == "UNKNOWN" or (exc.status == "INTERNAL" and not is_decoupled):
                raise FailedModelError(str(exc)) from exc
            raise
        return _json_response(await self._render_generate(response, raws))

    async def _generate_stream(self, request: web.BaseRequest, target: _Target) -> web.StreamResponse:
        asked, _ = await self._admitted(target, self._read_generate(request, target))
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream; charset=utf-8"})
        answers = self._data_plane.inference.stream(asked.request, asked.raws, target.caller)
        try:
            async with aclosing(answers):
                async for answer in answers:
                    error = answer.error_message
                    if error and not response.prepared:
                        if error.startswith(_NOT_RUN):
                            raise ConfigError(error)
                        response.set_status(HTTPStatus.BAD_REQUEST)  # Triton's, whatever the error was
                    await _send_event(request, response, await self._render_answer(answer))
        except SlimError as exc:
            if not response.prepared:
                raise
            await _send_event(request, response, _render_error(str(exc)))
        if not response.prepared:
            await response.prepare(request)
        await response.write_eof()
        return response

    async def _render_answer(self, answer: Message) -> bytes:
        if answer.error_message:
            return _render_error(answer.error_message)
        return await self._render_generate(answer.infer_response, answer.infer_response.raw_output_contents)

    async def _admitted(self, target: _Target, reading: Awaitable[T]) -> T:
        """Return what is read of an inference that was admitted; what is wrong with it is how that ended."""
        try:
            return await reading
        except SlimError as exc:
            self._data_plane.inference.note_refusal(target.model, exc, target.caller)
            raise

    async def _read_infer(self, request: web.BaseRequest, target: _Target) -> codec.InferBody:
        model, version = target.model, target.version
        with self._bodies.open(request) as body:
            data = await body.read(None if JSON_BYTES_HEADER in request.headers else JSON_LIMIT)
            length = _json_bytes(request, data)
            if length == 0:
                config, _ = await self._data_plane.metadata.describe(model, version)
                build_raw = partial(codec.parse_raw, model, version, config, memoryview(data))
                return await call_beside(build_raw, copied_bytes=len(data))
            JSON_LIMIT.check(min(length or 0, len(data)), "JSON of the request")
            text, binary = codec.split_body(data, length)
            build = partial(codec.parse_infer, model, version, text, binary)
            return await body.parse(build, text)

    async def _read_generate(self, request: web.BaseRequest, target: _Target) -> tuple[codec.InferBody, bool]:
        """Return what is asked for, and whether the model is decoupled."""
        with self._bodies.open(request) as body:
            data = await body.read(JSON_LIMIT)
            content = await body.parse(partial(load_json, data), data)
            config, metadata = await self._data_plane.metadata.describe(target.model, target.version)
            build = partial(codec.parse_generate, target.model, target.version, content, config, metadata)
            return await body.parse(build, data), config.model_transaction_policy.decoupled

    async def _render_infer(
        self, response: Message, raws: Sequence[Buffer], forms: codec.OutputForms
    ) -> codec.HttpBody:
        raws = codec.raw_outputs(response, raws)
        json_bytes = codec.json_output_bytes(response, raws, forms)
        return await self._bodies.build(partial(codec.render_infer, response, raws, forms), json_bytes=json_bytes)

    async def _render_generate(self, response: Message, raws: Sequence[Buffer]) -> bytes:
        raws = codec.raw_outputs(response, raws)
        json_bytes = codec.json_output_bytes(response, raws, codec.OutputForms())
        return await self._bodies.build(partial(codec.render_generate, response, raws), json_bytes=json_bytes)

    async def _read_settings(self, request: web.BaseRequest) -> dict[str, Any]:
        with self._bodies.open(request) as body:
            data = await body.read(SETTINGS_LIMIT)
            return await body.parse(partial(load_json, data), data)

    # --- the rest ---

    async def _answer_repository(self, request: web.BaseRequest, rest: list[str], caller: Caller) -> web.StreamResponse:
        match rest:
            case ["index"]:
                _require(request, "POST")
                content = await self._read_settings(request)
                if not isinstance(content.get("ready", False), bool):
                    raise ConfigError("Unable to parse 'ready': give true or false")
                index = await self._data_plane.query("RepositoryIndex", caller, ready=content.get("ready", False))
                # Triton leaves out what is empty.
                return _json([{k: v for k, v in to_json_value(model).items() if v} for model in index.models])
            case ["models", model, "load" | "unload" as action]:
                _require(request, "POST")
                await self._data_plane.query(f"RepositoryModel{action.capitalize()}", caller, model_name=model)
        raise NoSuchRouteError("Not Found")

    async def _answer_settings(self, request: web.BaseRequest, method: str, caller: Caller) -> web.StreamResponse:
        settings: dict[str, dict[str, str]] = {}
        if request.method == "POST":
            if await self._read_settings(request):
                settings["changed"] = {}  # which one does not matter: all are closed
        else:
            _require(request, "GET")
        answer = await self._data_plane.query(method, caller, settings=settings)
        return _json(to_json_value(answer)["settings"])

    async def _answer_shared_memory(
        self, request: web.BaseRequest, kind: str, rest: list[str], caller: Caller
    ) -> web.StreamResponse:
        match rest:
            case ["region", region, action]:
                pass
            case _:
                region, action = "", "/".join(rest)
        if action not in ("status", "register", "unregister"):
            raise NoSuchRouteError("Not Found")
        _require(request, "GET" if action == "status" else "POST")
        method = f"{kind}SharedMemory{action.capitalize()}"
        await self._data_plane.query(method, caller, name=region)
        return _json([]) if action == "status" else web.Response(headers={"Content-Type": "application/json"})

    async def _show(self, request: web.BaseRequest, method: str, caller: Caller, **fields: str) -> web.Response:
        _require(request, "GET")
        return _json(to_json_value(await self._data_plane.query(method, caller, **fields)))


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


def _metadata(request: web.BaseRequest) -> Metadata:
    """Return what says who calls, and in which trace, as gRPC's metadata has it."""
    return tuple((key, value) for key in _OF_CALLERS for value in request.headers.getall(key, ()))


async def _send_event(request: web.BaseRequest, response: web.StreamResponse, event: bytes) -> None:
    if not response.prepared:
        await response.prepare(request)
    await response.write(b"data: " + event + b"\n\n")


def _render_error(reason: str) -> bytes:
    return dump_json({"error": cut(reason)})


def _json_bytes(request: web.BaseRequest, body: bytes | bytearray) -> int | None:
    text = request.headers.get(JSON_BYTES_HEADER)
    if text is None:
        return None
    try:
        return int(text)
    except ValueError:
        raise ConfigError(f"inference header size should be in range (0, {len(body)}), got: {text}") from None


def _require(request: web.BaseRequest, method: str) -> None:
    if request.method != method:
        raise WrongMethodError("Method Not Allowed")


def _health(request: web.BaseRequest, is_good: bool) -> web.Response:
    """Return 200 or 503; Triton says 400, which load balancers take for their own fault."""
    _require(request, "GET")
    return web.Response(status=HTTPStatus.OK if is_good else HTTPStatus.SERVICE_UNAVAILABLE)


def _json(value: object) -> web.Response:
    return _json_response(dump_json(value))


def _json_response(text: bytes) -> web.Response:
    return web.Response(body=text, headers={"Content-Type": "application/json"})
