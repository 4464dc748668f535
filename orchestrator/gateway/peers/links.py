"""Links to the other gateways: what each said last, and requests that are passed on to it.

A peer is found by its address, one of a list or of those that a host name stands for, and says itself what it is
called. One that fails to answer gets no more requests until it answers again. Who asks for a report tells its own, and
does so at once when something in it changes that others wait for.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
from collections.abc import Callable, Collection, Sequence
from typing import Final, Protocol

from orchestrator.background import BackgroundTasks, end_tasks
from orchestrator.errors import PermanentError, ServerUnavailableError, SlimError
from orchestrator.gateway.peers.report import GatewayReport, NoReportError
from orchestrator.http2.flow import Buffer
from orchestrator.http2.grpc.wire import Metadata
from orchestrator.snapshot import ServerName

log = logging.getLogger(__name__)

LOOK_S: Final = 0.2
"""Between two looks at a peer."""
ANSWER_S: Final = 0.5
"""Longest wait for its report."""


class PeerGoneError(ServerUnavailableError):
    """No process listens where a gateway did."""


class PeerClient(Protocol):
    """The calls to one peer; GrpcPeerClient is the real one."""

    async def exchange_reports(self, own: bytes) -> bytes:
        """Tell it this gateway's report and return its own, both as JSON.

        Raises:
            PeerGoneError: No process listens there.
            SlimError: It does not answer.
        """

    def reconnect(self) -> None:
        """Call it over a new connection from now on; what is under way may end."""

    async def infer(self, parts: Sequence[Buffer], metadata: Metadata) -> bytes:
        """Return its answer to a ModelInferRequest, both serialised; raises SlimError."""

    async def close(self) -> None:
        """Let go of it; returns within a second."""


class PeerLink:
    """One peer.

    Attributes:
        address: Where it is.
        report: What it said last; None before the first time, and once it has gone.
        heard_s: When it said so, on the event loop's clock.
        was_asked: Whether it has answered, or failed to.
        is_answering: Whether it answered when it was last asked for anything.
        given_s: The work that was passed on to it, in seconds of its servers'.
    """

    def __init__(self, address: str, client: PeerClient, own_report: Callable[[], bytes]) -> None:
        self.address = address
        self._own_report = own_report
        self._is_due = asyncio.Event()
        self.report: GatewayReport | None = None
        self.heard_s = -math.inf
        self.was_asked = False
        self.is_answering = False
        self.given_s = 0.0
        self._client = client
        self._sent_items = 0  # since it told its backlog
        self._capacity_rps = 0.0
        self._told = ""

    async def watch(self) -> None:
        """Ask it for ever how it is."""
        while True:
            self._is_due.clear()
            await self.look()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_S):
                    await self._is_due.wait()

    def ask_now(self) -> None:
        """Ask it at once, or again once it has answered; what has changed here it is told by that."""
        self._is_due.set()

    def take(self, report: GatewayReport, *, at_s: float) -> None:
        """Note what it said of itself."""
        self.report, self.heard_s, self._sent_items = report, at_s, 0
        self._capacity_rps = sum(report.load.capacities_rps.values())

    async def look(self) -> None:
        """Ask it how it is; never raises SlimError."""
        asked_s = asyncio.get_running_loop().time()
        try:
            async with asyncio.timeout(ANSWER_S):
                report = GatewayReport.decode(await self._client.exchange_reports(self._own_report()))
        except (SlimError, TimeoutError) as exc:
            self._tell(exc)
            self.is_answering = False
            if isinstance(exc, PeerGoneError):
                self.report = None
            if isinstance(exc, TimeoutError):  # perhaps packets were lost; it is to be heard as soon as none are
                self._client.reconnect()
        else:
            self.is_answering, self._told = True, ""
            self.take(report, at_s=asked_s)
        self.was_asked = True

    def _tell(self, exc: Exception) -> None:
        """Log why it gets no requests: once, and of one that does not answer only if it did."""
        if isinstance(exc, NoReportError):
            text = f"answers with {exc}; it may be of a version that is not understood here, and is left out meanwhile"
        elif isinstance(exc, PermanentError):
            text = (
                f"refuses what this gateway says of itself ({exc}); it may be of a version that does not understand it"
            )
        else:
            text = f"does not answer: {str(exc) or f'nothing within {ANSWER_S:g} s'}"
        if text != self._told and (self.is_answering or isinstance(exc, PermanentError)):
            log.warning("peer %s %s", self.address, text)
            self._told = text

    def takes(self, servers: Collection[ServerName]) -> bool:
        """Return whether requests for any of some servers can be passed on to it."""
        return self.is_answering and self.report is not None and not self.report.drives.isdisjoint(servers)

    @property
    def backlog_s(self) -> float:
        """How long its servers take for what it has, with what was passed on to it since it said so."""
        items = self._sent_items + (0.0 if self.report is None else self.report.backlog_items)
        return items / self._capacity_rps if self._capacity_rps else math.inf

    async def infer(self, parts: Sequence[Buffer], metadata: Metadata = (), *, items: int) -> bytes:
        """Return its answer to a request of so many items; raises SlimError."""
        self._sent_items += items
        self.given_s += items / self._capacity_rps if self._capacity_rps else 0.0
        return await self._client.infer(parts, metadata)

    def note_failure(self) -> None:
        """Pass nothing on to it until it has answered again."""
        self.is_answering = False
        self.ask_now()

    async def close(self) -> None:
        """Let go of it."""
        await self._client.close()


class PeerLinks:
    """Links to all peers, of addresses that may change.

    Args:
        connect: Returns the client of an address.
        own_report: Returns what peers are told, as JSON.
    """

    def __init__(self, connect: Callable[[str], PeerClient], own_report: Callable[[], bytes]) -> None:
        self._connect = connect
        self._own_report = own_report
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
            link = PeerLink(address, self._connect(address), self._own_report)
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
