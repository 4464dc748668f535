"""The status page's events as a terminal reads them; one that is away is asked again and again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Any

import aiohttp
import orjson

Document = dict[str, Any]
_AGAIN_S = 2.0
_SILENT_S = 600.0
"""Without an event, after which the gateway counts as gone; samples of a thousand models are rare."""
_EVENT_LIMIT_BYTES = 16 << 20


async def watch(address: str, find: str = "") -> AsyncGenerator[Document | str]:
    """Yield the document of each event for ever, and in words why there is none while the gateway is away.

    Args:
        address: ``host:port`` of the gateway's metrics.
        find: A part of a family's name; empty: any.
    """
    timeout = aiohttp.ClientTimeout(total=None, connect=5.0, sock_read=_SILENT_S)
    async with aiohttp.ClientSession(timeout=timeout, read_bufsize=_EVENT_LIMIT_BYTES) as session:
        seen = ""
        while True:
            try:
                headers = {"Last-Event-ID": seen} if seen else {}
                async with session.get(f"http://{address}/events", params={"find": find}, headers=headers) as answer:
                    if answer.status != 200:
                        yield f"{address} refuses: {(await answer.text()).strip()[:200]}"
                    else:
                        async for line in answer.content:
                            if line.startswith(b"id: "):
                                seen = line[4:].decode().strip()
                            elif line.startswith(b"data: "):
                                yield _read(line[6:])
                        yield f"the gateway at {address} has ended"
            except (aiohttp.ClientError, OSError, ValueError, TimeoutError) as exc:
                yield f"no gateway answers at {address} ({exc or type(exc).__name__})"
            await asyncio.sleep(_AGAIN_S)


async def read_alerts(address: str, *, timeout_s: float) -> list[dict[str, str]] | str:
    """Return the alerts that stand now, each with its ``level`` and ``text``; in words why none are known."""
    try:
        async with asyncio.timeout(timeout_s), aclosing(watch(address)) as events:
            document = await anext(events)
    except TimeoutError:
        return f"no gateway answers at {address} within {timeout_s:g} s"
    if isinstance(document, str):
        return document
    alerts: list[dict[str, str]] | None = document.get("alerts")
    return f"the gateway at {address} starts, or ends" if alerts is None else alerts


def _read(data: bytes) -> Document:
    document = orjson.loads(data)
    if not isinstance(document, Mapping):
        raise ValueError("what answers is no gateway of this version")
    return dict(document)
