"""The router: admit, queue, decide and send, answer.

One event loop, no locks: every change of state happens between two awaits. Requests wait in ``lanes``; ``dispatch``
decides on them and sends them, ``attempts`` looks after what was sent, ``shedding`` gives up what can't be served,
``fleet`` looks after the servers.

Every accepted request is answered once: its future is resolved by a group's answer or failure, by being shed, by its
timeout, by the closing of the router, or cancelled by its own caller, and nothing else touches it.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Mapping
from functools import partial
from types import TracebackType
from typing import Self

from orchestrator.config import FleetSettings, RouterSettings, ServerSettings
from orchestrator.errors import ConfigError, DeadlineError, ServerUnavailableError
from orchestrator.profile import EnergyTable, LatencyTable
from orchestrator.router.dispatch.compilation import prepare_decisions
from orchestrator.router.dispatch.dispatcher import Dispatcher
from orchestrator.router.observer import RouterObserver
from orchestrator.router.queue.admission import Admissions, Admitted, Terms, Wishes, admit
from orchestrator.router.queue.request import Answer, Array, PendingRequest
from orchestrator.router.queue.request_queue import Backlog, RequestQueues
from orchestrator.router.queue.response_sink import Reply, Told
from orchestrator.router.queue.shedding import Shedder
from orchestrator.router.servers.fleet import Fleet
from orchestrator.router.servers.membership import Connect, Membership, Resolve
from orchestrator.router.servers.profile_priors import ProfileStarts
from orchestrator.router.servers.server_link import ServerClient
from orchestrator.snapshot import Preference, ServedModel, ServerName, Width
from orchestrator.triton.discovery import TritonServer
from orchestrator.triton.resolution import resolve_host

log = logging.getLogger(__name__)

_SILENT = RouterObserver()
_FOR_LIFE = ("decision_log", "seed")


def _connect_triton(server: ServerSettings, settings: RouterSettings) -> ServerClient:
    return TritonServer(server.grpc, timeout_s=settings.connect_timeout_s, protocol_key_file=server.protocol_key_file)


class Router:
    """Routes inference requests over servers; an async context manager.

    Args:
        settings: its section of fleet.yaml.
        servers: connections by name.
        starts: what is known of models before they were run.
        observer: is told what happens.

    Example:
        async with Router.from_fleet(load_fleet(Path("fleet.yaml"))) as router:
            answer = await router.infer(pixels, deadline_ms=50, min_accuracy=0.91)
    """

    def __init__(
        self,
        settings: RouterSettings,
        servers: Mapping[ServerName, ServerClient],
        *,
        starts: ProfileStarts | None = None,
        observer: RouterObserver = _SILENT,
    ) -> None:
        self._membership: Membership | None = None
        self._resolving: asyncio.Task[None] | None = None
        self._settings = settings
        self._fleet = Fleet(settings, servers, observer, starts or ProfileStarts())
        self._lanes = RequestQueues()
        self._shedder = Shedder(settings, self._lanes, self._fleet, observer)
        self._dispatcher = Dispatcher(settings, self._lanes, self._fleet, self._shedder, observer)
        self._admissions = Admissions()
        self._closing = False
        self._closed_by_s = math.inf

    @classmethod
    def from_fleet(
        cls,
        fleet: FleetSettings,
        *,
        observer: RouterObserver = _SILENT,
        connect: Connect = _connect_triton,
        resolve: Resolve = resolve_host,
    ) -> Self:
        """Return a router over the Tritons of a fleet; call it with an event loop running.

        Args:
            fleet: all of it.
            observer: is told what happens.
            connect: makes the connection to a server.
            resolve: returns the addresses of a host name, each of which is a server.

        Raises:
            ConfigError: when a key file or the profile can't be used.
        """
        membership = Membership(fleet, connect, resolve)
        router = cls(fleet.router, membership.clients(), starts=membership.starts, observer=observer)
        router._membership = membership
        return router

    @property
    def membership(self) -> Membership | None:
        """Which servers there are now; None for a router that was not made by ``from_fleet``."""
        return self._membership

    def reconfigure(self, fleet: FleetSettings) -> None:
        """Go on with other servers and settings, losing no request; returns at once.

        Servers that are new, or have another address or key, are connected to; those that are gone get nothing more
        and finish what they have. What was bound to them is bound anew.

        Raises:
            ConfigError: when the policy, a key file or the profile can't be used, or the router was not made by
                ``from_fleet``; then nothing has changed.
        """
        if self._membership is None:
            raise ConfigError("this router was given its connections; make it with Router.from_fleet to change them")
        deciders = self._dispatcher.make_deciders(fleet.router)
        for name in _FOR_LIFE:
            if getattr(fleet.router, name) != getattr(self._settings, name):
                log.warning("router.%s has changed; start again for it to take effect", name)
        self._membership.reconfigure(fleet, self._fleet)
        self._settings = fleet.router
        self._admissions = Admissions()
        self._shedder.reconfigure(fleet.router)
        self._dispatcher.reconfigure(fleet.router, deciders)
        self._dispatcher.wake()

    async def __aenter__(self) -> Self:
        await prepare_decisions()
        try:
            if self._membership is not None:
                await self._membership.resolve(self._fleet)
            await self._fleet.open(self._dispatcher.wake)
        except BaseException:
            await self._fleet.close(drain_s=0.0)
            raise
        if self._membership is not None:
            self._resolving = asyncio.create_task(self._membership.watch(self._fleet))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._closing = True
        clock = asyncio.get_running_loop().time
        until_s = min(clock() + self._settings.drain_s, self._closed_by_s)
        for request in self._lanes.take_all():
            request.give_up(ServerUnavailableError("the router is closing", executed=False))
        try:
            await self._dispatcher.close(until_s=until_s)
        finally:
            if self._resolving is not None:
                self._resolving.cancel()
                await asyncio.gather(self._resolving, return_exceptions=True)
            self._shedder.close()
            await self._fleet.stop()
            await self._fleet.close(drain_s=max(0.0, until_s - clock()))

    def close_by(self, until_s: float) -> None:
        """Let closing wait for answers no longer than until then on the event loop's clock, whatever ``drain_s``."""
        self._closed_by_s = until_s

    async def infer(
        self,
        array: Array,
        *,
        deadline_ms: float | None = None,
        min_accuracy: float | None = None,
        width: Width | None = None,
        family: str | None = None,
        priority: int = 0,
        max_joules: float | None = None,
        preference: Preference | None = None,
    ) -> Answer:
        """Return the answer for one item or one batch of items, with what was decided for it.

        Args:
            array: of the family's input type; one item, or a batch with the items first. A batch is never split.
                It is not copied, so leave it unchanged until the answer is there.
            deadline_ms: from now; decides the order and the width. A request that waits is refused when its deadline
                can't be kept any more, and one that was sent and is not answered by then fails; unless
                ``overload.shed_late`` is off. None: the router's default, for which neither happens. One not below the
                router's request timeout is as good as none.
            min_accuracy: only widths of at least this accuracy, 0..1.
            width: only this width, in percent.
            family: may be left out when the fleet serves one family only.
            priority: 1 is served first; 0, or a level that there is not, is the default level.
            max_joules: an item may cost, sent alone.
            preference: what counts among what is in time; None: what the router's policy goes by.

        Raises:
            ConfigError: when array, family, width, accuracy or joules can't be served.
            CapacityError: when the queue is full, or the deadline can't be kept; says when to come again.
            DeadlineError: when there was no answer within the deadline or the router's request timeout.
            SlimError: when the servers failed it.
        """
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        wishes = Wishes(deadline_ms, priority, Terms(min_accuracy or 0.0, width, max_joules, preference))
        request = self._submit(array, family, wishes, future)
        try:
            return await future
        finally:
            self._shedder.end(request)
            del future, request  # an error holds this frame, and the future the error; it would take the collector

    def submit(
        self,
        array: Array,
        reply: Reply,
        *,
        deadline_ms: float | None = None,
        min_accuracy: float | None = None,
        width: Width | None = None,
        family: str | None = None,
        priority: int = 0,
        max_joules: float | None = None,
        preference: Preference | None = None,
    ) -> None:
        """Take a request as ``infer`` does, and return at once; what ``infer`` would return or raise later is replied.

        Args:
            array: as for ``infer``, and so are those below.
            reply: is told once, unless it is cancelled or this raises.
            deadline_ms: see there.
            min_accuracy: see there.
            width: see there.
            family: see there.
            priority: see there.
            max_joules: see there.
            preference: see there.

        Raises:
            ConfigError: as ``infer``.
            CapacityError: when the queue is full.
            DeadlineError: when the deadline has passed as it comes.
        """
        wishes = Wishes(deadline_ms, priority, Terms(min_accuracy or 0.0, width, max_joules, preference))
        request = self._submit(array, family, wishes, reply)
        if reply.done():  # it comes too late
            self._shedder.end(request)
        else:
            reply.on_done = partial(self._shedder.end, request)

    def _submit(self, array: Array, family: str | None, wishes: Wishes, told: Told) -> PendingRequest:
        now_s = asyncio.get_running_loop().time()
        deadline_ms, priority = wishes.deadline_ms, wishes.priority
        timeout_s = self._settings.request_timeout_s
        has_own_deadline = deadline_ms is not None and deadline_ms / 1e3 < timeout_s
        if deadline_ms is None:
            deadline_ms = self._settings.deadline_ms
        if math.isnan(deadline_ms) or deadline_ms == -math.inf:
            raise ConfigError(f"deadline_ms = {deadline_ms} is no time; give milliseconds from now")
        key, batch, is_single = self._admit(array, family, wishes.terms)
        overload = self._settings.overload
        if has_own_deadline and overload.shed_late and deadline_ms <= 0:
            raise DeadlineError(
                f"deadline_ms = {deadline_ms:g} has passed as it comes; leave some time", executed=False
            )
        request = PendingRequest(
            batch,
            is_single,
            now_s,
            now_s + min(deadline_ms / 1e3, timeout_s),
            told,
            priority=priority if 1 <= priority <= overload.priority_levels else overload.default_priority,
            has_own_deadline=has_own_deadline and overload.shed_late,
        )
        self._shedder.begin(request)
        try:
            self._lanes.push(key, request)
            self._dispatcher.wake_for_arrival()
        except BaseException:
            self._shedder.end(request)
            raise
        return request

    def models(self, family: str | None = None) -> tuple[ServedModel, ...]:
        """Return one model for each width that some server serves, ascending.

        Raises:
            ConfigError: when the family is unknown, or not named although there are several.
        """
        return self._fleet.models(family)

    @property
    def backlog(self) -> Backlog:
        """What waits now."""
        return self._lanes.backlog

    @property
    def latency(self) -> LatencyTable:
        """What groups are expected to take, from all that was observed so far."""
        return self._fleet.latency

    @property
    def energy(self) -> EnergyTable:
        """What groups cost in joules, as far as the profile knows."""
        return self._fleet.energy

    def served_by(self, family: str | None = None) -> Mapping[ServerName, tuple[ServedModel, ...]]:
        """Return, for each server that answers, the widths of a family that it serves, ascending.

        Raises:
            ConfigError: as ``models``.
        """
        name = self.models(family)[0].family
        return {link.name: link.models_of(name) for link in self._fleet.links.values() if link.is_healthy}

    def _admit(self, array: Array, family: str | None, terms: Terms) -> Admitted:
        links = self._fleet.links.values()
        served = [link.served for link in links]
        admitted = self._admissions.find(array, family, terms, served)
        if admitted is None:
            name = self.models(family)[0].family
            offered = [(link.name, m) for link in links for m in link.served if m.family == name]
            admitted = admit(array, terms, offered, self._fleet.energy)
            self._admissions.keep(array, family, terms, admitted)
        if self._closing:
            raise ServerUnavailableError("the router is closing", executed=False)
        return admitted
