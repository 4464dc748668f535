"""The loop that decides and sends.

Whenever something changes (a request, an answer, a server's health) ``wake`` schedules one pass for the next turn of
the event loop; so callers that arrive together are seen together and can share a group. A pass asks the policy about
the most urgent head until it holds. What it decides goes out by ``sending``.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import math
import random
import secrets
from collections.abc import Sequence
from dataclasses import replace

from orchestrator.config import RouterSettings
from orchestrator.decision import Dispatch, Hold, Reject
from orchestrator.errors import PermanentError
from orchestrator.policies import Binding, CandidateSet, Outcome, Situation
from orchestrator.router.dispatch.batch import Batch
from orchestrator.router.dispatch.deciders import Deciders, make_deciders
from orchestrator.router.dispatch.decision_log import DecisionLog, Record
from orchestrator.router.dispatch.kept_tables import KeptTables
from orchestrator.router.dispatch.sender import Sender
from orchestrator.router.dispatch.splitting import part_of
from orchestrator.router.observer import RouterObserver
from orchestrator.router.queue.overload import Shed, estimate, take_late
from orchestrator.router.queue.request import PendingRequest
from orchestrator.router.queue.request_queue import RequestQueue, RequestQueues
from orchestrator.router.queue.shedding import Shedder
from orchestrator.router.servers.fleet import Fleet
from orchestrator.router.servers.server_link import ServerLink
from orchestrator.snapshot import BatchInFlight, ModelName, Width

log = logging.getLogger(__name__)


_EARLY_S = 1e-5  # timers may fire a little early, and a policy asked too early would hold again


class Dispatcher:
    """Serves the lanes: each head is bound, sent, held or given up.

    Args:
        settings: of the router.
        lanes: requests wait in.
        fleet: they go to.
        shedder: gives up what can't be served.
        observer: is told of decisions and groups.
    """

    def __init__(
        self, settings: RouterSettings, lanes: RequestQueues, fleet: Fleet, shedder: Shedder, observer: RouterObserver
    ) -> None:
        self._settings = settings
        self._lanes = lanes
        self._fleet = fleet
        self._shedder = shedder
        self._observer = observer
        self._deciders = self.make_deciders(settings)
        self._tables = KeptTables()
        self._random = random.Random(settings.seed)
        self._turns = itertools.count()
        self._batches = itertools.count(1)
        self._run_id = secrets.token_hex(3)  # tells the decisions of one router's life from another's
        sampled = settings.decision_log
        self._log = None if sampled is None else DecisionLog(sampled, self._run_id)
        self._sender = Sender(fleet, lanes, observer, self.wake, self._learn, self._log)
        self._changes = 0  # of anything but what waits
        self._is_scheduled = False
        self._is_closing = False
        # When a policy that holds wants to be asked again; its time beside, because uvloop's handle of a timer that is
        # due at once can't tell it.
        self._alarm: asyncio.TimerHandle | None = None
        self._alarm_s = math.inf

    def make_deciders(self, settings: RouterSettings) -> Deciders:
        """Return who decides by such settings.

        Raises:
            ConfigError: when there is no such policy, or its file can't be used.
        """
        return make_deciders(settings, self._observer)

    def reconfigure(self, settings: RouterSettings, deciders: Deciders) -> None:
        """Decide by other settings and the policies that they name from now on."""
        self._settings, self._deciders = settings, deciders

    def wake(self) -> None:
        """Look at all lanes in the next turn of the event loop, if anything waits in them, because of some change."""
        self._changes += 1
        self.wake_for_arrival()

    def wake_for_arrival(self) -> None:
        """Look at all lanes likewise, because a request has come; that alone makes room for none."""
        if not self._is_scheduled and not self._is_closing and self._lanes.backlog.requests:
            self._is_scheduled = True
            asyncio.get_running_loop().call_soon(self._pass)

    async def close(self, *, until_s: float) -> None:
        """Send nothing more, wait for what is under way, no longer than until then, and end the rest."""
        self._is_closing = True
        if self._alarm is not None:
            self._alarm.cancel()
        try:
            await self._sender.close(until_s=until_s)
        finally:
            if self._log is not None:
                self._log.close()

    # --- decide ---

    def _pass(self) -> None:
        self._is_scheduled = False
        self._sender.settle()
        self._rebind_lost()
        # A generator: after each thing done the most urgent head is looked for again.
        while any(self._serve(lane, head) for lane, head in self._lanes.heads()):
            pass

    def _rebind_lost(self) -> None:
        """Take requests back from servers that are gone or no longer serve the width."""
        for key in self._lanes.bound_keys():
            if self._fleet.has_lost(key):
                for request in self._lanes.take_all(key):
                    self._lanes.push(key.unbound(), request)

    def _serve(self, lane: RequestQueue, head: PendingRequest) -> bool:
        """Bind, send or shed the head of a lane if possible; return whether anything was done."""
        if lane.key.bound_to is not None:
            server, width = lane.key.bound_to
            return self._send(self._fleet.links[server], lane, width, lane.items)
        if head.held_at == self._changes and not self._has_room():
            return False  # it held, nothing but requests has come, and nothing could be sent
        candidate_set = self._candidate_set(lane, head)
        if not candidate_set:
            return self._decide(lane, head, candidate_set)
        self._lanes.note_estimate(lane, estimate(candidate_set))
        late = self._take_late(lane, candidate_set) if head.has_own_deadline and not head.under_way else ()
        for request in late:
            self._shedder.shed(request, Shed.LATE, "its deadline can't be kept at any width that it allows")
        return bool(late) or self._decide(lane, head, candidate_set)

    def _has_room(self) -> bool:
        """Return whether some server may be sent a group."""
        return any([link.is_healthy and len(link.in_flight) < link.batch_limit for link in self._fleet.links.values()])

    def _candidate_set(self, lane: RequestQueue, head: PendingRequest) -> CandidateSet:
        """Return what could be done with the head of a lane."""
        key, links = lane.key, self._fleet.links
        states = [link.state(key.family, self._bound_items(link)) for link in links.values()]
        tables = self._tables.mend(key.family, states, self._fleet.latency, self._fleet.energy)
        situation = Situation(
            lane.state(head),
            asyncio.get_running_loop().time(),
            next(self._turns),
            (self._random.random(), self._random.random()),
            self._settings.slack_margin,
            tables.memory,
        )
        candidate_set = CandidateSet(tables, situation, key.avoid)
        suspects = self._fleet.suspects
        if candidate_set and suspects:
            candidate_set.exclude(key.avoid | suspects)
        return candidate_set

    def _take_late(self, lane: RequestQueue, candidate_set: CandidateSet) -> Sequence[PendingRequest]:
        """Remove and return the heads of a lane that are to be shed as late."""
        situation = candidate_set.situation
        margin, tail_slack_s = situation.slack_margin, situation.queue.tail_deadline_s - situation.now_s
        if candidate_set.drain_s * margin <= tail_slack_s and situation.is_in_time(candidate_set.soonest_s):
            return ()  # take_late would say so too, after looking at all candidates
        return take_late(
            lane,
            candidate_set.reachable,
            situation.queue,
            drain_s=candidate_set.drain_s,
            idle={link.name for link in self._fleet.links.values() if not link.in_flight},
            now_s=situation.now_s,
            slack_margin=margin,
        )

    def _bound_items(self, link: ServerLink) -> tuple[tuple[ModelName, int], ...]:
        if not self._lanes.has_bound:
            return ()
        bound = [(link.model(key.family, width), items) for key, width, items in self._lanes.bound_items(link.name)]
        return tuple((model.name, items) for model, items in bound if model is not None)

    def _decide(self, lane: RequestQueue, head: PendingRequest, candidate_set: CandidateSet) -> bool:
        """Do with the head of a lane what a policy says; return whether anything was done."""
        queue, now_s = candidate_set.situation.queue, candidate_set.situation.now_s
        policy = self._deciders.policies[queue.preference is not None]
        is_idle = not any([link.in_flight for link in self._fleet.links.values()])
        try:
            decision, name, fault = policy.decide(
                candidate_set, is_idle=is_idle, stale=self._fleet.stale(candidate_set, now_s=now_s)
            )
        except Exception as exc:  # of the fallback too
            what = f"policy {policy.policy.name} and its fallback failed"
            log.exception("%s", what)
            head.give_up(PermanentError(f"{what}: {type(exc).__name__}: {exc}"))
            return True
        shadowed = None
        if self._deciders.shadow is not None:
            shadowed = self._deciders.shadow.compare(
                decision, candidate_set.candidates, candidate_set.situation, is_idle=is_idle
            )
        record = None
        if self._log is not None and not isinstance(decision, Hold) and self._log.is_sampled():
            record = self._log.describe(
                candidate_set.candidates,
                candidate_set.situation,
                decision,
                family=lane.key.family,
                policy=name,
                fault=fault,
                shadow=shadowed,
            )
        match decision:
            case Hold(_, until_s):
                head.held_at = self._changes
                if until_s is not None and until_s > now_s:
                    self._wake_at(min(until_s, queue.head_deadline_s) if queue.head_deadline_s > now_s else until_s)
                return False
            case Reject(reason):
                self._shedder.shed(head, Shed.REJECTED, f"policy {name} gave it up: {reason}")
                if self._log is not None and record is not None:
                    self._log.write(record, self._new_id(), {"error": "rejected"})
                return True
            case Dispatch(chosen):
                if policy.binding is Binding.LATE:
                    link = self._fleet.links[chosen.server]
                    return self._send(link, lane, chosen.width, chosen.items, policy=name, record=record)
                bound = replace(lane.key, bound_to=(chosen.server, chosen.width))
                for request in lane.take(head.items):
                    request.policy, request.record = name, record
                    self._lanes.push(bound, request)
                return True

    def _new_id(self) -> str:
        return f"{self._run_id}-{next(self._batches)}"

    def _wake_at(self, when_s: float) -> None:
        """Ask again then, at the latest."""
        when_s += _EARLY_S
        if self._alarm is not None:
            if self._alarm_s <= when_s:
                return
            self._alarm.cancel()
        self._alarm_s = when_s
        self._alarm = asyncio.get_running_loop().call_at(when_s, self._ring)

    def _ring(self) -> None:
        self._alarm = None
        self.wake()

    # --- send ---

    def _send(
        self,
        link: ServerLink,
        lane: RequestQueue,
        width: Width,
        items: int,
        *,
        policy: str | None = None,
        record: Record | None = None,
    ) -> bool:
        """Send a group from the head of a lane on, if the server has room; return whether it was sent.

        Args:
            link: to the server.
            lane: not empty.
            width: to run at.
            items: in it, at the most.
            policy: that decided; None: when they were bound, which each request knows itself.
            record: of the decision for the log; None: likewise.
        """
        model = link.model(lane.key.family, width)
        if model is None or not link.has_room_for(model):
            return False
        items = min(items, model.max_batch_size)
        if items >= lane.items:
            line = self._fleet.latency.line(link.name, model, link.models_of(lane.key.family))
            items = part_of(lane.items, link.free_batches(model), *line)
        requests = lane.take(items)
        sent = BatchInFlight(model.name, sum([r.items for r in requests]), asyncio.get_running_loop().time())
        energy = self._fleet.energy.line(link.name, model.name)
        if policy is not None:
            for request in requests:
                request.policy = policy
        record = record or requests[0].record
        self._sender.send(Batch(self._new_id(), link, model, lane.key, requests, sent, energy, record))
        return True

    def _learn(self, batch: Batch, now_s: float) -> None:
        """Note that a group was answered; the link learns how long it took, and policies what became of it."""
        observing = self._deciders.observing
        siblings = batch.link.models_of(batch.key.family) if observing else ()
        per_item_s, fixed_s = self._fleet.latency.line(batch.link.name, batch.model, siblings)
        took_s = batch.link.finish(batch.sent, now_s=now_s)
        tables = self._tables.of(batch.key.family)
        if not observing or batch.link.name not in tables.names or batch.model.width not in tables.widths:
            return  # nobody wants to know, or it is of a server that has left
        for policy in observing:
            outcome = Outcome(
                server=batch.link.name,
                width=batch.model.width,
                items=batch.sent.items,
                expected_s=per_item_s * batch.sent.items + fixed_s,
                took_s=took_s,
                is_in_time=all(now_s <= request.deadline_s for request in batch.requests),
                now_s=now_s,
            )
            policy.observe(tables.memory, outcome)
