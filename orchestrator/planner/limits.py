"""The bounds within which a plan moves; resolved from fleet.yaml and the host before the first step."""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.snapshot import ModelName


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds and timings of one host's plans; the settings in orchestrator.config explain the defaults.

    Attributes:
        memory_budget_bytes: that must never be exceeded, reload peaks included.
        minimum: models that always stay loaded.
        wanted: models loaded whenever there is room, most wanted first.
        max_instances: of one model.
        utilisation_ceiling_ratio: above it nothing grows.
        memory_margin_ratio: estimates are taken this much larger before they are held against the budget.
        unmeasured_instance_bytes: what an instance is taken for until one of its model has been measured.
        leak_limit_bytes: of memory not given back, above which a restart of Triton is advised.
        grow_busy_ratio: instances busier than this, while requests wait, call for another one.
        grow_after_s: for how long they must have been.
        shrink_busy_ratio: one instance fewer must stay below this; smaller than grow_busy_ratio.
        idle_s: for how long it must before an instance is taken away, or a model makes room for another.
        unload_after_s: without a request, before a model that is neither wanted nor demanded is unloaded.
        cooldown_s: between two changes of one model.
        deadline_budget_s: that batching may use up, wait and run together.
        batching_horizon_s: over which a batching's gain is held against the price of the reload.
        batching_saving_ratio: least part of an instance that a batching must save.
        batching_cooldown_s: between two batching changes of one model.
        repair_after_s: for how long an instance must have been missing, or every answer an error.
        quarantine_s: after the first failure of a config; doubles with each.
        quarantine_max_s: and no longer than this.
        has_shared_runtime: whether the first load of a server brings libraries along that stay, as CUDA's do; what it
            takes is then no size of its model.
        stuck_after_s: of loading or unloading, before it is reported.
    """

    memory_budget_bytes: int
    minimum: tuple[ModelName, ...]
    wanted: tuple[ModelName, ...] = ()
    max_instances: int = 4
    utilisation_ceiling_ratio: float = 0.9
    memory_margin_ratio: float = 0.1
    unmeasured_instance_bytes: int = 128 << 20
    leak_limit_bytes: int = 512 << 20
    grow_busy_ratio: float = 0.7
    grow_after_s: float = 1.0
    shrink_busy_ratio: float = 0.4
    idle_s: float = 30.0
    unload_after_s: float = 300.0
    cooldown_s: float = 2.0
    deadline_budget_s: float = 0.05
    batching_horizon_s: float = 60.0
    batching_saving_ratio: float = 0.05
    batching_cooldown_s: float = 60.0
    repair_after_s: float = 2.0
    quarantine_s: float = 5.0
    quarantine_max_s: float = 300.0
    stuck_after_s: float = 60.0
    has_shared_runtime: bool = False
