"""What Triton and gRPC say when a call fails, as errors of ours; a table, because the status alone says too little.

UNAVAILABLE stands for at least seven things: nobody listens, the connection broke, the server is stopping, a queue is
full, a request waited too long in Triton, the model is not there, a protocol is restricted. They differ in what may be
done next, so the words decide, and the status where the words are unknown:

- *not executed*: refused or never sent; whoever asked may ask another server, whatever the model does.
- *connection lost*: it may have run, but no answer can come. Asking another server is right for a pure function, such
  as a slimmable network, and wrong for a model that keeps state; so it is an error of its own (ConnectionLostError).
- anything else that failed may have run, and the server is there.

The words are those of Triton 2.51 and of gRPC 1.5x to 1.7x, taken from their sources and from servers that were killed.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from orchestrator.errors import (
    CapacityError,
    ConnectionLostError,
    DeadlineError,
    ModelNotFoundError,
    PermanentError,
    ServerUnavailableError,
    SlimError,
    TransientError,
)

# What Triton says, with status UNAVAILABLE, when it will never do what was asked: no key for a restricted protocol
# (a wrong one reads the same), and loading where --model-control-mode is none or poll.
RESTRICTED = "This protocol is restricted, expecting header"
NOT_EXPLICIT = "explicit model load / unload is not allowed"

# The stub of a Python-based backend has died, or was taken for dead. What it ran then is told as what came later is.
_DIED = "is not healthy"

_Make = Callable[[str], SlimError]
_NOT_REACHED: _Make = partial(ServerUnavailableError, executed=False)
_NOT_RUN: _Make = partial(TransientError, executed=False)

# The first mark found in the message decides, whatever the status.
_BY_WORDS: tuple[tuple[str, _Make], ...] = (
    ("Exceeds maximum queue size", CapacityError),
    ("Request timeout expired", partial(DeadlineError, executed=False)),
    ("Request for unknown model", ModelNotFoundError),
    (RESTRICTED, PermanentError),
    (NOT_EXPLICIT, PermanentError),
    # Before the connection's own words, because gRPC names the connection that it tried within.
    ("failed to connect", _NOT_REACHED),
    ("Failed to connect", _NOT_REACHED),
    ("Connection refused", _NOT_REACHED),
    ("DNS resolution failed", _NOT_REACHED),
    ("Server exiting", _NOT_REACHED),
    ("Server is stopping", _NOT_REACHED),
    (_DIED, _NOT_RUN),
)

# Said by gRPC when the transport ends under a call. Only with the statuses that gRPC gives by itself: a model may well
# fail with such words about a connection of its own.
_LOST = (
    "Socket closed",
    "Connection reset",
    "Connection aborted",
    "Connection closed",
    "Broken pipe",
    "Stream removed",
    "RST_STREAM",
    "GOAWAY",
    "Transport closed",
    "transport is closing",
    "ping timeout",
    "keepalive watchdog timeout",
    "End of TCP stream",
    "recvmsg",
    "sendmsg",
)
_TRANSPORT_STATUSES = frozenset({"UNAVAILABLE", "UNKNOWN", "CANCELLED"})

_BY_STATUS: dict[str, _Make] = {
    "UNAVAILABLE": ServerUnavailableError,
    "DEADLINE_EXCEEDED": DeadlineError,
    "NOT_FOUND": ModelNotFoundError,
    "RESOURCE_EXHAUSTED": CapacityError,
    "INVALID_ARGUMENT": PermanentError,
    "UNIMPLEMENTED": PermanentError,
    "UNAUTHENTICATED": PermanentError,
    "PERMISSION_DENIED": PermanentError,
}


class RefusedCallError(SlimError):
    """A server answered a call that was passed through with a status; both are to reach the client as they are.

    Attributes:
        status: The gRPC name of it, such as ``INVALID_ARGUMENT``.
        detail: The server's message, nothing added.
        executed: False when the server certainly did not run the call; True when the model may have died by it.
        is_gone: Whether the server as a whole could not be asked, and not this call alone.
        has_died: Whether the model has died, before this call or by it.
    """

    def __init__(
        self, status: str, detail: str, *, executed: bool = True, is_gone: bool = False, has_died: bool = False
    ) -> None:
        super().__init__(detail)
        self.is_gone = is_gone
        self.has_died = has_died
        self.status = status
        self.detail = detail
        self.executed = executed


def describe_refusal(status: str, detail: str, server: str) -> RefusedCallError:
    """Return the refusal of a call that was passed through to a server, of which ``server`` says which."""
    translated = translate_status(status, detail or "no reason given", server)
    refused, has_died = isinstance(translated, ModelNotFoundError), _DIED in detail
    executed = has_died or not (refused or (isinstance(translated, TransientError) and not translated.executed))
    is_gone = isinstance(translated, ServerUnavailableError) and not executed
    if is_gone:
        detail = f"{detail} ({server})"  # gRPC's own words would name no server of ours
    return RefusedCallError(status, detail, executed=executed, is_gone=is_gone, has_died=has_died)


def translate_status(status: str | None, detail: str, server: str) -> SlimError:
    """Return our error for a failed call, its message in one line and beginning with which server it is of.

    The status is gRPC's name, with or without ``StatusCode.``; None when there was none.
    """
    name = (status or "").removeprefix("StatusCode.")
    words = " ".join(detail.split())
    message = f"{server}: {words}"
    for mark, make in _BY_WORDS:
        if mark in words:
            # A server that is stopping can say so in any status; only UNAVAILABLE is about the whole server.
            return _NOT_RUN(message) if make is _NOT_REACHED and name != "UNAVAILABLE" else make(message)
    if name in _TRANSPORT_STATUSES and any(mark in words for mark in _LOST):
        return ConnectionLostError(message)
    if name == "UNAVAILABLE" and "is not ready" in words:
        return _NOT_REACHED(message)
    return _BY_STATUS.get(name, TransientError)(message)
