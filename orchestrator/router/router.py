"""The router: admit, queue, decide and send, answer.

One event loop, no locks: every change of state happens between two awaits. Requests wait in ``queue``; ``dispatch``
decides on them, sends them, and looks after what was sent; ``servers`` are the connections and their health.

Every accepted request is answered once: its response sink takes a batch's answer or failure, or the error of being
shed, of its timeout, or of the closing of the router; or its caller cancels it. Nothing else touches it.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Self

from orchestrator.background import BackgroundTasks
from orchestrator.config import FleetSettings, RouterSettings, ServerSettings
from orchestrator.errors import ConfigError, DeadlineError, ServerUnavailableError
from orchestrator.http2.grpc.channel import ConnectionPool
from orchestrator.request_options import RequestOptions
from orchestrator.router.dispatch.compilation import prepare_decisions
from orchestrator.router.dispatch.dispatcher import Dispatcher
from orchestrator.router.observer import RouterObserver
from orchestrator.router.overview import FleetOverview, RouterInspection, describe_fleet, inspect_router
from orchestrator.router.queue.eligibility import Eligible, KnownEligibility
from orchestrator.router.queue.request import Answer, CallbackSink, Items, PendingRequest, ResponseSink, Transit
from orchestrator.router.queue.request_queue import RequestQueues
from orchestrator.router.queue.shedding import Shedder
from orchestrator.router.servers.connection import ServerClient
from orchestrator.router.servers.fleet import Fleet
from orchestrator.router.servers.membership import Connect, Membership, ResolvedNames
from orchestrator.router.servers.outages import describe_outage, describe_servers
from orchestrator.router.servers.profile_priors import ProfileStarts
from orchestrator.router.share import ELSEWHERE, FleetShare
from orchestrator.snapshot import UNKNOWN_DEVICE, DeviceState, Preference, ServedModel, ServerName, Width
from orchestrator.triton.client import TritonClient
from orchestrator.triton.discovery import ModelDiscovery
from orchestrator.triton.families import Described, describe_models
from orchestrator.triton.protocol_key import read_protocol_key

log = logging.getLogger(__name__)

_SILENT = RouterObserver()


def connect_triton(
    server: ServerSettings,
    settings: RouterSettings,
    *,
    pool: ConnectionPool | None = None,
    discovery: ModelDiscovery[Any] | None = None,
    described: Described | None = None,
) -> ServerClient:
    """Return a client of a Triton, over a connection of the pool where there is one.

    What the Triton serves is asked by the discovery where there is one, which has to know the server by then; else by
    the client, to which ``described`` is what the fleet file says of models.

    Raises:
        ConfigError: when its protocol key file can't be used.
    """
    return TritonClient(
        server.grpc,
        name=server.name,
        timeout_s=settings.connect_timeout_s,
        protocol_key=read_protocol_key(server.protocol_key_file),
        pool=pool,
        discover=None if discovery is None else partial(discovery.served_models, ServerName(server.name)),
        described=described,
    )


class Router:
    """Routes inference requests over servers, of which it is given the clients; an async context manager.

    Attributes:
        membership: Which servers there are now; None for a router that was not made by ``from_fleet``.
        share: Which of them it drives, where several gateways share them.

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
        requires_server: bool = True,
        unix_clock: Callable[[], float] = time.time,
    ) -> None:
        self.membership: Membership | None = None
        self._background = BackgroundTasks(observer.on_background_failure)
        self._settings = settings
        self._requires_server = requires_server
        self._observer = observer
        self._fleet = Fleet(settings, servers, observer, starts or ProfileStarts())
        self._queues = RequestQueues(settings.family_weights)
        connections = self._fleet.servers
        describe, outage = partial(describe_servers, connections), partial(describe_outage, connections)
        self._shedder = Shedder(settings, self._queues, observer, describe, outage)
        self._dispatcher = Dispatcher(
            settings, self._queues, self._fleet, self._shedder, observer, unix_clock=unix_clock
        )
        self.share = FleetShare(self._fleet, self._queues, self._dispatcher.sender)
        self._eligibility = KnownEligibility()
        self._closing = False
        self._closed_by_s = math.inf

    @classmethod
    def from_fleet(
        cls,
        fleet: FleetSettings,
        *,
        observer: RouterObserver = _SILENT,
        connect: Connect | None = None,
        names: ResolvedNames | None = None,
        requires_server: bool = True,
    ) -> Self:
        """Return a router over the Tritons of a fleet; call it with an event loop running.

        ``names`` look host names up, each address of which is a server; None: in the system's way. ``connect`` returns
        the client of a server; None: a client of its Triton, which reads the fleet's ``families`` as they are now. With
        ``requires_server`` opening it fails while none serves anything; else it serves as soon as one does.

        Raises:
            ConfigError: A key file or the profile can't be used.
        """
        connect = connect or partial(connect_triton, described=describe_models(fleet.families))
        membership = Membership(fleet, connect, names or ResolvedNames())
        router = cls(
            fleet.router,
            membership.clients(),
            starts=membership.starts,
            observer=observer,
            requires_server=requires_server,
        )
        router.membership = membership
        return router

    def reconfigure(self, fleet: FleetSettings) -> None:
        """Go on with other servers and settings, losing no request; returns at once.

        Servers that are new, or have another address or key, are connected to; those that are gone get nothing more
        and finish what they have. What was bound to them is bound anew.

        Raises:
            ConfigError: The policy, a key file or the profile can't be used, or the router was not made by
                ``from_fleet``; then nothing has changed.
        """
        if self.membership is None:
            raise ConfigError("this router was given its connections; make it with Router.from_fleet to change them")
        self._dispatcher.live.check(fleet.router)
        fixed = {name: getattr(self._settings, name) for name in ("decision_log", "seed")}
        for name, value in fixed.items():
            if getattr(fleet.router, name) != value:
                log.warning("router.%s has changed; start again for it to take effect", name)
        self.membership.reconfigure(fleet, self._fleet)
        self._settings = fleet.router.model_copy(update=fixed)  # what is told of them is what is so
        self._eligibility = KnownEligibility()
        self._shedder.settings = self._dispatcher.settings = fleet.router
        self._queues.turns.reweigh(fleet.router.family_weights)
        self._dispatcher.live.reconfigure(fleet.router)
        self._dispatcher.wake()

    async def __aenter__(self) -> Self:
        if self._closing:
            raise RuntimeError("the router is closed; make another one")
        await prepare_decisions()
        try:
            if self.membership is not None:
                await self.membership.resolve(self._fleet)
            await self._fleet.open(self._dispatcher.wake, requires_server=self._requires_server)
        except BaseException:
            await self._fleet.close(drain_s=0.0)
            raise
        self._background.start("following the policy's file", self._dispatcher.live.watch)
        if self.membership is not None:
            self._background.start("resolving names", partial(self.membership.watch, self._fleet))
        return self

    async def __aexit__(self, *_: object) -> None:
        self._closing = True
        clock = asyncio.get_running_loop().time
        until_s = min(clock() + self._settings.drain_s, self._closed_by_s)
        for request in self._queues.take_all():
            request.give_up(ServerUnavailableError("the router is closing", executed=False))
        try:
            await self._dispatcher.close(until_s=until_s)
        finally:
            await self._background.stop()
            self._shedder.close()
            await self._fleet.close(drain_s=max(0.0, until_s - clock()))

    def watch_unread(self, unread_bytes: Callable[[], int]) -> None:
        """Reckon with requests that have come in front of the router and were not read, of about so many bytes."""
        self._dispatcher.unread_bytes = unread_bytes

    @property
    def sees_devices(self) -> bool:
        """Whether anybody who decides, or is to, looks at what the devices of servers show."""
        return self._dispatcher.deciders.sees_devices

    def note_devices(self, states: Mapping[ServerName, DeviceState]) -> None:
        """Let decisions know what the devices of servers show; nothing is known any more of one that is not named."""
        for name, server in self._fleet.servers.items():
            server.device = states.get(name, UNKNOWN_DEVICE)

    def close_by(self, until_s: float) -> None:
        """Let closing wait for answers no longer than until then on the event loop's clock, whatever ``drain_s``."""
        self._closed_by_s = until_s

    async def infer(
        self,
        items: Items,
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

        The items are the array of the family's input, or a mapping of the names of its inputs to arrays. They are of
        the input's type (text and bytes in arrays of objects): one item, or a batch with the items first, which is
        never split. They are not copied, so leave them unchanged until the answer is there. The options are those of
        ``RequestOptions``; a priority level that there is not is the default one.

        The deadline decides the order and the width. A request that waits is refused when its deadline can't be kept
        any more, and one that was sent and is not answered by then fails; unless ``overload.shed_late`` is off. Neither
        happens for the router's default deadline, or for one not below its request timeout.

        Raises:
            ConfigError: Items, family, width, accuracy or joules can't be served.
            CapacityError: The queue is full, or the deadline can't be kept; says when to come again.
            DeadlineError: There was no answer within the deadline or the router's request timeout.
            SlimError: The servers failed it.
        """
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        options = RequestOptions(deadline_ms, min_accuracy, width, family, priority, max_joules, preference)
        request = self._submit(items, options, future)
        try:
            return await future
        finally:
            self._shedder.end(request)
            del future, request  # an error holds this frame, and the future the error; it would take the collector

    def submit(self, items: Items, options: RequestOptions, sink: CallbackSink, transit: Transit | None = None) -> None:
        """Take a request as ``infer`` does and return at once.

        ``sink`` takes what ``infer`` would return or raise later; once, unless it is cancelled or this raises. Of its
        deadline what its ``transit`` takes is spent; without one it has come now.

        Raises:
            ConfigError: As for ``infer``.
            CapacityError: The queue is full.
            ServerUnavailableError: Other gateways drive all that it could run on.
            DeadlineError: The deadline has passed as the request comes.
        """
        request = self._submit(items, options, sink, transit)
        if sink.done():  # it comes too late
            self._shedder.end(request)
        else:
            sink.on_done = partial(self._shedder.end, request)

    def _submit(
        self, items: Items, options: RequestOptions, sink: ResponseSink, transit: Transit | None = None
    ) -> PendingRequest:
        now_s = asyncio.get_running_loop().time()
        if transit is None:
            transit = Transit(now_s)
        deadline_ms, priority = options.deadline_ms, options.priority
        timeout_s = self._settings.request_timeout_s
        has_own_deadline = deadline_ms is not None and deadline_ms / 1e3 < timeout_s
        if deadline_ms is None:
            deadline_ms = self._settings.deadline_ms
        if math.isnan(deadline_ms) or deadline_ms == -math.inf:
            raise ConfigError(f"deadline_ms = {deadline_ms} is no time; give milliseconds from now")
        key, batch, is_single = self._admit(items, options)
        if self._fleet.is_elsewhere(key):
            raise ServerUnavailableError(ELSEWHERE, executed=False)
        overload = self._settings.overload
        if has_own_deadline and overload.shed_late and deadline_ms <= 0:
            raise DeadlineError(
                f"deadline_ms = {deadline_ms:g} has passed as it comes; leave some time", executed=False
            )
        request = PendingRequest(
            batch,
            is_single,
            transit.arrived_s,
            transit.arrived_s + min(deadline_ms / 1e3, timeout_s) - transit.return_s,
            sink,
            priority=priority if 1 <= priority <= overload.priority_levels else overload.default_priority,
            has_own_deadline=has_own_deadline and overload.shed_late,
            given_s=min(deadline_ms / 1e3, timeout_s),
            transit_s=max(0.0, now_s - transit.arrived_s) + transit.return_s,
            family=key.family,
            trace=transit.trace,
        )
        self._dispatcher.live.note_arrival(request.arrived_s)
        self._shedder.begin(request)
        try:
            self._queues.arrive(key, request)
            if request.is_queued:  # who is refused at once changes nothing
                self._dispatcher.wake_for_arrival()
        except BaseException:
            self._shedder.end(request)
            raise
        return request

    def models(self, family: str | None = None) -> tuple[ServedModel, ...]:
        """Return one model for each width that some server serves, ascending.

        Raises:
            ConfigError: The family is unknown, or not named although there are several.
        """
        return self._fleet.models(family)

    def inspect(self) -> RouterInspection:
        """Return what the router holds now."""
        return inspect_router(self._queues, self._dispatcher, self._fleet)

    async def describe(self) -> FleetOverview:
        """Return what is known of the fleet and of who decides; of many families it takes several turns of the loop."""
        servers = () if self.membership is None else self.membership.servers
        device_classes = {server.name: server.device_class for server in servers}
        return await describe_fleet(self._settings, self._fleet, self._dispatcher.live, device_classes)

    def served_by(self, family: str | None = None) -> Mapping[ServerName, tuple[ServedModel, ...]]:
        """Return, for each server that answers, the widths of a family that it serves, ascending.

        Raises:
            ConfigError: as ``models``.
        """
        name = self.models(family)[0].family
        return {s.name: s.models_of(name) for s in self._fleet.servers.values() if s.health.is_healthy}

    def _admit(self, items: Items, options: RequestOptions) -> Eligible:
        servers = self._fleet.servers.values()

        def offered() -> list[tuple[ServerName, ServedModel]]:
            family = self.models(options.family)[0].family
            return [(server.name, m) for server in servers for m in server.served if m.family == family]

        served = [server.served for server in servers]
        admitted = self._eligibility.judge(items, options, served, offered, self._fleet.times.energy)
        if self._closing:
            raise ServerUnavailableError("the router is closing", executed=False)
        return admitted
