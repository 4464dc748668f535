"""The same world the plain way: objects, lists and the live router's values; slow, and easy to read.

Without failures, throttling and learning; all else must be as the compiled loop has it.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import NormalDist

import numpy as np
import pytest

from orchestrator.decision import Hold, Reject
from orchestrator.policies.protocol import Binding, ObservingPolicy, Policy, Situation
from orchestrator.policies.protocol import Outcome as Answered
from orchestrator.policies.queue_rules import slack_used
from orchestrator.policies.tables.memory import Memory
from orchestrator.policies.tables.occupancy import WHOLE
from orchestrator.profile.document import EnergySource
from orchestrator.profile.fit import EnergyLine, EnergyTable, LatencyFit, LatencyTable
from orchestrator.router.queue.request_queue import RequestQueue
from orchestrator.simulation.scenario.fleet import SimulatedModel, SimulatedServer
from orchestrator.simulation.scenario.hosts import HostSettings, RouterSettings
from orchestrator.simulation.scenario.settings import ScenarioSettings
from orchestrator.simulation.scenario.trace import COMMON_STEPS, Trace
from orchestrator.simulation.simulation import Simulation
from orchestrator.simulation.world import columns as sim
from orchestrator.snapshot import BatchInFlight, Family, ModelName, QueueState, ServedModel, ServerState, TensorSpec
from tests.policies.fleets import build_candidates, has_room_for

Outcome = tuple[float, str | None, int, int]
"""When a request was answered, by which server, at which width, in a batch of how many items."""


@dataclass
class _Batch:
    model: SimulatedModel
    requests: list[int]
    items: int
    sent_s: float
    started_s: float | None = None
    takes_s: float = 0.0
    has_run: bool = False


@dataclass
class _Server:
    server: SimulatedServer
    batches: list[_Batch] = field(default_factory=list)
    bound: dict[int, list[tuple[float, int]]] = field(default_factory=dict)
    last_answer_s: float | None = None
    host: _Host | None = None
    core_ratio: float = 0.0


@dataclass(eq=False)
class _Job:
    """Work that wants a core: of a batch on a server, or the router's."""

    left_s: float
    server: int = -1
    batch: _Batch | None = None


@dataclass(eq=False)
class _Host:
    settings: HostSettings
    jobs: list[_Job] = field(default_factory=list)
    competing: float = 0.0
    stalls: dict[bool, int] = field(default_factory=lambda: {True: 0, False: 0})  # by whether they are the router's

    def speed(self, *, of_router: bool = False, waking: float = 0.0) -> float:
        """Return what part of a core who wants one has, while so many more are ``waking``; none takes more than one."""
        routers = sum(job.batch is None for job in self.jobs) + waking * of_router
        others = sum(job.batch is not None for job in self.jobs) + self.competing + waking * (not of_router)
        weight = 1.0 if self.settings.router is None else self.settings.router.weight
        router = min(1.0, weight * self.settings.cores / max(1e-9, routers * weight + others))
        if of_router:
            return router
        return min(1.0, (self.settings.cores - routers * router) / max(1e-9, others))

    def wake_s(self, luck: float, *, of_router: bool = False) -> float:
        """Return how long who wakes waits for a core."""
        return luck * self.settings.slice_ms / 1e3 * (1 / self.speed(of_router=of_router, waking=1) - 1)

    @property
    def running(self) -> list[_Job]:
        """Those that do not stand still."""
        return [job for job in self.jobs if not self.stalls[job.batch is None]]

    def next_job(self) -> tuple[float, _Job | None]:
        """Return in what time a job is done, and which; a batch before the router."""
        ends = [(job.left_s / self.speed(of_router=job.batch is None), job) for job in self.running]
        left_s, job = min(ends, key=lambda end: (end[0], end[1].batch is None), default=(math.inf, None))
        return max(0.0, left_s), job

    def pass_by(self, seconds: float) -> None:
        """Do as much of each job as time lets it."""
        speeds = {job: self.speed(of_router=job.batch is None) for job in self.running}
        for job, speed in speeds.items():
            job.left_s -= seconds * speed


@dataclass
class _Router:
    """A router that takes time: what it has not read, what it reads in this turn, and what it owes."""

    settings: RouterSettings
    host: _Host
    unread: list[int] = field(default_factory=list)
    answers: list[tuple[float, int, _Batch]] = field(default_factory=list)
    turn: tuple[list[int], list[tuple[float, int, _Batch]]] | None = None
    is_busy: bool = False
    has_slept: bool = True
    owed_us: float = 0.0
    unread_items: int = 0
    lag_s: float = 0.0
    lag_seen_s: float = 0.0


class ReferenceWorld:
    """Runs a trace to its end."""

    def __init__(
        self, settings: ScenarioSettings, servers: Sequence[SimulatedServer], policy: Policy, trace: Trace
    ) -> None:
        self.settings, self.policy, self.trace = settings, policy, trace
        self.servers = [_Server(s) for s in sorted(servers, key=lambda s: s.name)]
        self.hosts = [_Host(host) for host in settings.hosts]
        self.router: _Router | None = None
        self.arrived_items = 0
        for host in self.hosts:
            ratios = settings.core_ratios(host.settings)
            for server in self.servers:
                if server.server.name in ratios:
                    server.host, server.core_ratio = host, ratios[server.server.name]
            if host.settings.router is not None:
                self.router = _Router(host.settings.router, host)
        self.due_s = trace.deadline_s.tolist()
        self.now_s = 0.0
        fits: dict[tuple[object, object], LatencyFit] = {}
        for server in servers:
            for model in server.models:
                fits[server.name, _name(model)] = model.start.begun()
        self.latency = LatencyTable(fits)  # type: ignore[arg-type]
        self.energy = _energy(servers)
        self.queue: list[tuple[float, int]] = []
        self.events: list[tuple[float, int, int, _Batch]] = []
        self.order = itertools.count()
        self.turn = 0
        self.memory = Memory()
        self.alarm_s = math.inf
        self.outcomes: dict[int, Outcome] = {}

    def run(self) -> dict[int, Outcome]:
        arrivals = [(float(t), i) for i, t in enumerate(self.trace.arrived_s)]
        schedule = self.trace.schedule.T.tolist()
        is_due = False  # a decision, as soon as the router is free
        while len(self.outcomes) < len(self.trace.arrived_s):
            ends = [(self.now_s + host.next_job()[0], host) for host in self.hosts]
            times_s = [
                self.events[0][0] if self.events else math.inf,
                schedule[0][sim.AT_S] if schedule else math.inf,
                arrivals[0][0] if arrivals else math.inf,
                min((at_s for at_s, _ in ends), default=math.inf),
                math.inf if self.router is not None and self.router.is_busy else max(self.now_s, self.alarm_s),
            ]
            next_s = min(times_s)
            for host in self.hosts:
                host.pass_by(next_s - self.now_s)
            self.now_s, source = next_s, times_s.index(next_s)
            if source == 0:
                _, _, server, batch = heapq.heappop(self.events)
                is_due |= self._batch_gets_on(server, batch)
            elif source == 1:
                self._happen(schedule.pop(0))
            elif source == 2:
                request = arrivals.pop(0)[1]
                if self.router is None:
                    self._enqueue(request)
                    is_due = True
                else:
                    self.router.unread.append(request)
            elif source == 3:
                host = next(host for at_s, host in ends if at_s == next_s)
                is_due |= self._end_job(host)
            else:
                self.alarm_s = math.inf
                is_due = True
            if is_due and not (self.router is not None and self.router.is_busy):
                is_due = False
                self._decide(self.now_s)
            if self.router is not None and not self.router.is_busy:
                self._go_on(self.router)
        return self.outcomes

    def _happen(self, entry: list[float]) -> None:
        host, kind, value = self.hosts[int(entry[sim.EVENT_SERVER])], entry[sim.KIND], entry[sim.VALUE]
        if kind == sim.COMPETES:
            host.competing = value
        else:
            host.stalls[kind == sim.STALLS_ROUTER] += int(value)

    def _batch_gets_on(self, server: int, batch: _Batch) -> bool:
        """Let a batch end, or its answer come; return whether the router sees it."""
        if not batch.has_run:
            self._run_out(server, batch)
            if batch.model.delay_s:
                heapq.heappush(self.events, (self.now_s + batch.model.delay_s, next(self.order), server, batch))
                return False
            if self.router is None:
                batch.has_run = self.servers[server].host is not None  # else what it took is known exactly
        if self.router is not None:
            self.router.answers.append((self.now_s, server, batch))
            return False
        self._end(server, batch, self.now_s)
        return True

    def _end_job(self, host: _Host) -> bool:
        """End the job of a host that is done; return whether it was a turn of the router."""
        _, job = host.next_job()
        assert job is not None
        host.jobs.remove(job)
        if job.batch is not None:
            assert job.batch.started_s is not None
            self._end_later(job.server, job.batch)
            return False
        router = self.router
        assert router is not None
        router.is_busy = False
        if router.turn is None:
            return False
        (requests, answers), router.turn = router.turn, None
        came_s = min([float(self.trace.arrived_s[r]) for r in requests[:1]] + [at_s for at_s, _, _ in answers[:1]])
        kept_s = router.lag_s * 0.8 ** ((self.now_s - router.lag_seen_s) / 0.01)
        router.lag_s, router.lag_seen_s = max(kept_s, self.now_s - came_s - 1e-3), self.now_s
        for _, server, batch in answers:
            self._end(server, batch, self.now_s)
        for request in requests:
            self.due_s[request] -= router.lag_s
            self._enqueue(request)
        return True

    def _go_on(self, router: _Router) -> None:
        """Let the router pay what it owes, or begin a turn."""
        settings = router.settings
        if router.owed_us > 0:
            work_us, router.owed_us = router.owed_us, 0.0
        elif router.unread or router.answers:
            requests, router.unread = router.unread[: settings.turn_requests], router.unread[settings.turn_requests :]
            router.turn, router.answers = (requests, router.answers), []
            router.unread_items = sum(map(self._items, router.unread))
            answered = [r for _, _, batch in router.turn[1] for r in batch.requests]
            work_us = len(requests) * settings.request_us + len(answered) * settings.answer_us
            if router.has_slept:
                woken_by = requests[0] if requests else router.turn[1][-1][2].requests[0]
                wait_s = router.host.wake_s(float(self.trace.wakes[woken_by]), of_router=True)
                work_us += 1e6 * wait_s * router.host.speed(of_router=True, waking=1)
        else:
            router.has_slept = True
            return
        router.is_busy = True
        router.host.jobs.append(_Job(work_us / 1e6))
        router.has_slept = False

    def _owe(self, name: str) -> None:
        if self.router is not None:
            self.router.owed_us += getattr(self.router.settings, name)

    def _enqueue(self, request: int) -> None:
        self.arrived_items += self._items(request)
        heapq.heappush(self.queue, (self.due_s[request], request))

    def _items(self, request: int) -> int:
        return int(self.trace.items[request])

    def _decide(self, now_s: float) -> None:
        margin = self.settings.objectives.slack_margin
        while self.queue:
            deadline_s, head = self.queue[0]
            queue = QueueState(
                items=sum(self._items(r) for _, r in self.queue)
                + (0 if self.router is None else self.router.unread_items),
                head_items=self._items(head),
                head_deadline_s=deadline_s,
                tail_deadline_s=_tail_deadline_s(self.queue),
                head_arrived_s=float(self.trace.arrived_s[head]),
                refuses_late=self.settings.objectives.shed_late,
                arrived_items=self.arrived_items,
                allowed_widths=tuple(sorted({m.width for s in self.servers for m in s.server.models})),
            )
            states = [self._state(s) for s in self.servers]
            candidates = build_candidates(
                states, queue, self.latency, now_s=now_s, slack_margin=margin, energy=self.energy
            )
            uniforms = (float(self.trace.uniforms[0][head]), float(self.trace.uniforms[1][head]))
            decision = self.policy.choose(candidates, Situation(queue, now_s, self.turn, uniforms, margin, self.memory))
            self.turn += 1
            self._owe("decision_us")
            if isinstance(decision, Reject):
                self._owe("answer_us")
                self.outcomes[heapq.heappop(self.queue)[1]] = (now_s, None, -1, 0)
                continue
            if isinstance(decision, Hold):
                self.alarm_s = math.inf if decision.until_s is None else decision.until_s
                return
            chosen = decision.candidate
            index = next(i for i, s in enumerate(self.servers) if s.server.name == chosen.server)
            if self.policy.binding is Binding.EARLY:
                heapq.heappush(self.servers[index].bound.setdefault(chosen.width, []), heapq.heappop(self.queue))
                self._serve_bound(index, now_s)
            else:
                self._send(index, chosen.width, self.queue, chosen.items, now_s)

    def _state(self, server: _Server) -> ServerState:
        waiting = self.settings.objectives.in_flight_groups - 1
        return ServerState(
            server.server.name,
            tuple(_served(m) for m in server.server.models),
            in_flight=tuple(
                BatchInFlight(_name(g.model), g.items, g.sent_s, g.started_s if g.model.instances > 1 else None)
                for g in server.batches
            ),
            bound_items=tuple(
                (_name(m), sum(self._items(r) for _, r in server.bound.get(m.width, ()))) for m in server.server.models
            ),
            batch_limit=waiting + max(m.instances for m in server.server.models),
            waiting_limit=waiting,
            last_answer_s=server.last_answer_s,
        )

    def _serve_bound(self, index: int, now_s: float) -> None:
        server = self.servers[index]
        while True:
            state = self._state(server)
            lines = [(b.items, self.latency.line(server.server.name, _served(b.model), ())) for b in server.batches]
            work_s = sum(per_item_s * items + fixed_s for items, (per_item_s, fixed_s) in lines)
            ready = [m for m in state.models if server.bound.get(m.width) and has_room_for(state, m, work_s=work_s)]
            if not ready:
                return
            model = min(ready, key=lambda m: server.bound[m.width][0])
            self._send(index, model.width, server.bound[model.width], model.max_batch_size, now_s)

    def _send(self, index: int, width: int, queue: list[tuple[float, int]], most: int, now_s: float) -> None:
        server = self.servers[index]
        requests = [heapq.heappop(queue)[1]]
        while queue and sum(map(self._items, requests)) + self._items(queue[0][1]) <= most:
            requests.append(heapq.heappop(queue)[1])
        model = next(m for m in server.server.models if m.width == width)
        server.batches.append(_Batch(model, requests, sum(map(self._items, requests)), now_s))
        self._owe("batch_us")
        self._start(index, now_s)

    def _start(self, index: int, now_s: float) -> None:
        server = self.servers[index]
        for batch in server.batches:
            if batch.started_s is not None:
                continue
            busy = sum(1 / g.model.instances for g in server.batches if g.started_s is not None and not g.has_run)
            if busy + 1 / batch.model.instances > WHOLE:
                return
            batch.started_s = now_s
            batch.takes_s = batch.model.service_s[batch.items - 1] * self._factor(server, batch)
            if server.host is None or server.core_ratio * batch.takes_s == 0:
                self._end_later(index, batch)
            else:
                server.host.jobs.append(_Job(server.core_ratio * batch.takes_s, index, batch))

    def _end_later(self, index: int, batch: _Batch) -> None:
        assert batch.started_s is not None
        at_s, host = max(self.now_s, batch.started_s + batch.takes_s), self.servers[index].host
        if host is not None:
            at_s += host.wake_s(float(self.trace.wakes[batch.requests[0]]))
        heapq.heappush(self.events, (at_s, next(self.order), index, batch))

    def _factor(self, server: _Server, batch: _Batch) -> float:
        noise, sigma = float(self.trace.noise[batch.requests[0]]), batch.model.sigma
        residuals = None if server.host is None else server.host.settings.residuals
        if residuals is None or residuals.factors is None:
            return math.exp(sigma * noise - sigma * sigma / 2)
        assert server.host is not None
        common = self.trace.common[self.hosts.index(server.host)]
        shared = common[min(int(self.now_s / (residuals.drift_s / COMMON_STEPS)), len(common) - 1)]
        score = math.sqrt(residuals.correlation) * shared + math.sqrt(1 - residuals.correlation) * noise
        below = int(NormalDist().cdf(score) * len(residuals.factors))
        return sorted(residuals.factors)[min(below, len(residuals.factors) - 1)]

    def _run_out(self, index: int, batch: _Batch) -> None:
        batch.has_run = True
        self._start(index, self.now_s)

    def _end(self, index: int, batch: _Batch, now_s: float) -> None:
        server = self.servers[index]
        server.batches.remove(batch)
        self._tell(server, batch, now_s)
        server.last_answer_s = now_s
        for request in batch.requests:
            told_s = now_s
            if self.router is not None and self.router.settings.has_callers:
                told_s += self.router.host.wake_s(float(self.trace.wakes[request]))
            self.outcomes[request] = (told_s, server.server.name, int(batch.model.width), batch.items)
        self._start(index, now_s)
        self._serve_bound(index, now_s)

    def _tell(self, server: _Server, batch: _Batch, now_s: float) -> None:
        assert batch.started_s is not None
        if not (isinstance(self.policy, ObservingPolicy) and self.policy.is_observing):
            return
        per_item_s, fixed_s = self.latency.line(server.server.name, _served(batch.model), ())
        # As the router sees it: with one instance, since the server's last answer or since it was sent.
        seen_s = batch.started_s
        if batch.has_run and batch.model.instances == 1:
            seen_s = max(batch.sent_s, server.last_answer_s or batch.sent_s)
        expected_s = per_item_s * batch.items + fixed_s
        spans = [(self.trace.arrived_s[r], self.due_s[r]) for r in batch.requests]
        outcome = Answered(
            server.server.name,
            batch.model.width,
            batch.items,
            expected_s=expected_s,
            took_s=now_s - seen_s,
            slack_used=max(slack_used(now_s - came_s, due_s - came_s, expected_s) for came_s, due_s in spans),
            is_in_time=all(now_s <= self.due_s[r] for r in batch.requests),
            now_s=now_s,
        )
        self.policy.observe(self.memory, outcome)


def assert_same(simulation: Simulation, expected: dict[int, Outcome]) -> None:
    """Check that a run that has ended came out as a plain world's."""
    requests, names = simulation.world.requests, [s.name for s in simulation.servers]
    for request, (answered_s, server, width, batch) in expected.items():
        assert requests[sim.ANSWERED_S][request] == pytest.approx(answered_s)
        if server is None:
            assert requests[sim.STATUS][request] == sim.REJECTED
            continue
        assert names[int(requests[sim.SERVER][request])] == server
        assert (requests[sim.WIDTH][request], requests[sim.BATCH][request]) == (width, batch)
    assert len(expected) == len(simulation.trace.arrived_s)


def _tail_deadline_s(queue: list[tuple[float, int]]) -> float:
    """Return the tail as the live queue does, which this asks itself."""
    live = RequestQueue.__new__(RequestQueue)
    live._heap = [((0, deadline_s), request, None) for deadline_s, request in queue]  # type: ignore[misc]
    return live._tail_deadline_s()


def _energy(servers: Sequence[SimulatedServer]) -> EnergyTable:
    """Return the lines nearest to the joules of each model."""
    lines = {}
    for server in servers:
        for model in server.models:
            if model.energy_j is not None:
                sizes = np.arange(1, model.max_batch_size + 1)
                per_item_j, fixed_j = (
                    np.polyfit(sizes, model.energy_j, 1) if len(sizes) > 1 else (model.energy_j[0], 0.0)
                )
                lines[server.name, _name(model)] = EnergyLine(float(per_item_j), float(fixed_j), EnergySource.ESTIMATED)
    return EnergyTable(lines)


def _name(model: SimulatedModel) -> ModelName:
    return ModelName(f"simulated_w{model.width:03d}")


def _served(model: SimulatedModel) -> ServedModel:
    spec = TensorSpec("pixels", "FP32", (1,))
    return ServedModel(
        _name(model),
        Family("simulated"),
        model.width,
        model.accuracy,
        None,
        model.max_batch_size,
        model.instances,
        None,
        (spec,),
        (spec,),
    )
