"""Links to the other gateways: what each said last, and requests that are passed on to it.

A peer is found by its address, one of a list or of those that a host name stands for, and says itself what it is
called. One that fails to answer gets no more requests until it answers again.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable, Collection, Sequence
from typing import Final, Protocol

from orchestrator.background import BackgroundTasks, end_tasks
from orchestrator.errors import PermanentError, SlimError
from orchestrator.gateway.peers.report import GatewayReport
from orchestrator.http2.flow import Buffer
from orchestrator.snapshot import ServerName

log = logging.getLogger(__name__)

LOOK_S: Final = 0.2
"""Between two looks at a peer."""
ANSWER_S: Final = 0.5
"""Longest wait for its report."""


class PeerClient(Protocol):
    """The calls to one peer; GrpcPeerClient is the real one."""

    async def read_report(self) -> bytes:
        """Return its report, as JSON; raises SlimError."""
        ...

    async def infer(self, parts: Sequence[Buffer]) -> bytes:
        """Return its answer to a ModelInferRequest, both serialised; raises SlimError."""
        ...

    async def close(self) -> None:
        """Let go of it, leaving what is under way."""
        ...


class PeerLink:
    """One peer.

    Attributes:
        address: Where it is.
        report: What it said last; None before the first time.
        heard_s: When it said so, on the event loop's clock.
        was_asked: Whether it has answered, or failed to.
        is_answering: Whether it answered when it was last asked for anything.
        given_s: The work that was passed on to it, in seconds of its servers'.
    """

    def __init__(self, address: str, client: PeerClient) -> None:
        self.address = address
        self.report: GatewayReport | None = None
        self.heard_s = -math.inf
        self.was_asked = False
        self.is_answering = False
        self.given_s = 0.0
        self._client = client
        self._sent_items = 0  # since it told its backlog
        self._capacity_rps = 0.0

    async def watch(self) -> None:
        """Ask it for ever how it is."""
        while True:
            await self.look()
            await asyncio.sleep(LOOK_S)

    async def look(self) -> None:
        """Ask it how it is; never raises SlimError."""
        asked_s = asyncio.get_running_loop().time()
        try:
            async with asyncio.timeout(ANSWER_S):
                self.report = GatewayReport.decode(await self._client.read_report())
        except (SlimError, TimeoutError) as exc:
            if self.is_answering or (isinstance(exc, PermanentError) and not self.was_asked):
                log.warning("peer %s does not answer: %s", self.address, exc or f"nothing within {ANSWER_S:g} s")
            self.is_answering = False
        else:
            self.heard_s, self.is_answering, self._sent_items = asked_s, True, 0
            self._capacity_rps = sum(self.report.load.capacities_rps.values())
        self.was_asked = True

    def takes(self, servers: Collection[ServerName]) -> bool:
        """Return whether requests for any of some servers can be passed on to it."""
        return self.is_answering and self.report is not None and not self.report.drives.isdisjoint(servers)

    @property
    def backlog_s(self) -> float:
        """How long its servers take for what it has, with what was passed on to it since it said so."""
        items = self._sent_items + (0.0 if self.report is None else self.report.backlog_items)
        return items / self._capacity_rps if self._capacity_rps else math.inf

    async def infer(self, parts: Sequence[Buffer], *, items: int) -> bytes:
        """Return its answer to a request of so many items; raises SlimError."""
        self._sent_items += items
        self.given_s += items / self._capacity_rps if self._capacity_rps else 0.0
        return await self._client.infer(parts)

    def note_failure(self) -> None:
        """Pass nothing on to it until it has answered again."""
        self.is_answering = False

    async def close(self) -> None:
        """Let go of it."""
        await self._client.close()


class PeerLinks:
    """Links to all peers, of addresses that may change.

    Args:
        connect: Returns the client of an address.
    """

    def __init__(self, connect: Callable[[str], PeerClient]) -> None:
        self._connect = connect
        self._links: dict[str, tuple[PeerLink, asyncio.Task[None]]] = {}
        self._background = BackgroundTasks()

    def __call__(self) -> Sequence[PeerLink]:
        """Return the links as they are now."""
        return [link for link, _ in self._links.values()]

    def replace(self, addresses: Collection[str]) -> None:
        """Link to these addresses, and to no others."""
        for address in self._links.keys() - set(addresses):
            link, task = self._links.pop(address)
            task.cancel()
            self._background.start("leaving peers", link.close)
        for address in sorted(set(addresses) - self._links.keys()):
            link = PeerLink(address, self._connect(address))
            self._links[address] = link, self._background.start("asking peers", link.watch)

    async def until_asked(self) -> None:
        """Return once each was asked; bounded in time, as they are."""
        while not all(link.was_asked for link in self()):
            await asyncio.sleep(LOOK_S / 20)

    async def close(self) -> None:
        """Let go of all."""
        await end_tasks(*(task for _, task in self._links.values()))
        await self._background.stop()
        await asyncio.gather(*(link.close() for link in self()))
