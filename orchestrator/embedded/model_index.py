"""What a tritonserver on this host says of each model in its repository, and loading one again, over plain HTTP."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

log = logging.getLogger(__name__)

TELL_LOADING_S = 10.0
"""From one line that says what is being loaded to the next."""
TAKEN_FOR_DEAD = "is not healthy"
"""What Triton says of a Python stub that gave no sign of life for a second while it was waited for."""
_READY = "READY"
_CONTENT_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)


async def read_index(host: str, port: int) -> list[Mapping[str, Any]]:
    """Return an entry for each version of a model, with its name, state and reason; empty when none can be had."""
    try:
        entries = json.loads(await _post(host, port, "index"))
    except (OSError, ValueError):
        return []
    return entries if isinstance(entries, list) else []


async def load_again(host: str, port: int, name: str, *, tell_s: float = TELL_LOADING_S) -> None:
    """Have a model loaded that is not served; the index tells what came of it.

    It may take minutes, or hang, and is waited for as the first load is: without a limit, and with a line in the log
    every ``tell_s``.
    """
    clock = asyncio.get_running_loop().time
    began_s, load = clock(), asyncio.create_task(_post(host, port, f"models/{quote(name, safe='')}/load"))
    try:
        while not (await asyncio.wait({load}, timeout=tell_s))[0]:
            log.info("tritonserver loads %s once more, for %.0f s now", name, clock() - began_s)
        with contextlib.suppress(OSError):
            load.result()
    finally:
        load.cancel()


async def _post(host: str, port: int, path: str) -> bytes:
    """Return the body of what is answered to an empty object; raises OSError where there is none."""
    reader, writer = await asyncio.open_connection(host, port)
    try:
        head = f"POST /v2/repository/{path} HTTP/1.0\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n"
        writer.write(head.encode() + b"{}")
        answer = await reader.readuntil(b"\r\n\r\n")
        length = _CONTENT_LENGTH.search(answer)  # Triton does not close the connection of a load, whatever the version
        return await reader.readexactly(int(length.group(1))) if length else b""
    except EOFError as exc:
        raise ConnectionError("the connection was closed") from exc
    finally:
        writer.close()


def served_models(index: list[Mapping[str, Any]]) -> set[str]:
    """Return the models of which a version is ready."""
    return {entry["name"] for entry in index if entry.get("state") == _READY}


def unserved_models(index: list[Mapping[str, Any]]) -> dict[str, str]:
    """Return why each of the others is not, in one line, by name; Triton gives no reason for a bad configuration."""
    served = served_models(index)
    reasons = {entry["name"]: _one_line(entry.get("reason", "")) for entry in index if entry["name"] not in served}
    return {name: reason or "its config.pbtxt can't be read or fits no model" for name, reason in reasons.items()}


def _one_line(reason: str) -> str:
    # A Python backend's message ends with where in its code it was raised; that is of no use to the reader. Of a failed
    # warm-up the same is said for each request.
    line = " ".join(reason.partition("\n\nAt:")[0].removeprefix("Internal: TritonModelException: ").split())
    return "; ".join(dict.fromkeys(part.strip() for part in line.split(";") if part.strip()))
