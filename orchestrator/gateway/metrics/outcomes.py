"""How requests end, in one word for metrics."""

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


def outcome_of(error: BaseException) -> str:
    """Return how a request failed."""
    for kind, word in _OUTCOMES:
        if isinstance(error, kind):
            return word
    return "failed"


_OUTCOMES: tuple[tuple[type[BaseException] | tuple[type[BaseException], ...], str], ...] = (
    (asyncio.CancelledError, "cancelled"),
    (RefusedCallError, "refused"),
    (ModelNotFoundError, "not_found"),
    (UnauthenticatedError, "unauthenticated"),
    (ForbiddenError, "forbidden"),
    (QuotaError, "over_quota"),
    (CapacityError, "shed"),
    (DeadlineError, "deadline"),
    (ServerUnavailableError, "unavailable"),
    ((ConfigError, PermanentError, MalformedMessageError), "invalid"),
)
