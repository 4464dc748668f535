"""Calls that change or reach into a server: closed, and answered so that no client stumbles.

Loading and unloading belong to the controllers. Shared memory works on one host only, and its "unregister all" would
hit every client's regions. Log and trace settings are the server operator's. Closed calls get PERMISSION_DENIED, over
HTTP 403 as from a Triton with a restricted API: UNIMPLEMENTED would say that nobody can do it, and UNAVAILABLE, which
Triton's own restriction over gRPC uses, makes KServe's client retry. Reading those settings gives an empty list, and
unregistering *all* shared memory succeeds without a call to a server, because nothing is ever registered here;
``perf_analyzer`` does that first and last.
"""

from __future__ import annotations

from typing import Any

from orchestrator.errors import ModelNotFoundError, PermanentError
from orchestrator.gateway.auth.callers import Caller
from orchestrator.gateway.ports import UnaryMethod
from orchestrator.gateway.protocol.messages import parse, pb, serialise


class ClosedError(PermanentError):
    """The call is one that the gateway does not let through."""


def _closed_call(what: str) -> UnaryMethod:
    """Return the answer to a call that is never let through."""

    async def refuse(message: bytes, caller: Caller) -> bytes:
        raise ClosedError(f"{what} through the gateway is closed; see docs/gateway.md")

    return refuse


def _settings_call(what: str, request_kind: Any, answer_kind: Any) -> UnaryMethod:
    """Return the answer to a call that reads or changes settings: an empty list, or closed."""

    async def answer(message: bytes, caller: Caller) -> bytes:
        if parse(request_kind, message).settings:
            raise ClosedError(f"changing {what} through the gateway is closed; see docs/gateway.md")
        return serialise(answer_kind())

    return answer


def _shared_memory_status(kind: str) -> UnaryMethod:
    """Return the answer to a query for registered regions: there are none."""
    request_kind = getattr(pb, f"{kind}SharedMemoryStatusRequest")
    answer_kind = getattr(pb, f"{kind}SharedMemoryStatusResponse")

    async def answer(message: bytes, caller: Caller) -> bytes:
        name = parse(request_kind, message).name
        if name:
            raise ModelNotFoundError(f"Unable to find {kind.lower()} shared memory region: '{name}'")
        return serialise(answer_kind())

    return answer


def _shared_memory_unregister(kind: str) -> UnaryMethod:
    """Return the answer to unregistering: done when all are meant, closed when one is."""
    request_kind = getattr(pb, f"{kind}SharedMemoryUnregisterRequest")
    answer_kind = getattr(pb, f"{kind}SharedMemoryUnregisterResponse")

    async def answer(message: bytes, caller: Caller) -> bytes:
        if parse(request_kind, message).name:
            raise ClosedError("unregistering shared memory by name through the gateway is closed; see docs/gateway.md")
        return serialise(answer_kind())

    return answer


ADMINISTRATION: dict[str, UnaryMethod] = {
    "TraceSetting": _settings_call("trace settings", pb.TraceSettingRequest, pb.TraceSettingResponse),
    "LogSettings": _settings_call("log settings", pb.LogSettingsRequest, pb.LogSettingsResponse),
    **{f"{kind}SharedMemoryStatus": _shared_memory_status(kind) for kind in ("System", "Cuda")},
    **{f"{kind}SharedMemoryUnregister": _shared_memory_unregister(kind) for kind in ("System", "Cuda")},
    **{f"{kind}SharedMemoryRegister": _closed_call("registering shared memory") for kind in ("System", "Cuda")},
    "RepositoryModelLoad": _closed_call("loading models"),
    "RepositoryModelUnload": _closed_call("unloading models"),
}
"""Those calls by name."""
