"""The same world the plain way: objects, lists and the live router's values; slow, and easy to read.

Without failures, throttling and learning; all else must be as the compiled loop has it.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

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
from orchestrator.simulation.scenario.settings import ScenarioSettings
from orchestrator.simulation.scenario.trace import Trace
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
    has_run: bool = False


@dataclass
class _Server:
    server: SimulatedServer
    batches: list[_Batch] = field(default_factory=list)
    bound: dict[int, list[tuple[float, int]]] = field(default_factory=dict)
    last_answer_s: float | None = None


class ReferenceWorld:
    """Runs a trace to its end."""

    def __init__(
        self, settings: ScenarioSettings, servers: Sequence[SimulatedServer], policy: Policy, trace: Trace
    ) -> None:
        self.settings, self.policy, self.trace = settings, policy, trace
        self.servers = [_Server(s) for s in sorted(servers, key=lambda s: s.name)]
        fits: dict[tuple[object, object], LatencyFit] = {}
        for server in servers:
            for model in server.models:
                fits[server.name, _name(model)] = model.start
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
        while arrivals or self.events or self.alarm_s < math.inf:
            next_s = min(self.events[0][0] if self.events else math.inf, arrivals[0][0] if arrivals else math.inf)
            if self.alarm_s < next_s:
                now_s, self.alarm_s = self.alarm_s, math.inf
            elif self.events and (not arrivals or self.events[0][0] <= arrivals[0][0]):
                now_s, _, server, batch = heapq.heappop(self.events)
                if not batch.has_run and batch.model.delay_s:
                    self._run_out(server, batch, now_s)
                    continue  # the router knows nothing of it
                self._end(server, batch, now_s)
            else:
                now_s, request = arrivals.pop(0)
                heapq.heappush(self.queue, (float(self.trace.deadline_s[request]), request))
            self._decide(now_s)
        return self.outcomes

    def _items(self, request: int) -> int:
        return int(self.trace.items[request])

    def _decide(self, now_s: float) -> None:
        margin = self.settings.objectives.slack_margin
        while self.queue:
            deadline_s, head = self.queue[0]
            queue = QueueState(
                items=sum(self._items(r) for _, r in self.queue),
                head_items=self._items(head),
                head_deadline_s=deadline_s,
                tail_deadline_s=_tail_deadline_s(self.queue),
                head_arrived_s=float(self.trace.arrived_s[head]),
                allowed_widths=tuple(sorted({m.width for s in self.servers for m in s.server.models})),
            )
            states = [self._state(s) for s in self.servers]
            candidates = build_candidates(
                states, queue, self.latency, now_s=now_s, slack_margin=margin, energy=self.energy
            )
            uniforms = (float(self.trace.uniforms[0][head]), float(self.trace.uniforms[1][head]))
            decision = self.policy.choose(candidates, Situation(queue, now_s, self.turn, uniforms, margin, self.memory))
            self.turn += 1
            if isinstance(decision, Reject):
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
            ready = [m for m in state.models if server.bound.get(m.width) and has_room_for(state, m)]
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
            noise, sigma = float(self.trace.noise[batch.requests[0]]), batch.model.sigma
            takes_s = batch.model.service_s[batch.items - 1] * math.exp(sigma * noise - sigma * sigma / 2)
            heapq.heappush(self.events, (now_s + takes_s, next(self.order), index, batch))

    def _run_out(self, index: int, batch: _Batch, now_s: float) -> None:
        batch.has_run = True
        heapq.heappush(self.events, (now_s + batch.model.delay_s, next(self.order), index, batch))
        self._start(index, now_s)

    def _end(self, index: int, batch: _Batch, now_s: float) -> None:
        server = self.servers[index]
        server.batches.remove(batch)
        self._tell(server, batch, now_s)
        server.last_answer_s = now_s
        for request in batch.requests:
            self.outcomes[request] = (now_s, server.server.name, int(batch.model.width), batch.items)
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
        spans = [(self.trace.arrived_s[r], self.trace.deadline_s[r]) for r in batch.requests]
        outcome = Answered(
            server.server.name,
            batch.model.width,
            batch.items,
            expected_s=expected_s,
            took_s=now_s - seen_s,
            slack_used=max(slack_used(now_s - came_s, due_s - came_s, expected_s) for came_s, due_s in spans),
            is_in_time=all(now_s <= self.trace.deadline_s[r] for r in batch.requests),
            now_s=now_s,
        )
        self.policy.observe(self.memory, outcome)


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
        spec,
        spec,
    )
