"""Errors as HTTP statuses: the one table of this transport."""

from __future__ import annotations

import math
from http import HTTPStatus

from aiohttp import web

from orchestrator.errors import (
    CapacityError,
    ConfigError,
    DeadlineError,
    ModelNotFoundError,
    PermanentError,
    ServerUnavailableError,
    SlimError,
)
from orchestrator.gateway.administration import ClosedError
from orchestrator.gateway.auth.callers import ForbiddenError, UnauthenticatedError
from orchestrator.gateway.http.codec import dump_json
from orchestrator.gateway.http.compression import TooLargeError, UnsupportedEncodingError
from orchestrator.gateway.protocol.wire import MalformedMessageError
from orchestrator.triton.errors import RefusedCallError

RETRY_AFTER_S = 1
"""Told with 429: the queue is full, and no answer of it takes longer than some hundred milliseconds."""

# The first that fits counts, so a class stands before the one it is derived from.
STATUSES: tuple[tuple[type[SlimError], HTTPStatus], ...] = (
    (UnsupportedEncodingError, HTTPStatus.NOT_IMPLEMENTED),
    (TooLargeError, HTTPStatus.REQUEST_ENTITY_TOO_LARGE),
    (UnauthenticatedError, HTTPStatus.UNAUTHORIZED),
    (ForbiddenError, HTTPStatus.FORBIDDEN),
    (ClosedError, HTTPStatus.FORBIDDEN),
    (ModelNotFoundError, HTTPStatus.NOT_FOUND),
    (CapacityError, HTTPStatus.TOO_MANY_REQUESTS),
    (DeadlineError, HTTPStatus.GATEWAY_TIMEOUT),
    (ServerUnavailableError, HTTPStatus.SERVICE_UNAVAILABLE),
    (ConfigError, HTTPStatus.BAD_REQUEST),
    (PermanentError, HTTPStatus.BAD_REQUEST),
    (MalformedMessageError, HTTPStatus.BAD_REQUEST),
    (SlimError, HTTPStatus.INTERNAL_SERVER_ERROR),
)
# As Triton's own HTTP endpoint maps its codes; the rest is an internal error.
_REFUSALS = {
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


def status_of(error: SlimError) -> HTTPStatus:
    """Return HTTP's status for an error; one that a server gave is translated as Triton does."""
    if isinstance(error, RefusedCallError):
        return _REFUSALS.get(error.status, HTTPStatus.INTERNAL_SERVER_ERROR)
    return next(status for kind, status in STATUSES if isinstance(error, kind))


def refusal(error: SlimError) -> web.Response:
    """Return the answer that says why there is no other."""
    return error_response(status_of(error), str(error), retry_after_s=getattr(error, "retry_after_s", None))


def error_response(status: HTTPStatus, reason: str, *, retry_after_s: float | None = None) -> web.Response:
    """Return the answer of a status; 429 says when to come again, by a guess when ``retry_after_s`` is None."""
    headers = {"Content-Type": "application/json"}
    if status is HTTPStatus.TOO_MANY_REQUESTS:
        headers["Retry-After"] = str(RETRY_AFTER_S if retry_after_s is None else max(1, math.ceil(retry_after_s)))
    if status is HTTPStatus.UNAUTHORIZED:
        headers["WWW-Authenticate"] = "Bearer"
    if status is HTTPStatus.NOT_IMPLEMENTED:
        headers["Accept-Encoding"] = "gzip, deflate"
    return web.Response(status=status, body=dump_json({"error": reason}), headers=headers)
