"""The loop that decides and sends.

Whenever something changes (a request, an answer, a server's health) ``wake`` schedules one pass for the next turn of
the event loop; so callers that arrive together are seen together and can share a batch. A pass asks the policy about
the most urgent head until it holds. What it decides goes out by ``sender``.

The tables of each family are kept from one decision to the next and updated before each by what has changed. What a
server holds changes with every batch and costs little to write; what it serves, and what is known of its times and
joules, changes rarely or on one server at a time. Servers and their fits are values, so a change is seen by comparing,
and nobody who changes something has to think of the tables.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import math
import random
import secrets
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from orchestrator.config import RouterSettings
from orchestrator.decision import Dispatch, Hold, Reject
from orchestrator.errors import PermanentError, ServerUnavailableError
from orchestrator.policies.family_turns import FairShare
from orchestrator.policies.fleet.candidate_set import CandidateSet
from orchestrator.policies.fleet.fleet_tables import FleetTables
from orchestrator.policies.protocol import Binding, Outcome, Policy, Situation
from orchestrator.policies.queue_rules import slack_used
from orchestrator.profile.fit import EnergyTable, LatencyFit, LatencyTable
from orchestrator.router.dispatch.batch import Batch, part_of
from orchestrator.router.dispatch.deciders import Decided, Deciders
from orchestrator.router.dispatch.decision_log import REJECTED, DecisionLog
from orchestrator.router.dispatch.live_policy import LivePolicy
from orchestrator.router.dispatch.sender import Sender
from orchestrator.router.observer import RouterObserver
from orchestrator.router.queue.request import PendingRequest
from orchestrator.router.queue.request_queue import RequestQueue, RequestQueues
from orchestrator.router.queue.shedding import Shed, Shedder, estimate, take_late
from orchestrator.router.servers.connection import ServerConnection
from orchestrator.router.servers.fleet import Fleet
from orchestrator.router.servers.outages import describe_stale
from orchestrator.snapshot import BatchInFlight, Family, ModelName, ServerName, ServerState, Width

log = logging.getLogger(__name__)

_EARLY_S = 1e-5  # timers may fire a little early, and a policy asked too early would hold again

_Fits = tuple[LatencyFit | None, ...]


@dataclass(slots=True)
class _Kept:
    """The tables of one family, and what they were written from."""

    tables: FleetTables = field(default_factory=FleetTables)
    states: dict[ServerName, ServerState] = field(default_factory=dict)
    fits: dict[ServerName, _Fits] = field(default_factory=dict)
    latency: LatencyTable = field(default_factory=LatencyTable)
    energy: EnergyTable = field(default_factory=EnergyTable)


class KeptTables:
    """The ``FleetTables`` of each family."""

    def __init__(self) -> None:
        self._by_family: defaultdict[Family, _Kept] = defaultdict(_Kept)

    def of(self, family: Family) -> FleetTables:
        """Return the tables of a family as they were at the last decision."""
        return self._by_family[family].tables

    def all(self) -> list[tuple[Family, FleetTables]]:
        """Return each family about which anything was decided, with its tables."""
        return [(family, kept.tables) for family, kept in self._by_family.items()]

    def update(
        self, family: Family, states: Sequence[ServerState], latency: LatencyTable, energy: EnergyTable
    ) -> FleetTables:
        """Return the tables of a family as they are right now, by the states of all servers."""
        kept = self._by_family[family]
        has_learned, is_new_energy = latency is not kept.latency, energy is not kept.energy
        for state in states:
            name, known = state.name, kept.states.get(state.name)
            is_same = known is not None and (
                state.models is known.models and state.other_models is known.other_models and not is_new_energy
            )
            before = fits = kept.fits.get(name, ())
            if has_learned or not is_same:
                fits = tuple([latency.fits.get((name, m.name)) for m in (*state.models, *state.other_models)])
            if not is_same or (fits != before and None in fits):  # what has no fit is guessed from its siblings
                kept.tables.put(state, latency, energy)
            else:
                if fits is not before:
                    models = (*state.models, *state.other_models)
                    learned = [m for m, new, old in zip(models, fits, before, strict=True) if new is not old]
                    kept.tables.put_lines(state, latency, learned)
                if state.in_flight or state != known:  # equal batches may have begun at other times
                    kept.tables.put_load(state)
            kept.states[name], kept.fits[name] = state, fits
        for name in kept.states.keys() - {state.name for state in states} if len(kept.states) > len(states) else ():
            kept.tables.remove(name)
            del kept.states[name], kept.fits[name]
        kept.latency, kept.energy = latency, energy
        return kept.tables


class Dispatcher:
    """Serves the request queues: each head is bound, sent, held or given up.

    Attributes:
        settings: The settings of the router now.
        live: The policy in force, and what is to follow it.
        sender: What is under way.
        unread_bytes: Returns about how many bytes of requests have come in front of the router, but were not read yet.
    """

    def __init__(
        self,
        settings: RouterSettings,
        queues: RequestQueues,
        fleet: Fleet,
        shedder: Shedder,
        observer: RouterObserver,
        *,
        unix_clock: Callable[[], float],
    ) -> None:
        self.settings = settings
        self._queues = queues
        self._fleet = fleet
        self._shedder = shedder
        self.live = LivePolicy(settings, fleet, observer, unix_clock=unix_clock)
        self._tables = KeptTables()
        self._random = random.Random(settings.seed)
        self._turns = itertools.count()
        self._decision_numbers = itertools.count(1)
        self._run_id = secrets.token_hex(3)  # in the ids of all decisions of one router's life
        sampled = settings.decision_log
        self._log = None if sampled is None else DecisionLog(sampled, self._run_id)
        self.sender = Sender(fleet, queues, observer, self.wake, self._learn, self._log)
        self.sender.on_answer = self.live.note_answer
        shedder.on_missed = self._note_miss
        shedder.is_any_idle = self._is_any_idle
        if self._log is not None:
            shedder.on_shed = partial(self._note_shed, self._log)
        self.unread_bytes: Callable[[], int] = lambda: 0
        self._changes = 0  # of anything but what waits
        self._deaf: set[str] = set()  # policies that failed to observe
        self._is_scheduled = False
        self._is_closing = False
        # When a policy that holds wants to be asked again; its time beside, because uvloop's handle of a timer that is
        # due at once does not know it.
        self._alarm: asyncio.TimerHandle | None = None
        self._alarm_s = math.inf

    def _note_shed(self, log: DecisionLog, request: PendingRequest, reason: Shed) -> None:
        if reason is not Shed.REJECTED:  # that was decided, and is written as a decision
            age_s = asyncio.get_running_loop().time() - request.arrived_s
            deadline_s = request.deadline_s - request.arrived_s
            log.write_shed(reason, request.family, items=request.items, age_s=age_s, deadline_s=deadline_s)

    @property
    def deciders(self) -> Deciders:
        """Who decides now."""
        return self.live.deciders

    def wake(self) -> None:
        """Look at all queues in the next turn of the event loop, if anything waits in them, because of some change."""
        self._changes += 1
        self.wake_for_arrival()

    def wake_for_arrival(self) -> None:
        """Look at all queues likewise, because a request has come; that alone makes room for none."""
        if not self._is_scheduled and not self._is_closing and self._queues.backlog.requests:
            self._is_scheduled = True
            asyncio.get_running_loop().call_soon(self._pass)

    async def close(self, *, until_s: float) -> None:
        """Send nothing more, wait for what is under way, no longer than until then, and end the rest."""
        self._is_closing = True
        if self._alarm is not None:
            self._alarm.cancel()
        try:
            await self.sender.close(until_s=until_s)
        finally:
            if self._log is not None:
                self._log.close()

    # --- decide ---

    def _pass(self) -> None:
        self._is_scheduled = False
        self.sender.settle()
        for key in self._queues.bound_keys():
            if self._fleet.has_lost(key):
                for request in self._queues.take_all(key):
                    self._queues.push(replace(key, bound_to=None), request)
        # A generator: after each thing done the most urgent head is looked for again.
        while any(self._serve(queue, head) for queue, head in self._queues.heads()):
            pass

    def _serve(self, queue: RequestQueue, head: PendingRequest) -> bool:
        """Bind, send or shed the head of a queue if possible; return whether anything was done."""
        servers = self._fleet.servers
        if queue.key.bound_to is not None:
            name, width = queue.key.bound_to
            return self._send(servers[name], queue, width, queue.items)
        if head.held_at == self._changes and not any([server.has_room for server in servers.values()]):
            return False  # it held, nothing but requests has come, and nothing could be sent
        candidate_set = self._candidate_set(queue, head)
        if not (candidate_set and candidate_set.is_whole) and self._shedder.refuse_in_outage(queue.key, head):
            return True
        if candidate_set:
            self._queues.note_estimate(queue, estimate(candidate_set))
            is_tried = self._fleet.incidents.is_tried
            late = take_late(queue, head, candidate_set, lambda name: not servers[name].held(), is_tried)
            for request, why in late:
                self._shedder.shed(request, Shed.LATE, why)
            if late:
                return True
        return self._decide(queue, head, candidate_set)

    def _candidate_set(self, queue: RequestQueue, head: PendingRequest) -> CandidateSet:
        """Return what could be done with the head of a queue."""
        key, servers, now_s = queue.key, self._fleet.servers, asyncio.get_running_loop().time()
        self._fleet.times.fade(now_s)
        fair_share = self._fair_share(key.family)
        may_wait = fair_share.longest_run_s == math.inf
        states = [server.state(key.family, self._bound_items(server), may_wait=may_wait) for server in servers.values()]
        tables = self._tables.update(key.family, states, self._fleet.times.latency, self._fleet.times.energy)
        state = queue.state(head, fair_share.share, self._queues.arrived_items[key.family], self._queues.count - 1)
        if expected := self._expected_items():
            state = replace(state, items=state.items + expected)
        situation = Situation(
            state,
            now_s,
            next(self._turns),
            (self._random.random(), self._random.random()),
            self.settings.slack_margin,
            tables.memory,
            self.deciders.only_width(has_preference=state.preference is not None),
        )
        candidate_set = CandidateSet(tables, situation, key.avoid)
        if candidate_set and any([server.health.suspects for server in servers.values()]):
            candidate_set.exclude(self._fleet.suspects, self._fleet.suspect_models)
        return candidate_set

    def _is_idle(self, server: ServerConnection) -> bool:
        """Return whether a server has nothing to do, as far as is known, or is being tried just now."""
        return not server.held() or self._fleet.incidents.is_tried(server.name)

    def _is_any_idle(self) -> bool:
        """Return whether some server is idle, between decisions: what has just been answered may still be held."""
        servers = self._fleet.servers.values()
        return any([server.takes_batches and (not server.calls or self._is_idle(server)) for server in servers])

    def _expected_items(self) -> int:
        """Return about how many items are about to be queued; they are as large as those that wait."""
        unread_bytes, backlog = self.unread_bytes(), self._queues.backlog
        if not unread_bytes or not backlog.size_bytes:
            return 0
        return int(unread_bytes * backlog.items / backlog.size_bytes)

    def _bound_items(self, server: ServerConnection) -> tuple[tuple[ModelName, int], ...]:
        if not self._queues.has_bound:
            return ()
        queued = self._queues.bound_items(server.name)
        bound = [(server.model(key.family, width), items) for key, width, items in queued]
        return tuple((model.name, items) for model, items in bound if model is not None)

    def _decide(self, queue: RequestQueue, head: PendingRequest, candidate_set: CandidateSet) -> bool:
        """Do with the head of a queue what a policy says; return whether anything was done."""
        try:
            decided = self.deciders.decide(
                candidate_set,
                queue.key.family,
                is_idle=not any([server.in_flight for server in self._fleet.servers.values()]),
                stale=describe_stale(self._fleet.servers, candidate_set, self._fleet.settings.stale_after_s),
                decisions=self._log,
            )
        except PermanentError as exc:
            head.give_up(exc)
            return True
        match decided.decision:
            case Hold(_, until_s):
                self._hold(head, candidate_set.situation, until_s)
                return False
            case Reject(reason):
                self._shedder.shed(head, Shed.REJECTED, f"policy {decided.policy} gave it up: {reason}")
                if self._log is not None and decided.record is not None:
                    self._log.write(decided.record, self._new_id(), {"error": REJECTED})
                return True
            case Dispatch(chosen) if decided.binding is Binding.LATE:
                server = self._fleet.servers[chosen.server]
                return self._send(server, queue, chosen.width, chosen.items, decided)
            case Dispatch(chosen):
                bound = replace(queue.key, bound_to=(chosen.server, chosen.width))
                for request in queue.take(head.items):
                    request.policy, request.record = decided.policy, decided.record
                    self._queues.push(bound, request)
                return True

    def _new_id(self) -> str:
        return f"{self._run_id}-{next(self._decision_numbers)}"

    def _hold(self, head: PendingRequest, situation: Situation, until_s: float | None) -> None:
        """Ask again when something changes, and at the latest when the policy wants it or the head is due."""
        now_s, due_s = situation.now_s, situation.queue.head_deadline_s
        head.held_at = self._changes
        if until_s is None or until_s <= now_s:
            return
        when_s = (min(until_s, due_s) if due_s > now_s else until_s) + _EARLY_S
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
        self, server: ServerConnection, queue: RequestQueue, width: Width, items: int, decided: Decided | None = None
    ) -> bool:
        """Send at most ``items`` from the head of a queue on, if the server has room; return whether they were sent.

        ``decided`` is None for what was bound, of which each request knows itself what was decided.
        """
        model = server.model(queue.key.family, width)
        if model is not None and not queue.key.suits(model):
            return self._turn_away(queue, server)
        longest_s = self._fair_share(queue.key.family).longest_run_s
        if model is None or (free := server.free_batches(model, may_wait=longest_s == math.inf)) == 0:
            return False
        items = min(items, model.max_batch_size)
        per_item_s, fixed_s = self._fleet.times.latency.line(server.name, model, server.models_of(queue.key.family))
        if longest_s < math.inf and per_item_s > 0:
            items = max(1, min(items, int((longest_s - fixed_s) / per_item_s)))
        elif items >= queue.items:
            items = part_of(queue.items, free, per_item_s, fixed_s)
        requests = queue.take(items)
        sent = BatchInFlight(model.name, sum([r.items for r in requests]), asyncio.get_running_loop().time())
        allowed_s = requests[0].deadline_s - requests[0].arrived_s
        self._queues.turns.charge(model.family, per_item_s * sent.items + fixed_s, allowed_s, now_s=sent.sent_s)
        energy = self._fleet.times.energy.line(server.name, model.name)
        if decided is not None:
            for request in requests:
                request.policy = decided.policy
        record = (decided and decided.record) or requests[0].record
        batch = Batch(self._new_id(), server, model, queue.key, requests, sent, energy, record)
        if decided is not None and isinstance(decided.decision, Dispatch):
            believed = decided.decision.candidate
            if believed.margin is not None:
                batch.expected_s, batch.margin = believed.completion_s_of(sent.items), believed.margin
                batch.decided_s = decided.now_s
        self.sender.send(batch)
        return True

    def _turn_away(self, queue: RequestQueue, server: ServerConnection) -> bool:
        """Have what waits for a model that takes or gives something else by now go to other servers, or refuse it."""
        key = queue.key.elsewhere(server.name)
        is_taken = server.name not in queue.key.avoid and self._fleet.takes(key)
        for request in self._queues.take_all(queue.key):
            if is_taken:
                self._queues.push(key, request)
            else:
                text = f"the models of family '{key.family}' were replaced while it waited; read its metadata and retry"
                request.give_up(ServerUnavailableError(text, executed=False))
        return True

    def _note_miss(self, missed: Family | None) -> None:
        """Tell policies of a request that was refused because of load or is late.

        Families share the servers, so it is a sign for those too that have more than their share of them.
        """
        now_s = asyncio.get_running_loop().time()
        for policy in self.deciders.observing:
            for family, tables in self._tables.all():
                if missed in (None, family) or self._fair_share(family).has_more:
                    self._tell(policy, partial(policy.observe_miss, tables.memory, now_s))

    def _fair_share(self, family: Family) -> FairShare:
        now_s = asyncio.get_running_loop().time()
        return self._queues.turns.fair_share(family, len(self._fleet.driven()), now_s=now_s)

    def _learn(self, batch: Batch, now_s: float) -> None:
        """Note that a batch was answered; the fleet learns how long it took, and policies what became of it."""
        observing = self.deciders.observing
        siblings = batch.server.models_of(batch.key.family) if observing else ()
        per_item_s, fixed_s = self._fleet.times.latency.line(batch.server.name, batch.model, siblings)
        took_s = self._fleet.times.finish(batch.server, batch.sent, now_s=now_s)
        if batch.expected_s > 0:
            # Its callers waited while it was decided and while the answers were written, too; by now they have left.
            waited_s = asyncio.get_running_loop().time() - batch.decided_s
            self._fleet.times.judge(batch.server, batch.model.name, waited_s / batch.expected_s, batch.margin)
        tables = self._tables.of(batch.key.family)
        if not observing or batch.server.name not in tables.names or batch.model.width not in tables.widths:
            return  # nobody wants to know, or it is of a server that has left
        expected_s = per_item_s * batch.sent.items + fixed_s
        outcome = Outcome(
            server=batch.server.name,
            width=batch.model.width,
            items=batch.sent.items,
            expected_s=expected_s,
            took_s=took_s,
            slack_used=max(
                slack_used(now_s - request.arrived_s, request.deadline_s - request.arrived_s, expected_s)
                for request in batch.requests
            ),
            is_in_time=all(now_s <= request.deadline_s for request in batch.requests),
            now_s=now_s,
        )
        for policy in observing:
            self._tell(policy, partial(policy.observe, tables.memory, outcome))

    def _tell(self, policy: Policy, tell: Callable[[], None]) -> None:
        """Let a policy observe; one that can't holds up nobody, and is told once."""
        try:
            tell()
        except Exception:
            if policy.name not in self._deaf:
                log.exception("policy %s can't observe what becomes of requests; this is told once", policy.name)
            self._deaf.add(policy.name)
