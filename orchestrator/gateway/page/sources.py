"""Where the status page looks besides the metrics: the controllers of the servers, and the decision log.

Each is asked within a bound of time and size, and what does not answer is a reason in words, so that the page shows
the rest when a part of the fleet is away.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import aiohttp

from orchestrator.config import ServerSettings
from orchestrator.gateway.page.observed import Controller, Decision
from orchestrator.router.dispatch.decision_log import read_newest
from orchestrator.router.dispatch.explanation import describe_decision, describe_outcome

_CONTROLLER_S = 1.5
_ANSWER_LIMIT_BYTES = 4 << 20
_AT_ONCE = 32
_DECISIONS_SHOWN = 12


async def ask_controllers(session: aiohttp.ClientSession, servers: Iterable[ServerSettings]) -> dict[str, Controller]:
    """Return what the controllers of servers say, by server; those without one are left out."""
    free = asyncio.Semaphore(_AT_ONCE)

    async def ask(server: ServerSettings, address: str) -> tuple[str, Controller]:
        async with free:
            return server.name, await _ask(session, server.name, address)

    asked = [(server, server.controller_address) for server in servers]
    return dict(await asyncio.gather(*(ask(server, address) for server, address in asked if address is not None)))


async def _ask(session: aiohttp.ClientSession, server: str, address: str) -> Controller:
    try:
        async with asyncio.timeout(_CONTROLLER_S), session.get(f"http://{address}/status") as answer:
            values = json.loads(await _read(answer))
    except TimeoutError:
        return Controller(None, f"no answer at {address} within {_CONTROLLER_S:g} s")
    except (aiohttp.ClientError, OSError, ValueError) as exc:
        return Controller(None, f"no answer at {address} ({exc})")
    if not isinstance(values, Mapping) or values.get("server") != server:
        return Controller(None, f"what answers at {address} is not this server's; correct 'controller' in fleet.yaml")
    return Controller(values)


async def _read(answer: aiohttp.ClientResponse) -> bytes:
    body = bytearray()
    async for part in answer.content.iter_any():
        body += part
        if len(body) > _ANSWER_LIMIT_BYTES:
            raise ValueError(f"more than {_ANSWER_LIMIT_BYTES} bytes")
    return bytes(body)


def read_decisions(directory: Path) -> list[Decision]:
    """Return the last decisions of a log in words, newest first; blocking, of some milliseconds."""
    found = []
    for record in read_newest(directory, _DECISIONS_SHOWN):
        try:
            found.append(_describe(record))
        except (KeyError, TypeError, ValueError):  # written by another version
            continue
    return found


def _describe(record: dict[str, Any]) -> Decision:
    choice = record["choice"]
    told = f"{choice['items']} to {choice['server']} at {choice['width']} %" if choice else "rejected"
    lines = (*describe_decision(record), describe_outcome(record["outcome"]))
    return Decision(record["id"], record["at"], record["family"], f"{told}: {record['reason']}", lines)
