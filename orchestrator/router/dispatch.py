"""The loop that decides and sends.

Whenever something changes (a request, an answer, a server's health) ``wake`` schedules one pass for the next turn of
the event loop; so callers that arrive together are seen together and can share a group. A pass asks the policy about
the most urgent head until it holds. Groups under way are never cancelled while a server runs them (see
orchestrator.triton.client); closing waits for them, not for ever.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import math
import random
import secrets
from collections import defaultdict
from dataclasses import replace

from orchestrator.config import RouterSettings
from orchestrator.decision import Candidate, Dispatch, Hold, Reject
from orchestrator.errors import PermanentError, ServerUnavailableError, SlimError, TransientError, WrongAnswerError
from orchestrator.router.attempts import Attempts
from orchestrator.router.decision_log import DecisionLog, Record, outcome_of
from orchestrator.router.fleet import Fleet
from orchestrator.router.group import Group
from orchestrator.router.guarded import GuardedPolicy
from orchestrator.router.kept_tables import KeptTables
from orchestrator.router.lanes import Lane, Lanes
from orchestrator.router.link import ServerLink
from orchestrator.router.observer import RouterObserver
from orchestrator.router.overload import Shed, outlook, take_late
from orchestrator.router.request import Array, LaneKey, PendingRequest
from orchestrator.router.shedding import Shedder
from orchestrator.routing import (
    Binding,
    Memory,
    Outcome,
    PreferredPolicy,
    Situation,
    parse_policy,
    rebind,
)
from orchestrator.snapshot import Family, GroupInFlight, ModelName, QueueState, Width

log = logging.getLogger(__name__)


_EARLY_S = 1e-5  # timers may fire a little early, and a policy asked too early would hold again

Policies = dict[bool, GuardedPolicy]
"""Who decides for requests that prefer nothing, and for those that do."""


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
        self, settings: RouterSettings, lanes: Lanes, fleet: Fleet, shedder: Shedder, observer: RouterObserver
    ) -> None:
        self._settings = settings
        self._lanes = lanes
        self._fleet = fleet
        self._shedder = shedder
        self._observer = observer
        self._policies = self.parse_policies(settings)
        self._tables = KeptTables()
        self._memories: defaultdict[Family, Memory] = defaultdict(Memory)
        self._attempts = Attempts(fleet, lanes, observer, self.wake)
        self._random = random.Random(settings.seed)
        self._turns = itertools.count()
        self._groups = itertools.count(1)
        self._run_id = secrets.token_hex(3)  # tells the decisions of one router's life from another's
        sampled = settings.decision_log
        self._log = None if sampled is None else DecisionLog(sampled, self._run_id)
        self._is_scheduled = False
        self._is_closing = False
        # When a policy that holds wants to be asked again; its time beside, because uvloop's handle of a timer that is
        # due at once can't tell it.
        self._alarm: asyncio.TimerHandle | None = None
        self._alarm_s = math.inf
        self._tasks: set[asyncio.Task[None]] = set()

    def parse_policies(self, settings: RouterSettings) -> Policies:
        """Return who decides by such settings.

        Raises:
            ConfigError: when there is no such policy.
        """
        policy, fallback = parse_policy(settings.policy), parse_policy(settings.guard.fallback)
        binding = policy.binding if settings.binding == "policy" else Binding(settings.binding)
        return {
            prefers: GuardedPolicy(rebind(asked, binding), rebind(fallback, binding), settings.guard, self._observer)
            for prefers, asked in ((False, policy), (True, PreferredPolicy()))
        }

    def reconfigure(self, settings: RouterSettings, policies: Policies) -> None:
        """Decide by other settings and the policies that they name from now on."""
        self._settings, self._policies = settings, policies

    def wake(self) -> None:
        """Look at all lanes in the next turn of the event loop."""
        if not self._is_scheduled and not self._is_closing:
            self._is_scheduled = True
            asyncio.get_running_loop().call_soon(self._pass)

    async def close(self, *, until_s: float) -> None:
        """Send nothing more, wait for what is under way, no longer than until then, and end the rest."""
        self._is_closing = self._attempts.is_closing = True
        if self._alarm is not None:
            self._alarm.cancel()
        try:
            await self._drain(until_s)
        finally:
            remaining = list(self._tasks)
            for task in remaining:
                task.cancel()
            await asyncio.gather(*remaining, return_exceptions=True)
            if self._log is not None:
                self._log.close()

    async def _drain(self, until_s: float) -> None:
        """Wait for groups that were not given up."""
        loop = asyncio.get_running_loop()
        while (awaited := self._tasks - self._attempts.given_up) and loop.time() < until_s:
            await asyncio.wait(awaited, timeout=until_s - loop.time(), return_when=asyncio.FIRST_COMPLETED)

    # --- decide ---

    def _pass(self) -> None:
        self._is_scheduled = False
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

    def _serve(self, lane: Lane, head: PendingRequest) -> bool:
        """Bind, send or shed the head of a lane if possible; return whether anything was done."""
        if lane.key.bound_to is not None:
            server, width = lane.key.bound_to
            return self._send(self._fleet.links[server], lane, width, lane.items)
        now_s = asyncio.get_running_loop().time()
        queue = lane.state(head)
        candidates, reachable = self._candidates(lane.key, queue, now_s)
        if candidates:
            self._lanes.note_outlook(lane, outlook(candidates, reachable, queue))
            late = take_late(
                lane,
                reachable,
                queue,
                drain_s=min(c.drain_s for c in candidates),
                idle={link.name for link in self._fleet.links.values() if not link.in_flight},
                now_s=now_s,
                slack_margin=self._settings.slack_margin,
            )
            for request in late:
                self._shedder.shed(request, Shed.LATE, "its deadline can't be kept at any width that it allows")
            if late:
                return True
        return self._decide(lane, head, candidates, queue, now_s)

    def _candidates(
        self, key: LaneKey, queue: QueueState, now_s: float
    ) -> tuple[tuple[Candidate, ...], tuple[Candidate, ...]]:
        """Return what may be done with a head, and what could be if no server were suspect."""
        states = [link.state(key.family, self._bound_items(link)) for link in self._fleet.links.values()]
        tables = self._tables.mend(key.family, states, self._fleet.latency, self._fleet.energy)
        situation = Situation(queue, now_s, turn=0, lots=(0.0, 0.0), slack_margin=self._settings.slack_margin)
        reachable = tables.candidates(situation, avoided=key.avoid)
        suspects = self._fleet.suspects
        if not suspects:
            return reachable, reachable
        shunned = key.avoid | suspects
        trusted = tables.candidates(situation, avoided=shunned)
        return trusted if any(c.server not in shunned for c in trusted) else reachable, reachable

    def _bound_items(self, link: ServerLink) -> tuple[tuple[ModelName, int], ...]:
        bound = [(link.model(key.family, width), items) for key, width, items in self._lanes.bound_items(link.name)]
        return tuple((model.name, items) for model, items in bound if model is not None)

    def _decide(
        self, lane: Lane, head: PendingRequest, candidates: tuple[Candidate, ...], queue: QueueState, now_s: float
    ) -> bool:
        """Do with the head of a lane what a policy says; return whether anything was done."""
        lots = (self._random.random(), self._random.random())
        memory = self._memories[lane.key.family]
        situation = Situation(queue, now_s, next(self._turns), lots, self._settings.slack_margin, memory)
        policy = self._policies[queue.preference is not None]
        is_idle = not any(link.in_flight for link in self._fleet.links.values())
        try:
            stale = self._fleet.stale(candidates, now_s=now_s)
            decision, name, fault = policy.choose(candidates, situation, is_idle=is_idle, stale=stale)
        except Exception as exc:  # of the fallback too
            what = f"policy {policy.policy.name} and its fallback failed"
            log.exception("%s", what)
            head.give_up(PermanentError(f"{what}: {type(exc).__name__}: {exc}"))
            return True
        record = None
        if self._log is not None and not isinstance(decision, Hold) and self._log.is_sampled():
            record = self._log.describe(
                candidates, situation, decision, family=lane.key.family, policy=name, fault=fault
            )
        match decision:
            case Hold(_, until_s):
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
        return f"{self._run_id}-{next(self._groups)}"

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
        lane: Lane,
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
        requests = lane.take(min(items, model.max_batch_size))
        sent = GroupInFlight(model.name, sum(r.items for r in requests), asyncio.get_running_loop().time())
        link.in_flight.append(sent)
        energy = self._fleet.energy.line(link.name, model.name)
        record = record or requests[0].record
        group = Group(self._new_id(), link, model, lane.key, requests, sent, energy, record)
        if policy is not None:
            for request in requests:
                request.policy = policy
        self._observer.on_sent(link.name, width, sent.items)
        task = asyncio.create_task(self._run_group(group))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return True

    async def _run_group(self, group: Group) -> None:
        """Send a group and resolve its requests; never raises but when cancelled at closing."""
        link = group.link
        attempt = self._attempts.begin(group)
        error: str | None = None
        try:
            output = await link.client.infer_batch(group.model, group.batch())
            if len(output) != group.sent.items:
                raise WrongAnswerError(f"{link.name} answered {len(output)} items of {group.sent.items}")
        except SlimError as exc:
            error = str(exc)
            if self._attempts.end(attempt):
                self._attempts.fail(group, exc)
        except asyncio.CancelledError:
            error = "cancelled"
            self._attempts.end(attempt)
            for request in group.requests:
                request.fail(ServerUnavailableError("the router closed before the answer came"))
            raise
        except Exception as exc:
            error = f"{type(exc).__name__}: {exc}"
            log.exception("sending a group to %s failed unexpectedly", link.name)
            self._attempts.end(attempt)
            for request in group.requests:
                request.fail(TransientError(f"{link.name}: {type(exc).__name__}: {exc}"))
        else:
            if self._attempts.end(attempt):
                self._answer(group, output)
        finally:
            if not attempt.is_given_up:
                link.in_flight.remove(group.sent)
            if self._log is not None and group.record is not None:
                now_s = asyncio.get_running_loop().time()
                self._log.write(group.record, group.decision_id, outcome_of(group, now_s=now_s, error=error))
            self._observer.on_ended(link.name, group.model.width, group.sent.items)
            self.wake()

    def _answer(self, group: Group, output: Array) -> None:
        now_s = asyncio.get_running_loop().time()
        self._finish(group, now_s)
        self._attempts.note_answered(len(group.requests))
        start = 0
        for request in group.requests:
            part = output[start : start + request.items]
            start += request.items
            if not request.is_over:
                request.answer(group.answer(request, part, now_s=now_s))

    def _finish(self, group: Group, now_s: float) -> None:
        """Note that a group was answered; the link learns how long it took, and policies what became of it."""
        observing = [policy for policy in self._policies.values() if policy.is_observing]
        siblings = group.link.models_of(group.key.family) if observing else ()
        item_s, group_s = self._fleet.latency.line(group.link.name, group.model, siblings)
        took_s = group.link.finish(group.sent, now_s=now_s)
        for policy in observing:
            outcome = Outcome(
                server=group.link.name,
                width=group.model.width,
                items=group.sent.items,
                expected_s=item_s * group.sent.items + group_s,
                took_s=took_s,
                is_in_time=all(now_s <= request.deadline_s for request in group.requests),
                now_s=now_s,
            )
            policy.observe(self._memories[group.key.family], outcome)
