"""What a tritonserver on this host says of each model in its repository, over plain HTTP."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Any

_REQUEST = b"POST /v2/repository/index HTTP/1.0\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n{}"
_READY = "READY"


async def read_index(host: str, port: int) -> list[Mapping[str, Any]]:
    """Return an entry for each version of a model, with its name, state and reason; empty when none can be had."""
    try:
        reader, writer = await asyncio.open_connection(host, port)
        try:
            writer.write(_REQUEST)
            answer = await reader.read()
        finally:
            writer.close()
        entries = json.loads(answer.partition(b"\r\n\r\n")[2])
    except (OSError, ValueError):
        return []
    return entries if isinstance(entries, list) else []


def served_models(index: list[Mapping[str, Any]]) -> set[str]:
    """Return the models of which a version is ready."""
    return {entry["name"] for entry in index if entry.get("state") == _READY}


def unserved_models(index: list[Mapping[str, Any]]) -> dict[str, str]:
    """Return why each of the others is not, in one line, by name; Triton gives no reason for a bad configuration."""
    served = served_models(index)
    reasons = {entry["name"]: _one_line(entry.get("reason", "")) for entry in index if entry["name"] not in served}
    return {name: reason or "its config.pbtxt can't be read or fits no model" for name, reason in reasons.items()}


def _one_line(reason: str) -> str:
    # A Python backend's message ends with where in its code it was raised; that is of no use to the reader.
    return " ".join(reason.partition("\n\nAt:")[0].removeprefix("Internal: TritonModelException: ").split())
