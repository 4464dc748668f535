"""The bounds within which a plan moves; resolved from fleet.yaml and the host before the first step."""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.snapshot import ModelName


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds and timings of one host's plans; the settings in orchestrator.config explain the defaults.

    Attributes:
        memory_budget_bytes: The memory that must never be exceeded, reload peaks included.
        minimum: The models that always stay loaded.
        wanted: The models that are loaded whenever there is room, most wanted first.
        max_instances: The most instances of one model.
        utilisation_ceiling_ratio: The utilisation above which nothing grows.
        memory_margin_ratio: The part by which estimates are taken larger before they are held against the budget.
        unmeasured_instance_bytes: The size of an instance until one of its model has been measured.
        leak_limit_bytes: The memory not given back above which a restart of Triton is advised.
        grow_busy_ratio: The part of its instances that must be busy, while requests wait, for a model to get another
            one.
        grow_after_s: The time for which they must have been that busy.
        shrink_busy_ratio: The part that must stay busy with one instance fewer; smaller than grow_busy_ratio.
        idle_s: The time for which it must, before an instance is taken away or a model makes room for another.
        unload_after_s: The time without a request before a model that is neither wanted nor demanded is unloaded.
        cooldown_s: The least time between two changes of one model.
        deadline_budget_s: The latency that batching may use up, wait and run together.
        batching_horizon_s: The time over which a batching's gain is held against the price of the reload.
        batching_saving_ratio: The least part of an instance that a batching must save.
        batching_cooldown_s: The least time between two batching changes of one model.
        repair_after_s: The time for which an instance must have been missing, or every answer an error.
        quarantine_s: The quarantine after the first failure of a config; doubles with each.
        quarantine_max_s: The longest quarantine.
        has_shared_runtime: Whether the first load of a server brings libraries along that stay, as CUDA's do; what it
            takes is then no size of its model.
        stuck_after_s: The time of loading or unloading after which it is reported.
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
