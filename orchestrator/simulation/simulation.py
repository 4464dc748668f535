"""One run of a scenario: a world, stepped through to its end or from decision to decision."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import astuple, replace
from typing import Final

import numpy as np

from orchestrator.decision import Dispatch, Hold, Reject
from orchestrator.errors import ConfigError, UntrustedError
from orchestrator.policies.circuit_breaker import find_fault
from orchestrator.policies.family_turns import TURN_FIELDS, new_turns
from orchestrator.policies.fleet.fleet_tables import FleetTables
from orchestrator.policies.fleet.row_values import read_candidate
from orchestrator.policies.learned.decide import BASE_ROW, Scorer, decide_by_scores
from orchestrator.policies.learned.policy import LearnedPolicy
from orchestrator.policies.learned.policy_file import SLIM
from orchestrator.policies.preference import parse_preference
from orchestrator.policies.protocol import Binding, Policy, Situation
from orchestrator.policies.queue_rules import MOST_SAMPLED, UNKNOWN
from orchestrator.policies.registry import RulePolicy
from orchestrator.policies.rule import RULE_FIELDS
from orchestrator.policies.tables import columns as col
from orchestrator.policies.tables.compiled import Column, Table, compiled_unlocked, new_column, new_table
from orchestrator.policies.tables.layout import HOLD, REJECT, QueueHead
from orchestrator.policies.tables.memory import MEMORY_FIELDS, Memory, new_memory
from orchestrator.profile.document import EnergySource
from orchestrator.profile.fit import EnergyLine, EnergyTable, LatencyTable
from orchestrator.simulation.controllers import begin_control, control, controllers_of
from orchestrator.simulation.scenario.fleet import SimulatedModel, SimulatedServer, families_of, most_instances
from orchestrator.simulation.scenario.hosts import HostSettings
from orchestrator.simulation.scenario.server_settings import MIB
from orchestrator.simulation.scenario.settings import ScenarioSettings
from orchestrator.simulation.scenario.trace import COMMON_STEPS, Trace, draw_trace
from orchestrator.simulation.world import columns as sim
from orchestrator.simulation.world.devices import account
from orchestrator.simulation.world.families import family_of, memory_place
from orchestrator.simulation.world.layout import World
from orchestrator.simulation.world.loop import advance, apply
from orchestrator.snapshot import (
    Family,
    ModelName,
    QueueState,
    ServedModel,
    ServerName,
    ServerState,
    TensorSpec,
    Width,
)

DECIDED: Final = 0
"""Place in ``Simulation.learned_counts`` of a learned policy's decisions."""
DISTRUSTED: Final = 1
"""Of those of them in which its base stood in."""
_OF_FAMILY: Final = 1000
"""A column's number in the tables is that of its family times this, and its width."""
_SPEC = TensorSpec("pixels", "FP32", (1,))
_SPARE_BATCHES = 6  # room in the tables for batches done whose report has not come


class Simulation:
    """A world and its policy; time moves in ``run`` and ``run_until`` alone.

    A policy that is a rule or learned runs inside the compiled loop. Where a learned one would not trust itself live,
    its base decides, as a guard whose fallback is the base would have it. A trace may be drawn before, so that several
    policies meet the same; else that of the seed is drawn.

    Where the scenario has controllers, they act in between; see orchestrator.simulation.controllers.

    Attributes:
        controllers: of the servers, in their order; empty where there are none.
        families: Names of the families, ascending, as requests count them.
        learned_counts: How many decisions a learned policy made, by DECIDED and DISTRUSTED.
    """

    def __init__(
        self,
        settings: ScenarioSettings,
        servers: Sequence[SimulatedServer],
        policy: Policy,
        *,
        seed: int = 0,
        trace: Trace | None = None,
    ) -> None:
        self.settings, self.servers, self.policy = settings, tuple(sorted(servers, key=lambda s: s.name)), policy
        self.trace = draw_trace(settings, self.servers, seed) if trace is None else trace
        self.learned_counts = new_column(2)
        self.families = tuple(families_of(self.servers))
        self._tables = _known_fleet(self.servers, settings, self.trace)
        self._memories = [Memory() for _ in self.families]
        self.world = _make_world(self._tables, self.servers, settings, self.trace, policy)
        places = [
            {_model_name(m): self._tables.widths.index(_column_of(m, self.families)) for m in server.models}
            for server in self.servers
        ]
        self.controllers = controllers_of(settings.controller, self.servers, places)
        begin_control(self.world, self.controllers)

    def run(self) -> None:
        """Run to the end: until every request is answered or given up."""
        self.run_until(math.inf)
        self.settle()

    def run_until(self, until_s: float) -> None:
        """Run up to a time; the policy decides wherever it is asked."""
        while True:
            if isinstance(self.policy, LearnedPolicy):
                self._run_learned(self.policy, until_s)
            else:
                while advance(self.world, until_s):
                    self._decide()
            if not control(self.world, self.controllers):
                return

    def next_decision(self, until_s: float = math.inf) -> int | None:
        """Run to the next decision; return how many rows it has, None when the time is reached first.

        Only for a policy that is no rule, or ``decides_outside`` was called; then ``apply`` makes the decision.
        """
        while not advance(self.world, until_s):
            if not control(self.world, self.controllers):
                return None
        return int(self.world.state[sim.ROW_COUNT])

    def decide_outside(self) -> None:
        """Leave decisions to ``next_decision`` and ``apply``, whatever the policy."""
        self.world.state[sim.IS_EXTERNAL] = 1
        self.world.state[sim.LEAVES_PREFERENCES] = 0

    def apply(self, row: int, items: float, until_s: float = math.inf) -> None:
        """Make the decision that is asked for: a row and its items, or HOLD until a time, or REJECT."""
        apply(self.world, row, items, until_s)

    @property
    def memory(self) -> Table:
        """What the policy remembers of the family that a decision is about."""
        first = memory_place(self.world)
        return self.world.memory[first : first + MEMORY_FIELDS]

    def settle(self) -> None:
        """Bring every server's times and energy up to now."""
        for server in range(len(self.servers)):
            account(self.world, server)

    @property
    def now_s(self) -> float:
        """Virtual time: once a run is over, when its last request was answered or given up."""
        return self.world.state[sim.NOW_S]

    def _run_learned(self, policy: LearnedPolicy, until_s: float) -> None:
        world, counts = self.world, self.learned_counts
        scorer = policy.scorer(world.fleet.server_count * world.fleet.widths)
        if scorer is not None:
            _run_scored(world, scorer, until_s, counts)
            return
        while advance(world, until_s):
            asked = self.memory, world.rows, int(world.state[sim.ROW_COUNT]), world.head.query
            counts[DECIDED] += 1
            try:
                row, items, _, hold_until_s = policy.choose_row(*asked)
            except UntrustedError:
                counts[DISTRUSTED] += 1
                row, items, _, hold_until_s = policy.base.choose_row(*asked)
            apply(world, row, items, hold_until_s)

    def _decide(self) -> None:
        world = self.world
        count = int(world.state[sim.ROW_COUNT])
        choose_row = getattr(self.policy, "choose_row", None)
        if choose_row is not None:
            row, items, _, until_s = choose_row(self.memory, world.rows, count, world.head.query)
            apply(world, row, items, until_s)
            return
        candidates = [read_candidate(world.rows, row, self._tables.names) for row in range(count)]
        situation = self._situation()
        decision = self.policy.choose(candidates, situation)
        fault = find_fault(decision, candidates, situation, binding=self.policy.binding, is_idle=False)
        if fault is not None:
            raise ConfigError(f"policy {self.policy.name!r} may not decide so ({fault}): {decision}")
        if isinstance(decision, Dispatch):
            chosen = decision.candidate
            keys = [(c.server, c.width) for c in candidates]
            apply(world, keys.index((chosen.server, chosen.width)), float(chosen.items), math.inf)
        elif isinstance(decision, Reject):
            apply(world, REJECT, 0.0, math.inf)
        else:
            assert isinstance(decision, Hold)
            apply(world, HOLD, 0.0, math.inf if decision.until_s is None else decision.until_s)

    def _situation(self) -> Situation:
        """Return what is asked as a value, with what policies remember."""
        query, family = self.world.head.query.tolist(), family_of(self.world, int(self.world.state[sim.ASKED]))
        widths = tuple(_width_of(column) for column in self._tables.widths if column // _OF_FAMILY == family)
        memory = self._memories[family]
        memory.include(set(self._tables.names), set(widths))
        queue = QueueState(
            items=int(query[col.QUEUE_ITEMS]),
            head_items=int(query[col.HEAD_ITEMS]),
            head_deadline_s=query[col.HEAD_DEADLINE_S],
            tail_deadline_s=query[col.TAIL_DEADLINE_S],
            allowed_widths=widths,
            min_accuracy=query[col.MIN_ACCURACY],
            head_arrived_s=query[col.HEAD_ARRIVED_S],
            refuses_late=bool(query[col.REFUSES_LATE]),
            servers_share=query[col.SERVERS_SHARE],
            arrived_items=int(query[col.ARRIVED_ITEMS]),
            other_queues=int(query[col.OTHER_QUEUES]),
            other_items=int(query[col.OTHER_ITEMS]),
        )
        uniforms = query[col.FIRST_UNIFORM], query[col.SECOND_UNIFORM]
        turn, margin = int(query[col.TURN]), query[col.SLACK_MARGIN]
        return Situation(queue, query[col.NOW_S], turn, uniforms, margin, memory)


@compiled_unlocked
def _run_scored(world: World, scorer: Scorer, until_s: float, counts: Column) -> None:
    while advance(world, until_s):
        numbers, params, room, hidden = scorer
        memory = world.memory[memory_place(world) : memory_place(world) + MEMORY_FIELDS]
        rows, count, query = world.rows, int(world.state[sim.ROW_COUNT]), world.head.query
        decided = decide_by_scores(numbers, params, room, hidden, memory, rows, count, query)
        row, items, hold_until_s, unseen = decided
        counts[DECIDED] += 1
        if unseen >= 0:
            counts[DISTRUSTED] += 1
            base = scorer.room[BASE_ROW:]
            row, items, hold_until_s = int(base[0]), base[1], base[2]
        apply(world, row, items, hold_until_s if row < 0 else math.inf)


def _column_of(model: SimulatedModel, families: Sequence[Family]) -> Width:
    """Return the number of the column of a width in tables that hold all families; one family's are its widths."""
    return Width(_OF_FAMILY * families.index(model.family) + model.width)


def _width_of(column: Width) -> Width:
    return Width(column % _OF_FAMILY)


def _model_name(model: SimulatedModel) -> ModelName:
    return ModelName(f"{model.family}_w{model.width:03d}")


def _served(model: SimulatedModel, families: Sequence[Family]) -> ServedModel:
    about = _column_of(model, families), model.accuracy, None, model.max_batch_size, max(1, model.instances), None
    return ServedModel(_model_name(model), model.family, *about, (_SPEC,), (_SPEC,))


def _known_fleet(servers: Sequence[SimulatedServer], settings: ScenarioSettings, trace: Trace) -> FleetTables:
    """Return the fleet as its router knows it at the beginning; the widths of all families are columns, in turn."""
    states, fits, joules, families = [], {}, {}, families_of(servers)
    waiting = settings.objectives.in_flight_groups - 1
    limits = [waiting + most_instances(server) for server in servers]
    for server, limit, speed in zip(servers, limits, trace.believed_speed.tolist(), strict=True):
        models = tuple(_served(m, families) for m in server.models)
        room = limit + _SPARE_BATCHES
        states.append(ServerState(server.name, models, batch_limit=room, waiting_limit=waiting))
        for model, served in zip(server.models, models, strict=True):
            key, fit = (server.name, served.name), model.start
            fits[key] = replace(fit, sum_t_s=fit.sum_t_s * speed, sum_nt_s=fit.sum_nt_s * speed)
            if model.energy_j is not None:
                sizes = np.arange(1, model.max_batch_size + 1)
                per_item_j, fixed_j = (
                    np.polyfit(sizes, model.energy_j, 1) if len(sizes) > 1 else (model.energy_j[0], 0.0)
                )
                joules[key] = EnergyLine(float(per_item_j), float(fixed_j), EnergySource.ESTIMATED)
    tables = FleetTables(states, LatencyTable(fits), EnergyTable(joules))
    for index, (server, limit) in enumerate(zip(servers, limits, strict=True)):
        tables.fleet.servers[col.BATCH_LIMIT][index] = limit
        for model in server.models:
            cell = index * tables.fleet.columns + tables.widths.index(_column_of(model, families))
            tables.fleet.models[col.MODEL_WIDTH][cell] = model.width
            if model.instances == 0:
                tables.fleet.models[col.SERVED][cell] = 0
    return tables


def _make_world(
    tables: FleetTables, servers: Sequence[SimulatedServer], settings: ScenarioSettings, trace: Trace, policy: Policy
) -> World:
    fleet, entries = tables.fleet, trace.schedule.shape[1]
    cells, families = max(1, len(servers) * fleet.columns), families_of(servers)
    most = max(m.max_batch_size for s in servers for m in s.models)
    schedule = new_table(sim.EVENT_FIELDS, entries)
    schedule[:, :entries] = trace.schedule
    failures = int(np.count_nonzero(trace.schedule[sim.KIND] == sim.FAILS))
    expiries = len(trace.arrived_s) if settings.objectives.shed_late else 0
    answers = (len(servers) + failures) * fleet.depth
    events = new_table(sim.EVENT_FIELDS, len(servers) * fleet.depth + answers + expiries)
    query, allowed, avoided = new_column(col.QUERY_FIELDS), new_column(fleet.widths), new_column(len(servers))
    query[col.MAX_PER_ITEM_J] = math.inf
    query[col.PREFER_ACCURACY] = query[col.PREFER_LATENCY] = query[col.PREFER_ENERGY] = math.nan
    allowed[:] = 1
    world = World(
        fleet=fleet,
        head=QueueHead(query, allowed, avoided),
        rows=tables.rows,
        scratch=tables.scratch,
        rule=_rule_of(policy),
        memory=np.vstack([new_memory(len(servers), fleet.columns) for _ in families]),
        requests=_requests(trace, _queues_of_classes(settings)),
        truth=new_table(sim.TRUTH_FIELDS, len(servers)),
        models=new_table(sim.TRUE_FIELDS, cells),
        service_s=new_table(cells, most),
        energy_j=new_table(cells, most),
        held=new_table(sim.HELD_FIELDS, len(servers) * fleet.depth),
        events=events,
        schedule=schedule,
        state=_state(settings, trace, policy, families=len(families)),
        heap=new_table(max(len(families), len(settings.workload.classes)), len(trace.arrived_s)),
        roots=np.full(cells, -1.0),
        sample=new_column(MOST_SAMPLED),
        hosts=new_table(sim.HOST_FIELDS, len(settings.hosts)),
        factors=_factors(settings.hosts),
        common=trace.common if trace.common.size else new_table(1, 1),
        inbox=new_table(sim.INBOX_FIELDS, answers),
        queues=_queues(settings, families, tables.widths, servers),
    )
    for index, server in enumerate(servers):
        world.truth[sim.CONTENTION][index] = server.contention
        world.truth[sim.JOINS][index] = server.dynamic_batching
        world.truth[sim.HEAT_S][index] = settings.faults.heat_s or 0.0
        world.truth[sim.HOT_ABOVE][index] = settings.faults.hot_above
        world.truth[sim.HOT_FACTOR][index] = settings.faults.throttle_factor
        _write_truth(world, index, server, [tables.widths.index(_column_of(m, families)) for m in server.models])
    world.truth[sim.HOST] = -1
    world.held[sim.CORE_UNTIL_S] = math.nan
    names = [server.name for server in servers]
    for index, host in enumerate(settings.hosts):
        _write_host(world, index, host)
        for name, core_ratio in settings.core_ratios(host).items():
            at = names.index(ServerName(name))
            world.truth[sim.HOST][at], world.truth[sim.CORE_RATIO][at] = index, core_ratio
    return world


def _factors(hosts: Sequence[HostSettings]) -> Table:
    found = [() if h.residuals is None else h.residuals.factors or () for h in hosts]
    table = new_table(max(1, len(hosts)), max(map(len, found), default=0))
    for row, factors in zip(table, found, strict=False):
        row[: len(factors)] = sorted(factors)
    return table


def _write_host(world: World, index: int, settings: HostSettings) -> None:
    hosts, state, residuals, router = world.hosts, world.state, settings.residuals, settings.router
    hosts[sim.CORES][index], hosts[sim.SLICE_S][index] = settings.cores, settings.slice_ms / 1e3
    hosts[sim.NEXT_S][index] = math.inf
    if residuals is not None:
        hosts[sim.FACTORS][index] = len(residuals.factors or ())
        hosts[sim.CORRELATION][index] = residuals.correlation
        hosts[sim.COMMON_STEP_S][index] = residuals.drift_s / COMMON_STEPS
    if router is not None:
        state[sim.ROUTER_HOST] = index
        state[sim.MOST_READ], state[sim.CALLERS_HERE] = router.turn_requests, router.has_callers
        state[sim.REQUEST_COST_S], state[sim.DECISION_COST_S] = router.request_us / 1e6, router.decision_us / 1e6
        state[sim.BATCH_COST_S], state[sim.ANSWER_COST_S] = router.batch_us / 1e6, router.answer_us / 1e6


def _rule_of(policy: Policy) -> Column:
    if isinstance(policy, LearnedPolicy):
        return policy.base.numbers
    return policy.numbers if isinstance(policy, RulePolicy) else new_column(RULE_FIELDS)


def _queues_of_classes(settings: ScenarioSettings) -> list[int]:
    """Return the queue of each class, by index: that of the first one with its floor and preference."""
    asked = [(own.min_accuracy, own.preference) for own in settings.workload.classes]
    return [asked.index(own) for own in asked]


def _queues(
    settings: ScenarioSettings,
    families: Sequence[Family],
    columns: Sequence[Width],
    servers: Sequence[SimulatedServer],
) -> Table:
    classes = settings.workload.classes
    table = new_table(sim.QUEUE_FIELDS, max(len(families), len(classes)))
    table[sim.MOST_RPS] = table[sim.KNOWN_MOST_RPS] = UNKNOWN.most_rps
    table[sim.SAME_WIDTHS] = np.arange(table.shape[1])
    table[sim.HELD_HEAD] = -1
    table[sim.HELD_UNTIL_S] = math.inf
    preferences = slice(sim.CLASS_PREFER_ACCURACY, sim.CLASS_PREFER_ENERGY + 1)
    table[preferences] = math.nan
    for index, name in enumerate(families):
        own = settings.families.get(name)
        table[:TURN_FIELDS, index] = new_turns(1.0 if own is None else own.weight)
        table[sim.MIN_ACCURACY][index] = (own or settings.objectives).min_accuracy
        places = [place for place, column in enumerate(columns) if column // _OF_FAMILY == index]
        table[sim.FIRST_COLUMN][index], table[sim.END_COLUMN][index] = places[0], places[-1] + 1
    floors = [max(asked.min_accuracy, settings.objectives.min_accuracy) for asked in classes]
    accepted = [{m.width for s in servers for m in s.models if m.accuracy >= floor} for floor in floors]
    for index, asked in enumerate(classes):
        table[sim.MIN_ACCURACY][index] = floors[index]
        table[sim.SAME_WIDTHS][index] = accepted.index(accepted[index])
        if asked.preference is not None:
            table[preferences, index] = astuple(parse_preference(asked.preference))
    return table


def _write_truth(world: World, index: int, server: SimulatedServer, columns: Sequence[int]) -> None:
    truth, models = world.truth, world.models
    truth[sim.IS_UP][index] = truth[sim.SPEED][index] = 1
    truth[sim.IDLE_W][index] = math.nan if server.idle_w is None else server.idle_w
    budget_mib = None if server.limits is None else server.limits.memory_budget_mib
    truth[sim.BUDGET_BYTES][index] = (budget_mib or 0) * MIB
    for model, column in zip(server.models, columns, strict=True):
        cell = index * world.fleet.columns + column
        world.service_s[cell, : model.max_batch_size] = model.service_s
        world.energy_j[cell, : model.max_batch_size] = math.nan if model.energy_j is None else model.energy_j
        models[sim.MARGIN_MEAN][cell] = math.nan
        models[sim.SIGMA][cell], models[sim.DELAY_S][cell] = model.sigma, model.delay_s
        models[sim.INSTANCE_BYTES][cell] = model.instance_bytes
        fit = model.start
        models[sim.FIT_WEIGHT][cell] = fit.weight
        models[sim.FIT_N][cell], models[sim.FIT_NN][cell] = fit.sum_n, fit.sum_nn
        models[sim.FIT_T_S][cell], models[sim.FIT_NT_S][cell] = fit.sum_t_s, fit.sum_nt_s


def _requests(trace: Trace, queues: Sequence[int]) -> Table:
    requests = new_table(sim.REQUEST_FIELDS, len(trace.arrived_s))
    requests[sim.ARRIVED_S], requests[sim.DEADLINE_S] = trace.arrived_s, trace.deadline_s
    requests[sim.DUE_S] = trace.deadline_s
    requests[sim.PRIORITY], requests[sim.REQUEST_ITEMS] = trace.priority, trace.items
    requests[sim.NOISE], requests[sim.WAKE] = trace.noise, trace.wakes
    requests[sim.FAMILY], requests[sim.CLASS] = trace.family, trace.family
    if queues:
        requests[sim.CLASS] = np.array(queues, float)[trace.of_class.astype(int)]
    requests[sim.FIRST_UNIFORM], requests[sim.SECOND_UNIFORM] = trace.uniforms
    requests[[sim.SENT_S, sim.ANSWERED_S, sim.ACCURACY, sim.ENERGY_J]] = math.nan
    requests[[sim.NEXT, sim.QUEUE, sim.LEFT, sim.RIGHT, sim.SERVER, sim.WIDTH]] = -1.0
    return requests


def _state(settings: ScenarioSettings, trace: Trace, policy: Policy, *, families: int) -> Column:
    state, objectives = new_column(sim.STATE_FIELDS), settings.objectives
    state[sim.ARRIVALS] = len(trace.arrived_s)
    state[sim.ENTRIES] = trace.schedule.shape[1]
    state[sim.HOSTS] = len(settings.hosts)
    state[sim.ROUTER_HOST] = -1
    state[sim.HAS_SLEPT] = 1
    state[sim.HOLD_UNTIL_S] = state[sim.CONTROL_S] = state[sim.CALLERS] = math.inf
    if settings.workload.callers is not None:
        state[sim.CALLERS] = settings.workload.callers
    is_varied = np.any(np.diff(trace.priority)) or np.any(np.diff(trace.deadline_s) < 0)
    classes = settings.workload.classes
    state[sim.CAN_DISPLACE] = bool(is_varied or families > 1 or classes)
    state[sim.SHEDS_LATE] = objectives.shed_late and objectives.deadline_ms / 1e3 < objectives.request_timeout_s
    state[sim.FAMILIES], state[sim.CLASSES] = families, max(families, len(classes))
    state[sim.HAS_PREFERENCES] = any(own.preference is not None for own in classes)
    state[sim.LEAVES_PREFERENCES] = not (isinstance(policy, LearnedPolicy) and policy.file.kind == SLIM)
    state[sim.QUEUE_LIMIT] = objectives.queue_limit
    state[sim.TIMEOUT_S] = objectives.request_timeout_s
    state[sim.MAX_ATTEMPTS] = objectives.max_attempts
    state[sim.LEARNS] = settings.telemetry.learns
    read_every_s = settings.telemetry.read_every_s
    state[sim.READ_EVERY_S] = state[sim.NEXT_READING_S] = math.inf if read_every_s is None else read_every_s
    state[sim.REPORTED] = settings.telemetry.report_every_s is not None
    state[sim.IS_EXTERNAL] = not isinstance(policy, RulePolicy)
    state[sim.BINDS_EARLY] = policy.binding is Binding.EARLY
    own = policy.slack_margin if isinstance(policy, RulePolicy | LearnedPolicy) else None
    state[sim.SLACK_MARGIN] = objectives.slack_margin if own is None else own
    state[sim.JUDGES] = own is None
    only = policy.only_width if isinstance(policy, RulePolicy) else None
    state[sim.ONLY_WIDTH] = math.nan if only is None else only
    return state
