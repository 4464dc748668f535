"""A host as a fluid: items flow in, instances drain them, memory is what it truly is and not what was assumed.

Carries plans out as the controller does, action after action and each only while it still fits, and notes the highest
memory ever in use, reload peaks included. Fast enough for simulated hours.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from orchestrator.config import ControllerSettings
from orchestrator.planner.actions import Action, ActionKind, Outcome, Plan
from orchestrator.planner.host import (
    Batching,
    HostSnapshot,
    Limits,
    LoadedModel,
    ModelSnapshot,
    ModelStatus,
    RepositoryModel,
)
from orchestrator.planner.plan import plan
from orchestrator.planner.rates import Rates
from orchestrator.planner.scaling.plan_builder import still_fits
from orchestrator.planner.state import SchedulerState
from orchestrator.snapshot import Family, ModelName, Width
from tests.planner.settings import with_settings

MIB = 1 << 20


def name_of(width: int, family: str = "net") -> ModelName:
    return ModelName(f"{family}_w{width:03d}")


@dataclass
class FluidModel:
    """One width: what it is, and how it is served at the moment."""

    width: int
    per_item_s: float
    batch_s: float
    load_bytes: int
    instance_bytes: int
    instances: int = 0
    batching: Batching = field(default_factory=Batching)
    queue_items: float = 0.0
    rates: Rates = field(default_factory=Rates)
    held_bytes: list[int] = field(default_factory=list)
    live: int | None = None
    failing: bool = False
    family: str = "net"

    @property
    def name(self) -> ModelName:
        return name_of(self.width, self.family)

    def snapshot(self, demanded_until_s: float | None) -> ModelSnapshot:
        model = RepositoryModel(
            self.name, Family(self.family), Width(self.width), self.width / 100, 64, self.load_bytes
        )
        is_ready = self.instances > 0
        loaded = LoadedModel(
            self.name,
            ModelStatus.READY if is_ready else ModelStatus.ABSENT,
            instances=self.instances,
            batching=self.batching if is_ready else Batching(),
            is_python_based=self.live is not None,
        )
        is_seen = is_ready and self.live is not None
        return ModelSnapshot(
            model,
            loaded,
            self.rates if is_ready else Rates(),
            self.live,
            instance_bytes=max(self.held_bytes) if is_seen else None,
            demanded_until_s=demanded_until_s,
        )


class FluidHost:
    """Several widths on so many CPUs."""

    def __init__(
        self, models: list[FluidModel], *, cpus: int = 2, base_bytes: int = 50 * MIB, noise: float = 0.0, seed: int = 0
    ) -> None:
        self.models = {model.name: model for model in models}
        self.cpus = cpus
        self.base_bytes = base_bytes
        self.peak_bytes = base_bytes
        self.now_s = 0.0
        self.starts = 1
        self.clients: dict[ModelName, int] = {}
        """Clients that send the next request when the last was answered; they take the place of arrivals."""
        self.demands: dict[ModelName, float] = {}
        self.done: list[tuple[float, Action]] = []
        self.plans: list[Plan] = []
        self.busy_total = 0.0
        self._noise = noise
        self._uniforms = random.Random(seed)

    @property
    def used_bytes(self) -> int:
        return self.base_bytes + sum(sum(model.held_bytes) for model in self.models.values())

    def advance(self, arrivals_per_s: Mapping[ModelName, float], dt_s: float) -> None:
        """Let time pass; arrivals at a width that is not loaded are lost."""
        self.now_s += dt_s
        wanted = {
            name: min(float(model.instances), self._work(model, arrivals_per_s.get(name, 0.0), dt_s))
            for name, model in self.models.items()
        }
        share = min(1.0, self.cpus / total) if (total := sum(wanted.values())) else 1.0
        self.busy_total = total * share
        for name, model in self.models.items():
            if self.clients.get(name) and model.instances:
                self._serve_clients(model, self.clients[name], dt_s)
            else:
                self._serve(model, arrivals_per_s.get(name, 0.0), share, dt_s)

    def _batch(self, model: FluidModel, arrivals_per_s: float) -> float:
        gathered = 1 + arrivals_per_s * model.batching.delay_us / 1e6
        if model.batching.preferred_sizes:
            gathered = min(gathered, model.batching.preferred_sizes[-1])
        spare = model.instances - arrivals_per_s * model.per_item_s
        formed = arrivals_per_s * model.batch_s / spare if spare > 0 else 64.0
        return min(64.0, max(1.0, gathered, formed))

    def _work(self, model: FluidModel, arrivals_per_s: float, dt_s: float) -> float:
        if not model.instances:
            return 0.0
        size = self._batch(model, arrivals_per_s)
        return (arrivals_per_s + model.queue_items / dt_s) * (model.per_item_s + model.batch_s / size)

    def _serve(self, model: FluidModel, arrivals_per_s: float, share: float, dt_s: float) -> None:
        if not model.instances:
            model.queue_items = 0.0
            model.rates = Rates()
            return
        size = self._batch(model, arrivals_per_s)
        run_s = (model.per_item_s * size + model.batch_s) / share
        due = arrivals_per_s * dt_s + model.queue_items
        served = min(due, model.instances * dt_s / run_s * size)
        if model.failing:
            model.rates = Rates(window_s=dt_s, failures_per_s=arrivals_per_s)
            return
        left = due - served
        busy = served / size * run_s / dt_s / model.instances
        waiting = (model.queue_items + left) / 2 + (busy * busy / (1 - busy) if busy < 0.99 else 8.0)
        model.queue_items = min(left, 500.0)
        model.rates = Rates(
            window_s=dt_s,
            requests_per_s=served / dt_s,
            items_per_s=served / dt_s,
            executions_per_s=served / size / dt_s,
            waiting_requests=waiting if served else 0.0,
            items_per_execution=size if served else None,
            service_s=run_s if served else None,
        )

    def _serve_clients(self, model: FluidModel, clients: int, dt_s: float) -> None:
        target = max(model.batching.preferred_sizes, default=64)
        is_short = model.batching.delay_us > 0 and clients < target
        if is_short:  # all there are gather, and wait for the rest that never come
            size, wait_s = float(clients), model.batching.delay_us / 1e6
        else:
            size, wait_s = (float(target) if model.batching.delay_us else clients / (model.instances + 1)), 0.0
        size = max(1.0, size)
        run_s = model.per_item_s * size + model.batch_s
        instances = min(model.instances, self.cpus)
        items_per_s = min(instances * size / run_s, clients / (wait_s + run_s))
        busy = items_per_s / size * run_s
        self.busy_total += busy
        model.rates = Rates(
            window_s=dt_s,
            requests_per_s=items_per_s,
            items_per_s=items_per_s,
            executions_per_s=items_per_s / size,
            waiting_requests=max(0.0, clients - busy * size),
            items_per_execution=size,
            service_s=run_s,
        )

    def snapshot(self) -> HostSnapshot:
        return HostSnapshot(
            models=tuple(model.snapshot(self.demands.get(name)) for name, model in self.models.items()),
            memory_used_bytes=self.used_bytes,
            utilisation_ratio=min(1.0, self.busy_total / self.cpus),
            server_id=str(self.starts),
        )

    def step(self, state: SchedulerState, limits: Limits) -> SchedulerState:
        """Plan, and carry the plan out."""
        made, state = plan(self.snapshot(), state, limits, now_s=self.now_s)
        self.plans.append(made)
        for action in made.actions:
            if still_fits(action, self.used_bytes, limits):
                before = self.models[action.model].instances
                outcome = self.perform(action)
                state = state.record(replace(outcome, instances_before=before), limits)
        return state

    def perform(self, action: Action) -> Outcome:
        model, before = self.models[action.model], self.used_bytes
        match action.kind:
            case ActionKind.LOAD:
                assert model.instances == 0
                model.held_bytes = [self._noisy(model.load_bytes)]
                model.held_bytes += [self._noisy(model.instance_bytes) for _ in range(action.instances - 1)]
            case ActionKind.SCALE_UP:
                assert action.instances > model.instances > 0
                extra = action.instances - model.instances
                model.held_bytes += [self._noisy(model.instance_bytes) for _ in range(extra)]
            case ActionKind.SCALE_DOWN:
                assert 0 < action.instances < model.instances
                del model.held_bytes[action.instances :]
            case ActionKind.RELOAD:
                assert 0 < model.instances <= action.instances
                new = [self._noisy(model.load_bytes)]
                new += [self._noisy(model.instance_bytes) for _ in range(action.instances - 1)]
                self.peak_bytes = max(self.peak_bytes, self.used_bytes + sum(new))
                model.held_bytes = new
                model.failing = False
                model.live = model.live if model.live is None else action.instances
            case ActionKind.UNLOAD:
                assert model.instances > 0
                model.held_bytes = []
        model.instances, model.batching = action.instances, action.batching
        if model.live is not None and action.kind is not ActionKind.SCALE_DOWN:
            model.live = action.instances
        self.peak_bytes = max(self.peak_bytes, self.used_bytes)
        self.done.append((self.now_s, action))
        return Outcome(
            action,
            self.now_s,
            self.now_s + {ActionKind.SCALE_UP: 0.3, ActionKind.UNLOAD: 0.2}.get(action.kind, 1.0),
            memory_before_bytes=before,
            memory_after_bytes=self.used_bytes,
        )

    def _noisy(self, size_bytes: int) -> int:
        return math.ceil(size_bytes * (1 + self._noise * (2 * self._uniforms.random() - 1)))


def fluid_models(widths: tuple[int, ...] = (25, 50, 75, 100), family: str = "net") -> list[FluidModel]:
    """A family in which a width costs by its square, as convolutions do."""
    return [
        FluidModel(
            width,
            per_item_s=0.004 * (width / 100) ** 2,
            batch_s=0.001,
            load_bytes=int(30 * MIB + 20 * MIB * width / 100),
            instance_bytes=int(20 * MIB + 20 * MIB * width / 100),
            family=family,
        )
        for width in widths
    ]


def limits_for(models: list[FluidModel], budget_bytes: int, **changes: object) -> Limits:
    """The narrowest is the minimum set, all are wanted."""
    names = tuple(model.name for model in sorted(models, key=lambda m: m.width))
    values: dict[str, object] = {
        "memory_budget_bytes": budget_bytes,
        "minimum": names[:1],
        "wanted": names,
        "max_instances": 4,
        "unmeasured_instance_bytes": 60 * MIB,
    }
    settings = {key: changes.pop(key) for key in list(changes) if key in ControllerSettings.model_fields}
    return with_settings(Limits(**{**values, **changes}), **settings)  # type: ignore[arg-type]
