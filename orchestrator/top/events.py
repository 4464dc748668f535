"""The status page's events as a terminal reads them, again and again while it is away; and its document, read once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection, Mapping
from typing import Any

import aiohttp
import orjson

Document = dict[str, Any]
_AGAIN_S = 2.0
_SILENT_S = 600.0
"""Without an event, after which the gateway counts as gone; samples of a thousand models are rare."""
_EVENT_LIMIT_BYTES = 16 << 20


async def watch(address: str, find: str = "", token: str | None = None) -> AsyncIterator[Document | str]:
    """Yield the document of each event for ever, and in words why there is none while the gateway is away.

    Args:
        address: ``host:port`` of the gateway's metrics.
        find: A part of a family's name; empty: any.
        token: What opens the status page, where it is not open.
    """
    timeout = aiohttp.ClientTimeout(total=None, connect=5.0, sock_read=_SILENT_S)
    async with aiohttp.ClientSession(timeout=timeout, read_bufsize=_EVENT_LIMIT_BYTES) as session:
        seen = ""
        while True:
            try:
                headers = {**_authorization(token), **({"Last-Event-ID": seen} if seen else {})}
                async with session.get(f"http://{address}/events", params={"find": find}, headers=headers) as answer:
                    if answer.status != 200:
                        yield await _refusal(address, answer)
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


async def read_document(
    address: str, *, timeout_s: float, token: str | None = None, fleet: Collection[str] = ()
) -> Document | str:
    """Return the document of now, with ``alerts``, each with its ``level`` and ``text``; in words why there is none.

    ``fleet`` has digests of servers' addresses; a gateway that knows none of them is another fleet's. Empty: any is.
    """
    session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(timeout_s), headers=_authorization(token))
    try:
        async with session, session.get(f"http://{address}/status") as answer:
            if answer.status in (401, 403):
                return await _refusal(address, answer)
            document = orjson.loads(await answer.read())
    except TimeoutError:
        return f"no gateway answers at {address} within {timeout_s:g} s"
    except (aiohttp.ClientError, OSError) as exc:
        return f"no gateway answers at {address} ({exc})"
    except ValueError:
        return f"what answers at {address} is no gateway"
    alerts = document.get("alerts") if isinstance(document, Mapping) else None
    if isinstance(alerts, list) and fleet and not set(fleet) & set(document.get("fleet") or fleet):
        return f"the gateway at {address} is another fleet's; say by gateway.metrics where this one's is"
    if not isinstance(alerts, list):
        return f"the gateway at {address} starts, ends, or is of another version"
    return dict(document)


def _authorization(token: str | None) -> dict[str, str]:
    return {} if token is None else {"Authorization": f"Bearer {token}"}


async def _refusal(address: str, answer: aiohttp.ClientResponse) -> str:
    hint = " (--token, or SLIMSCHED_TOKEN in the environment)" if answer.status == 401 else ""
    return f"{address} refuses: {(await answer.text()).strip()[:200]}{hint}"


def _read(data: bytes) -> Document:
    document = orjson.loads(data)
    if not isinstance(document, Mapping):
        raise ValueError("what answers is no gateway of this version")
    return dict(document)
