"""Errors as answers of HTTP: its statuses follow from gRPC's by the one table of this transport."""

from __future__ import annotations

import math
from http import HTTPStatus

from aiohttp import web

from orchestrator.errors import ConfigError, SlimError
from orchestrator.gateway.http.json_text import dump_json
from orchestrator.gateway.protocol.wire import MalformedMessageError
from orchestrator.gateway.statuses import status_of

_LONGEST_REASON = 4096
_RETRY_AFTER_S = 1
"""Sent with 429: the queue is full, and no answer of it takes longer than some hundred milliseconds."""


class StalledError(ConfigError):
    """A body has stopped coming."""


class UnsupportedEncodingError(ConfigError):
    """A body is encoded in a way that is not offered."""


class TooLargeError(ConfigError):
    """A body is larger than allowed."""


class NoSuchRouteError(SlimError):
    """No route has the path that was asked for."""


class WrongMethodError(SlimError):
    """The path is there, but not with this method."""


class FailedModelError(SlimError):
    """A model has failed at a request of the generate extension."""


_OF_HTTP: dict[type[SlimError], HTTPStatus] = {
    NoSuchRouteError: HTTPStatus.NOT_FOUND,
    WrongMethodError: HTTPStatus.METHOD_NOT_ALLOWED,
    StalledError: HTTPStatus.REQUEST_TIMEOUT,
    UnsupportedEncodingError: HTTPStatus.NOT_IMPLEMENTED,
    TooLargeError: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    MalformedMessageError: HTTPStatus.BAD_REQUEST,
    FailedModelError: HTTPStatus.BAD_REQUEST,  # Triton's, whatever the error was
}
# As Triton's own HTTP endpoint maps its codes; the rest is an internal error.
_OF_GRPC = {
    "NOT_FOUND": HTTPStatus.NOT_FOUND,
    "INVALID_ARGUMENT": HTTPStatus.BAD_REQUEST,
    "UNAVAILABLE": HTTPStatus.SERVICE_UNAVAILABLE,
    "UNIMPLEMENTED": HTTPStatus.NOT_IMPLEMENTED,
    "ALREADY_EXISTS": HTTPStatus.CONFLICT,
    "RESOURCE_EXHAUSTED": HTTPStatus.TOO_MANY_REQUESTS,
    "DEADLINE_EXCEEDED": HTTPStatus.GATEWAY_TIMEOUT,
    "PERMISSION_DENIED": HTTPStatus.FORBIDDEN,
    "UNAUTHENTICATED": HTTPStatus.UNAUTHORIZED,
}


def http_status_of(error: SlimError) -> HTTPStatus:
    """Return HTTP's status for an error."""
    return _OF_HTTP.get(type(error)) or _OF_GRPC.get(status_of(error), HTTPStatus.INTERNAL_SERVER_ERROR)


def refusal(error: SlimError) -> web.Response:
    """Return the answer that says why there is no other."""
    response = error_response(http_status_of(error), str(error), retry_after_s=getattr(error, "retry_after_s", None))
    if isinstance(error, StalledError):
        response.force_close()
    return response


def cut(reason: str) -> str:
    """Return what is told of an error, which may quote a name as long as the request."""
    return reason if len(reason) <= _LONGEST_REASON else reason[:_LONGEST_REASON] + "..."


def error_response(status: HTTPStatus, reason: str, *, retry_after_s: float | None = None) -> web.Response:
    """Return the answer of a status; 429 says when to come again, by a guess when ``retry_after_s`` is None."""
    headers = {"Content-Type": "application/json"}
    if status is HTTPStatus.TOO_MANY_REQUESTS:
        headers["Retry-After"] = str(_RETRY_AFTER_S if retry_after_s is None else max(1, math.ceil(retry_after_s)))
    if status is HTTPStatus.UNAUTHORIZED:
        headers["WWW-Authenticate"] = "Bearer"
    if status is HTTPStatus.NOT_IMPLEMENTED:
        headers["Accept-Encoding"] = "gzip, deflate"
    return web.Response(status=status, body=dump_json({"error": cut(reason)}), headers=headers)
