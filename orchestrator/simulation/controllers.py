"""The controllers of simulated servers: the very plan that runs beside a real Triton, under a router that is simulated.

A controller looks every ``period_s``. It sees what Triton's counters, its model index and NVML would say, asks
``planner.plan`` and does what that says, one change after another, each of which takes its time: a width that is loaded
serves from the end of its load, one that is unloaded is sent nothing from the beginning, and old and new lie in memory
together while a width is reloaded. The router knows of each change at once.

What is simpler than live (orchestrator.controller): all of memory is known and none leaks, a change waits for none that
takes too long, no change fails, and a load slows nobody down. Triton's own batching is left alone, because the router
makes the batches here. A server that is down when its controller looks comes back as Triton does, with nothing loaded.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from orchestrator.config import ControllerSettings
from orchestrator.errors import ConfigError
from orchestrator.planner.actions import Action, ActionKind, Outcome
from orchestrator.planner.host import HostSnapshot, Limits, LoadedModel, ModelSnapshot, ModelStatus, RepositoryModel
from orchestrator.planner.plan import plan
from orchestrator.planner.rates import Counters, Rates, measure_rates
from orchestrator.planner.resident import resident_models
from orchestrator.planner.scaling.plan_builder import still_fits
from orchestrator.planner.state import SchedulerState
from orchestrator.policies.tables import columns as col
from orchestrator.simulation.scenario.fleet import MAX_INSTANCES, SimulatedModel, SimulatedServer
from orchestrator.simulation.world import columns as sim
from orchestrator.simulation.world.devices import account
from orchestrator.simulation.world.layout import World
from orchestrator.simulation.world.loop import set_instances
from orchestrator.snapshot import ModelName

_MIB: Final = 1 << 20
_MOST_STEPS_AT_REST: Final = 100
_STEP_AT_REST_S: Final = 60.0
"""Longer than any change and any pause between two."""


@dataclass(frozen=True, slots=True)
class _Width:
    """A width of a controller's server: what files say of it, what it is, and its column in the tables."""

    model: RepositoryModel
    simulated: SimulatedModel
    column: int


@dataclass(slots=True)
class SimulatedController:
    """The controller of one server of a world.

    Its memory is in immutable values, so ``copy.copy`` makes one that goes on from the same point.

    Attributes:
        server: by its index in the world.
        due_s: when it is next to act.
        instances: that each width has.
        changes: how often each kind of change was made since the run began.
        peak_bytes: the most memory that was in use.
    """

    server: int
    limits: Limits
    widths: Mapping[ModelName, _Width]
    due_s: float = 0.0
    instances: Mapping[ModelName, int] = field(default_factory=dict)
    changes: Mapping[ActionKind, int] = field(default_factory=dict)
    peak_bytes: int = 0
    _state: SchedulerState = field(default_factory=SchedulerState)
    _planned: tuple[Action, ...] = ()
    _under_way: Outcome | None = None
    _stepped_s: float = 0.0
    _looked_s: float | None = 0.0
    _counted: Mapping[ModelName, Counters] = field(default_factory=dict)
    _utilised_s: float = 0.0

    @property
    def used_bytes(self) -> int:
        """Memory that its server uses now."""
        held = sum(count * self._instance_bytes(name) for name, count in self.instances.items())
        under_way = self._under_way
        if under_way is None:
            return held
        action = under_way.action
        if action.kind is ActionKind.RELOAD:  # the old version serves until the new one does
            return held + action.instances * self._instance_bytes(action.model)
        more = max(0, action.instances - under_way.instances_before)
        return held + more * self._instance_bytes(action.model)

    def rest(self, until_s: float) -> None:
        """Do at once all that it would have done long before ``until_s``, with nobody sending anything.

        Raises:
            ConfigError: when it never comes to rest.
        """
        for step in range(_MOST_STEPS_AT_REST):
            now_s = until_s - _STEP_AT_REST_S * (_MOST_STEPS_AT_REST - step)
            made, self._state = plan(self._snapshot({}, 0.0), self._state, self.limits, now_s=now_s)
            if not made.actions:
                return
            for action in made.actions:
                if still_fits(action, self.used_bytes, self.limits):
                    self._begin(action, now_s)
                    self._end(now_s + self._takes_s(action))
        raise ConfigError(f"controller: {self.limits.minimum[0]} and its siblings never come to rest; raise the limits")

    def act(self, world: World) -> None:
        """Do what is due: end a change, look and plan, begin the next change."""
        now_s = float(world.state[sim.NOW_S])
        if world.truth[sim.IS_UP][self.server] == 0:
            self._lose_all(world, now_s)
            return
        if self._under_way is not None:
            action = self._end(now_s)
            world.truth[sim.BUSY_J][self.server] += self._load_j(action)
            if action.kind is not ActionKind.UNLOAD:
                self._show(world, action.model)
        if not self._planned and now_s >= self._next_step_s():
            self._step(world, now_s)
        self._begin_next(world, now_s)

    def _step(self, world: World, now_s: float) -> None:
        snapshot = self._look(world, now_s)
        made, self._state = plan(snapshot, self._state, self.limits, now_s=now_s)
        self._planned, self._stepped_s = made.actions, now_s

    def _begin_next(self, world: World, now_s: float) -> None:
        """Begin the next change of the plan, if it still fits; else the next step is due."""
        action, *rest = self._planned or (None,)
        self._planned = tuple(rest)
        if action is not None and still_fits(action, self.used_bytes, self.limits):
            self._begin(action, now_s)
            if action.kind is ActionKind.UNLOAD:  # Triton runs what it has, and takes nothing new
                self._show(world, action.model, instances=0)
            self.due_s = now_s + self._takes_s(action)
            return
        self._planned = ()  # the rest was planned on it
        self.due_s = max(now_s, self._next_step_s())

    def _next_step_s(self) -> float:
        return self._stepped_s + self.limits.settings.period_s

    def _begin(self, action: Action, now_s: float) -> None:
        before = self.instances.get(action.model, 0)
        self._under_way = Outcome(action, now_s, now_s, memory_before_bytes=self.used_bytes, instances_before=before)
        self.peak_bytes = max(self.peak_bytes, self.used_bytes)

    def _end(self, now_s: float) -> Action:
        assert self._under_way is not None, "nothing is under way"
        begun, self._under_way = self._under_way, None
        action = begun.action
        self.instances = {**self.instances, action.model: action.instances}
        self.changes = {**self.changes, action.kind: self.changes.get(action.kind, 0) + 1}
        outcome = replace(begun, ended_s=now_s, memory_after_bytes=self.used_bytes)
        self._state = self._state.record(outcome, self.limits)
        return action

    def _lose_all(self, world: World, now_s: float) -> None:
        """Forget what a server that is down had loaded, and what was to be done to it."""
        self._planned, self._under_way, self._looked_s = (), None, None
        for name in self.widths:
            self.instances = {**self.instances, name: 0}
            self._show(world, name)
        self._stepped_s = now_s
        self.due_s = self._next_step_s()

    def _show(self, world: World, name: ModelName, *, instances: int | None = None) -> None:
        count = self.instances.get(name, 0) if instances is None else instances
        set_instances(world, self.server, self.widths[name].column, float(count))

    def _look(self, world: World, now_s: float) -> HostSnapshot:
        """Return what its host shows, with rates since the look before."""
        counted = {name: self._counters(world, width.column) for name, width in self.widths.items()}
        account(world, self.server)
        utilised_s = float(world.truth[sim.UTILISED_S][self.server])
        rates: dict[ModelName, Rates] = {}
        utilisation_ratio = None
        if self._looked_s is not None and now_s > self._looked_s:
            window_s = now_s - self._looked_s
            rates = {name: measure_rates(self._counted.get(name), now, window_s) for name, now in counted.items()}
            utilisation_ratio = min(1.0, (utilised_s - self._utilised_s) / window_s)
        self._counted, self._utilised_s, self._looked_s = counted, utilised_s, now_s
        return self._snapshot(rates, utilisation_ratio)

    def _snapshot(self, rates: Mapping[ModelName, Rates], utilisation_ratio: float | None) -> HostSnapshot:
        models = tuple(
            ModelSnapshot(width.model, self._loaded(name), rates.get(name, Rates()))
            for name, width in self.widths.items()
        )
        return HostSnapshot(models, self.used_bytes, utilisation_ratio)

    def _loaded(self, name: ModelName) -> LoadedModel:
        count = self.instances.get(name, 0)
        return LoadedModel(name, ModelStatus.READY if count else ModelStatus.ABSENT, instances=count)

    def _counters(self, world: World, column: int) -> Counters:
        """Return what Triton would have counted; to it a batch of the router's is one request."""
        model, fleet = self.server * world.fleet.columns + column, world.fleet
        first = self.server * fleet.depth
        waiting = 0
        for slot in range(first, first + int(fleet.servers[col.BATCH_COUNT][self.server])):
            is_open = math.isnan(world.held[sim.DONE_S][slot]) and math.isnan(world.held[sim.STARTED_S][slot])
            waiting += is_open and int(fleet.batches[col.COLUMN][slot]) == column
        return Counters(
            requests=int(world.models[sim.RUN_CALLS][model]),
            items=int(world.models[sim.RUN_ITEMS][model]),
            executions=int(world.models[sim.RUN_BATCHES][model]),
            queue_s=float(world.models[sim.RUN_WAITED_S][model]),
            service_s=float(world.models[sim.RUN_S][model]),
            pending_requests=waiting,
        )

    def _takes_s(self, action: Action) -> float:
        simulated = self.widths[action.model].simulated
        match action.kind:
            case ActionKind.LOAD | ActionKind.RELOAD:
                return simulated.load_s
            case ActionKind.UNLOAD:
                return simulated.unload_s
            case _:
                return simulated.scale_s

    def _load_j(self, action: Action) -> float:
        is_load = action.kind in (ActionKind.LOAD, ActionKind.RELOAD)
        simulated = self.widths[action.model].simulated
        return simulated.load_s * simulated.load_w if is_load else 0.0

    def _instance_bytes(self, name: ModelName) -> int:
        return self.widths[name].simulated.instance_bytes


def controllers_of(
    settings: ControllerSettings | None, servers: Sequence[SimulatedServer], columns: Sequence[Mapping[ModelName, int]]
) -> list[SimulatedController]:
    """Return the controllers of a fleet, at rest before its first request; none where the settings are None.

    ``columns`` has the columns of each server's widths in the tables, by the names of its models, in their order.

    Raises:
        ConfigError: when the memory of a width is unknown, a width that is named is not there, or the narrowest widths
            don't fit their budget.
    """
    if settings is None:
        return []
    found = []
    for index, (server, places) in enumerate(zip(servers, columns, strict=True)):
        widths = {width.model.name: width for width in _widths_of(server, places)}
        controller = SimulatedController(index, _limits_of(settings, server, widths), widths, due_s=settings.period_s)
        controller.rest(0.0)
        missing = [name for name in controller.limits.minimum if not controller.instances.get(name)]
        if missing:
            raise ConfigError(
                f"servers: {server.name}: limits.memory_budget_mib is {controller.limits.memory_budget_bytes / _MIB:g},"
                f" in which {missing[0]} does not fit; raise it"
            )
        controller.changes = {}
        found.append(controller)
    return found


def begin_control(world: World, controllers: Sequence[SimulatedController]) -> None:
    """Let a world that has not begun have what its controllers have loaded."""
    for controller in controllers:
        for name, width in controller.widths.items():
            set_instances(world, controller.server, width.column, float(controller.instances.get(name, 0)))
    world.state[sim.CONTROL_S] = min((each.due_s for each in controllers), default=math.inf)


def control(world: World, controllers: Sequence[SimulatedController]) -> bool:
    """Let those controllers act for which a world has stopped; return whether it had."""
    if world.state[sim.IS_CONTROL_DUE] == 0:
        return False
    for controller in controllers:
        if controller.due_s <= world.state[sim.NOW_S]:
            controller.act(world)
    world.state[sim.IS_CONTROL_DUE] = 0
    world.state[sim.CONTROL_S] = min(each.due_s for each in controllers)
    return True


def _widths_of(server: SimulatedServer, columns: Mapping[ModelName, int]) -> Iterator[_Width]:
    for simulated, name in zip(server.models, columns, strict=True):
        if simulated.instance_bytes <= 0:
            raise ConfigError(f"servers: {server.name}: {name} has a controller and no instance_mib; name its memory")
        model = RepositoryModel(
            name=name,
            family=simulated.family,
            width=simulated.width,
            accuracy=simulated.accuracy,
            max_batch_size=simulated.max_batch_size,
            weights_bytes=0,
        )
        yield _Width(model, simulated, columns[name])


def _limits_of(settings: ControllerSettings, server: SimulatedServer, widths: Mapping[ModelName, _Width]) -> Limits:
    assert server.limits is not None and server.limits.memory_budget_mib is not None  # a scenario is refused without
    minimum, wanted = resident_models(settings, [width.model for width in widths.values()])
    return Limits(
        memory_budget_bytes=int(server.limits.memory_budget_mib * _MIB),
        minimum=minimum,
        wanted=tuple(dict.fromkeys((*minimum, *wanted))),
        max_instances=server.limits.max_instances or MAX_INSTANCES,
        utilisation_ceiling_ratio=server.limits.utilisation_ceiling,
        # A width that was never loaded is taken for what it is: a run of a minute has no time to find out.
        unmeasured_instance_bytes=max(width.simulated.instance_bytes for width in widths.values()),
        batching_horizon_s=0.0,
        settings=settings,
    )
