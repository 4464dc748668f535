"""Calls that change or reach into a server: closed, and answered so that no client stumbles.

Loading and unloading belong to the controllers. Shared memory works on one host only, and its "unregister all" would
hit every client's regions. Log and trace settings are the server operator's. Closed calls get PERMISSION_DENIED, over
HTTP 403 as from a Triton with a restricted API: UNIMPLEMENTED would say that nobody can do it, and UNAVAILABLE, which
Triton's own restriction over gRPC uses, makes KServe's client retry. Reading those settings gives an empty list, and
unregistering *all* shared memory succeeds without a call to a server, because nothing is ever registered here;
``perf_analyzer`` does that first and last.
"""

from __future__ import annotations

from orchestrator.errors import ModelNotFoundError
from orchestrator.gateway.auth.callers import Caller, ForbiddenError
from orchestrator.gateway.ports import UnaryMethod
from orchestrator.gateway.protocol.messages import build_answer, parse_request


def _closed_call(method: str, what: str, *, but_without: str | None = None) -> UnaryMethod:
    """Return the answer to a call that is not let through; to one without the field ``but_without`` an empty answer."""

    async def answer(message: bytes, caller: Caller) -> bytes:
        if but_without is None or getattr(parse_request(method, message), but_without):
            raise ForbiddenError(f"{what} through the gateway is closed; see docs/gateway.md")
        return build_answer(method)

    return answer


def _shared_memory(kind: str) -> dict[str, UnaryMethod]:
    """Return the answers to the calls for one kind of shared memory."""
    status, register, unregister = (f"{kind}SharedMemory{what}" for what in ("Status", "Register", "Unregister"))

    async def answer_status(message: bytes, caller: Caller) -> bytes:
        if name := parse_request(status, message).name:
            raise ModelNotFoundError(f"Unable to find {kind.lower()} shared memory region: '{name}'")
        return build_answer(status)

    return {
        status: answer_status,
        register: _closed_call(register, "registering shared memory"),
        unregister: _closed_call(unregister, "unregistering shared memory by name", but_without="name"),
    }


ADMINISTRATION: dict[str, UnaryMethod] = {
    "TraceSetting": _closed_call("TraceSetting", "changing trace settings", but_without="settings"),
    "LogSettings": _closed_call("LogSettings", "changing log settings", but_without="settings"),
    **_shared_memory("System"),
    **_shared_memory("Cuda"),
    "RepositoryModelLoad": _closed_call("RepositoryModelLoad", "loading models"),
    "RepositoryModelUnload": _closed_call("RepositoryModelUnload", "unloading models"),
}
"""Those calls by name."""
