"""How an error ends a request: the one table of gRPC's status and of the word in the metrics.

HTTP's status follows from gRPC's, as in Triton; see ``http.errors``.
"""

from __future__ import annotations

import asyncio

from orchestrator.errors import (
    CapacityError,
    ConfigError,
    DeadlineError,
    ModelNotFoundError,
    PermanentError,
    ServerUnavailableError,
)
from orchestrator.gateway.auth.callers import ForbiddenError, QuotaError, UnauthenticatedError
from orchestrator.gateway.protocol.wire import MalformedMessageError
from orchestrator.triton.errors import RefusedCallError

# The first that fits counts, so a class stands before the one it is derived from.
_ENDS: tuple[tuple[type[BaseException], str, str], ...] = (
    (MalformedMessageError, "INTERNAL", "invalid"),  # the status is Triton's
    (UnauthenticatedError, "UNAUTHENTICATED", "unauthenticated"),
    (ForbiddenError, "PERMISSION_DENIED", "forbidden"),
    (ModelNotFoundError, "NOT_FOUND", "not_found"),
    (QuotaError, "RESOURCE_EXHAUSTED", "over_quota"),
    (CapacityError, "RESOURCE_EXHAUSTED", "shed"),  # not UNAVAILABLE, which KServe's client retries at once
    (DeadlineError, "DEADLINE_EXCEEDED", "deadline"),
    (ServerUnavailableError, "UNAVAILABLE", "unavailable"),
    (ConfigError, "INVALID_ARGUMENT", "invalid"),
    (PermanentError, "INVALID_ARGUMENT", "invalid"),
    (asyncio.CancelledError, "CANCELLED", "cancelled"),
    (BaseException, "INTERNAL", "failed"),
)
_OF_THE_REQUEST = ("INVALID_ARGUMENT", "UNIMPLEMENTED")
"""Of a server's statuses those that say that it can't run what it was asked for, whoever asks."""


def status_of(error: BaseException) -> str:
    """Return gRPC's status for an error; one that a server gave is kept."""
    return error.status if isinstance(error, RefusedCallError) else _end_of(error)[0]


def outcome_of(error: BaseException) -> str:
    """Return how a request failed, in one word; what a server says of the request itself is its caller's mistake."""
    if isinstance(error, RefusedCallError):
        return "invalid" if error.status in _OF_THE_REQUEST else "refused"
    return _end_of(error)[1]


def _end_of(error: BaseException) -> tuple[str, str]:
    return next((status, word) for kind, status, word in _ENDS if isinstance(error, kind))
