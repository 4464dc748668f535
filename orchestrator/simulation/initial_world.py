"""The world in which a run of a scenario begins, and the fleet as its router knows it then."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import astuple, replace
from typing import Final

import numpy as np

from orchestrator.policies.family_turns import TURN_FIELDS, new_turns
from orchestrator.policies.fleet.fleet_tables import FleetTables
from orchestrator.policies.learned.policy import LearnedPolicy
from orchestrator.policies.preference import parse_preference
from orchestrator.policies.protocol import Binding, Policy
from orchestrator.policies.queue_rules import MOST_SAMPLED, UNKNOWN
from orchestrator.policies.registry import RulePolicy
from orchestrator.policies.rule import RULE_FIELDS
from orchestrator.policies.tables import columns as col
from orchestrator.policies.tables.compiled import Column, Table, new_column, new_table
from orchestrator.policies.tables.layout import QueueHead
from orchestrator.policies.tables.memory import new_memory
from orchestrator.profile.document import EnergySource
from orchestrator.profile.fit import EnergyLine, EnergyTable, LatencyTable
from orchestrator.simulation.scenario.fleet import SimulatedModel, SimulatedServer, families_of, most_instances
from orchestrator.simulation.scenario.hosts import HostSettings
from orchestrator.simulation.scenario.server_settings import MIB
from orchestrator.simulation.scenario.settings import ScenarioSettings
from orchestrator.simulation.scenario.trace import COMMON_STEPS, Trace
from orchestrator.simulation.world import columns as sim
from orchestrator.simulation.world.layout import World
from orchestrator.snapshot import Family, ModelName, ServedModel, ServerName, ServerState, TensorSpec, Width

_OF_FAMILY: Final = 1000
"""A column's number in the tables is that of its family times this, and its width."""
_SPEC = TensorSpec("pixels", "FP32", (1,))
_SPARE_BATCHES = 6  # room in the tables for batches done whose report has not come


def column_of(model: SimulatedModel, families: Sequence[Family]) -> Width:
    """Return the number of the column of a width in tables that hold all families; one family's are its widths."""
    return Width(_OF_FAMILY * families.index(model.family) + model.width)


def widths_of(columns: Sequence[Width], family: int) -> tuple[Width, ...]:
    """Return the widths of a family, by its index, among the columns of tables."""
    return tuple(Width(column % _OF_FAMILY) for column in columns if column // _OF_FAMILY == family)


def model_name(model: SimulatedModel) -> ModelName:
    """Return what a simulated server calls a model."""
    return ModelName(f"{model.family}_w{model.width:03d}")


def _served(model: SimulatedModel, families: Sequence[Family]) -> ServedModel:
    about = column_of(model, families), model.accuracy, None, model.max_batch_size, max(1, model.instances), None
    return ServedModel(model_name(model), model.family, *about, (_SPEC,), (_SPEC,))


def known_fleet(servers: Sequence[SimulatedServer], settings: ScenarioSettings, trace: Trace) -> FleetTables:
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
            cell = index * tables.fleet.columns + tables.widths.index(column_of(model, families))
            tables.fleet.models[col.MODEL_WIDTH][cell] = model.width
            if model.instances == 0:
                tables.fleet.models[col.SERVED][cell] = 0
    return tables


def make_world(
    tables: FleetTables, servers: Sequence[SimulatedServer], settings: ScenarioSettings, trace: Trace, policy: Policy
) -> World:
    """Return the world at time 0, when nothing has arrived; ``tables`` are what the router knows of it."""
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
        _write_truth(world, index, server, [tables.widths.index(column_of(m, families)) for m in server.models])
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
        state[sim.ROUTER_HOST], hosts[sim.ROUTER_WEIGHT][index] = index, router.weight
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
    busy_w = [m.energy_j[-1] / m.service_s[-1] for m in server.models if m.energy_j and m.service_s[-1] > 0]
    truth[sim.MOST_W][index] = (server.idle_w or 0.0) + max(busy_w, default=0.0)
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
        models[sim.START_PER_ITEM_S][cell], models[sim.START_FIXED_S][cell] = fit.line()


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
