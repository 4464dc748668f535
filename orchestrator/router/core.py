"""The router's loop: admit, decide, send, answer.

One event loop, no locks: every change of state happens between two awaits. Whenever something changes (a request,
an answer, a server's health) ``_wake`` schedules one ``_pump`` for the next turn of the loop; so callers that arrive
together are seen together and can share a group. ``_pump`` asks the policy about the earliest head until it holds.

Every accepted request is answered once: its future is resolved by its group's task, by a failure, by the closing
of the router, or cancelled by its own caller, and nothing else touches it. Groups under way are never cancelled
while a server runs them (see orchestrator.triton.client); closing waits for them, bounded by ``drain_s``.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import math
import random
import secrets
from collections.abc import Mapping
from dataclasses import replace
from types import TracebackType
from typing import Self

from orchestrator.config import FleetSettings, RouterSettings, ServerSettings
from orchestrator.decision import Candidate, Dispatch, Reject
from orchestrator.errors import (
    CapacityError,
    ConfigError,
    DeadlineError,
    PermanentError,
    ServerUnavailableError,
    SlimError,
    TransientError,
    WrongAnswerError,
)
from orchestrator.profile import EnergyTable, LatencyTable
from orchestrator.router.attempts import Attempts
from orchestrator.router.fleet import Fleet
from orchestrator.router.group import Group
from orchestrator.router.lanes import Lane, Lanes
from orchestrator.router.link import ServerClient, ServerLink
from orchestrator.router.membership import Connect, Membership, Resolve
from orchestrator.router.observer import RouterObserver
from orchestrator.router.request import Answer, Array, LaneKey, PendingRequest, as_batch
from orchestrator.router.start import ProfileStarts
from orchestrator.routing import Binding, Situation, build_candidates, parse_policy, prepare
from orchestrator.snapshot import GroupInFlight, ModelName, ServedModel, ServerName, Width
from orchestrator.triton.discovery import TritonServer
from orchestrator.triton.resolution import resolve_host

log = logging.getLogger(__name__)

_SILENT = RouterObserver()


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
        self._policy = parse_policy(settings.policy)
        self._fleet = Fleet(settings, servers, observer, starts or ProfileStarts())
        self._lanes = Lanes()
        self._attempts = Attempts(self._fleet, self._lanes, observer, self._wake)
        self._random = random.Random(settings.seed)
        self._turns = itertools.count()
        self._groups = itertools.count(1)
        self._run_id = secrets.token_hex(3)  # tells the decisions of one router's life from another's
        self._pump_scheduled = False
        self._closing = False
        self._tasks: set[asyncio.Task[None]] = set()

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
        policy = parse_policy(fleet.router.policy)
        self._membership.reconfigure(fleet, self._fleet)
        self._settings, self._policy = fleet.router, policy
        self._wake()

    async def __aenter__(self) -> Self:
        prepare()
        try:
            if self._membership is not None:
                await self._membership.resolve(self._fleet)
            await self._fleet.open(self._wake)
        except BaseException:
            await self._fleet.close()
            raise
        if self._membership is not None:
            self._resolving = asyncio.create_task(self._membership.watch(self._fleet))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._closing = self._attempts.is_closing = True
        for request in self._lanes.take_all():
            _fail(request, ServerUnavailableError("the router is closing", executed=False))
        try:
            await self._drain()
        finally:
            remaining = [*self._tasks, *([self._resolving] if self._resolving else [])]
            for task in remaining:
                task.cancel()
            await asyncio.gather(*remaining, return_exceptions=True)
            await self._fleet.stop()
            await self._fleet.close()

    async def _drain(self) -> None:
        """Wait, not too long, for groups that somebody still waits for."""
        loop = asyncio.get_running_loop()
        until_s = loop.time() + self._settings.drain_s
        while (awaited := self._tasks - self._attempts.given_up) and loop.time() < until_s:
            await asyncio.wait(awaited, timeout=until_s - loop.time(), return_when=asyncio.FIRST_COMPLETED)

    async def infer(
        self,
        array: Array,
        *,
        deadline_ms: float | None = None,
        min_accuracy: float | None = None,
        width: Width | None = None,
        family: str | None = None,
    ) -> Answer:
        """Return the answer for one item or one batch of items, with what was decided for it.

        Args:
            array: of the family's input type; one item, or a batch with the items first. A batch is never split.
                It is not copied, so leave it unchanged until the answer is there.
            deadline_ms: from now; decides the order and the width. A late answer is still given. One beyond the
                router's request timeout is as good as none.
            min_accuracy: only widths of at least this accuracy, 0..1.
            width: only this width, in percent.
            family: may be left out when the fleet serves one family only.

        Raises:
            ConfigError: when array, family, width or accuracy can't be served.
            CapacityError: when the queue is full.
            DeadlineError: when there was no answer within the router's request timeout.
            SlimError: when the servers failed it.
        """
        loop = asyncio.get_running_loop()
        now_s = loop.time()
        is_own = deadline_ms is not None
        if deadline_ms is None:
            deadline_ms = self._settings.deadline_ms
        if math.isnan(deadline_ms) or deadline_ms == -math.inf:
            raise ConfigError(f"deadline_ms = {deadline_ms} is no time; give milliseconds from now")
        key, batch, is_single = self._admit(array, family, min_accuracy or 0.0, width)
        deadline_s = now_s + min(deadline_ms / 1e3, self._settings.request_timeout_s)
        request = PendingRequest(batch, is_single, now_s, deadline_s, loop.create_future(), is_own)
        self._lanes.push(key, request)
        self._wake()
        try:
            async with asyncio.timeout(self._settings.request_timeout_s):
                return await request.future
        except TimeoutError:
            raise DeadlineError(
                f"no answer within request_timeout_s = {self._settings.request_timeout_s}; "
                f"servers: {self._fleet.describe()}"
            ) from None
        finally:
            if request.withdraw is not None:  # timed out or cancelled while it waited
                request.withdraw()

    def models(self, family: str | None = None) -> tuple[ServedModel, ...]:
        """Return one model for each width that some server serves, ascending.

        Raises:
            ConfigError: when the family is unknown, or not named although there are several.
        """
        return self._fleet.models(family)

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

    def _admit(
        self, array: Array, family: str | None, min_accuracy: float, width: Width | None
    ) -> tuple[LaneKey, Array, bool]:
        models = self.models(family)
        allowed = [
            model
            for link in self._fleet.links.values()
            for model in link.served
            if model.family == models[0].family
            and (width is None or model.width == width)
            and model.accuracy >= min_accuracy
        ]
        if not allowed:
            served = ", ".join(f"{m.width} % ({m.accuracy:.4f})" for m in models)
            raise ConfigError(f"no width has width={width}, min_accuracy={min_accuracy}; served are {served}")
        batch, is_single = as_batch(array, models[0].input)
        most = max(m.max_batch_size for m in allowed)
        if len(batch) > most:
            raise ConfigError(f"a batch of {len(batch)} items exceeds max_batch_size = {most}; split it")
        if self._closing:
            raise ServerUnavailableError("the router is closing", executed=False)
        if self._lanes.items + len(batch) > self._settings.queue_limit:
            raise CapacityError(f"queue_limit = {self._settings.queue_limit} items wait already; retry later")
        widths = tuple(sorted({m.width for m in allowed}))
        key = LaneKey(models[0].family, batch.shape[1:], widths, min_accuracy)
        return key, batch, is_single

    def _wake(self) -> None:
        if not self._pump_scheduled and not self._closing:
            self._pump_scheduled = True
            asyncio.get_running_loop().call_soon(self._pump)

    def _pump(self) -> None:
        self._pump_scheduled = False
        self._rebind_lost()
        # A generator: after each thing done the earliest head is looked for again.
        while any(self._serve_lane(lane, head) for lane, head in self._lanes.heads()):
            pass

    def _rebind_lost(self) -> None:
        """Take requests back from servers that are gone or no longer serve the width."""
        for key in self._lanes.bound_keys():
            if self._fleet.has_lost(key):
                for request in self._lanes.take_all(key):
                    self._lanes.push(key.unbound(), request)

    def _serve_lane(self, lane: Lane, head: PendingRequest) -> bool:
        """Bind or send the head of a lane if possible; return whether anything was done."""
        if lane.key.bound_to is None:
            try:
                candidate = self._decide(lane, head)
            except Exception as exc:
                log.exception("policy %s failed", self._policy.name)
                for request in lane.take(head.items):
                    _fail(request, PermanentError(f"policy {self._policy.name} failed: {type(exc).__name__}: {exc}"))
                return True
            if candidate is None:
                return False
            if self._policy.binding is Binding.EARLY:
                bound = replace(lane.key, bound_to=(candidate.server, candidate.width))
                for request in lane.take(head.items):
                    self._lanes.push(bound, request)
                return True
            server, width, items = candidate.server, candidate.width, candidate.items
        else:
            server, width = lane.key.bound_to
            items = lane.items
        return self._send(self._fleet.links[server], lane, width, items)

    def _decide(self, lane: Lane, head: PendingRequest) -> Candidate | None:
        now_s = asyncio.get_running_loop().time()
        queue = lane.state(head)
        family = lane.key.family
        margin = self._settings.slack_margin
        states = [link.state(family, self._bound_items(link)) for link in self._fleet.links.values()]
        candidates = build_candidates(states, queue, self._fleet.latency, now_s=now_s, slack_margin=margin)
        candidates = self._fleet.preferred(candidates, lane.key.avoid)
        lots = (self._random.random(), self._random.random())
        situation = Situation(queue, now_s, turn=next(self._turns), lots=lots, slack_margin=margin)
        decision = self._policy.choose(candidates, situation)
        if isinstance(decision, Reject):
            for request in lane.take(head.items):
                _fail(request, CapacityError(f"policy {self._policy.name} gave it up: {decision.reason}; retry later"))
            self._wake()  # for those behind it
        return decision.candidate if isinstance(decision, Dispatch) else None

    def _bound_items(self, link: ServerLink) -> tuple[tuple[ModelName, int], ...]:
        bound = [(link.model(key.family, width), items) for key, width, items in self._lanes.bound_items(link.name)]
        return tuple((model.name, items) for model, items in bound if model is not None)

    def _send(self, link: ServerLink, lane: Lane, width: Width, items: int) -> bool:
        model = link.model(lane.key.family, width)
        if model is None or not link.has_room_for(model):
            return False
        requests = lane.take(min(items, model.max_batch_size))
        sent = GroupInFlight(model.name, sum(r.items for r in requests), asyncio.get_running_loop().time())
        link.in_flight.append(sent)
        group = Group(f"{self._run_id}-{next(self._groups)}", link, model, lane.key, requests, sent)
        task = asyncio.create_task(self._run_group(group))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return True

    async def _run_group(self, group: Group) -> None:
        """Send a group and resolve its requests; never raises but when cancelled at closing."""
        link = group.link
        attempt = self._attempts.begin(group)
        try:
            output = await link.client.infer_batch(group.model, group.batch())
            if len(output) != group.sent.items:
                raise WrongAnswerError(f"{link.name} answered {len(output)} items of {group.sent.items}")
        except SlimError as exc:
            if self._attempts.end(attempt):
                self._attempts.fail(group, exc)
        except asyncio.CancelledError:
            self._attempts.end(attempt)
            for request in group.requests:
                _fail(request, ServerUnavailableError("the router closed before the answer came"))
            raise
        except Exception as exc:
            log.exception("sending a group to %s failed unexpectedly", link.name)
            self._attempts.end(attempt)
            for request in group.requests:
                _fail(request, TransientError(f"{link.name}: {type(exc).__name__}: {exc}"))
        else:
            if self._attempts.end(attempt):
                self._answer(group, output)
        finally:
            if not attempt.is_given_up:
                link.in_flight.remove(group.sent)
            self._wake()

    def _answer(self, group: Group, output: Array) -> None:
        now_s = asyncio.get_running_loop().time()
        group.link.finish(group.sent, now_s=now_s)
        self._attempts.note_answered(len(group.requests))
        start = 0
        for request in group.requests:
            part = output[start : start + request.items]
            start += request.items
            if not request.future.done():
                request.future.set_result(group.answer(request, part, now_s=now_s, policy=self._policy.name))


def _fail(request: PendingRequest, error: SlimError) -> None:
    if not request.future.done():
        request.future.set_exception(error)
