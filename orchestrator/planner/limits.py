"""The bounds within which a plan moves; resolved from fleet.yaml and the host before the first step."""

from __future__ import annotations

from dataclasses import dataclass, field

from orchestrator.config import ControllerSettings
from orchestrator.snapshot import ModelName


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of one host's plans: what depends on the host or its repository, resolved, and the settings as they are.

    Attributes:
        memory_budget_bytes: The memory that must never be exceeded, reload peaks included.
        minimum: The models that always stay loaded.
        wanted: The models that are loaded whenever there is room, most wanted first.
        max_instances: The most instances of one model.
        utilisation_ceiling_ratio: The utilisation above which nothing grows.
        unmeasured_instance_bytes: The size of an instance until one of its model has been measured.
        leak_limit_bytes: The memory not given back above which a restart of Triton is advised.
        deadline_budget_s: The latency that batching may use up, wait and run together.
        batching_horizon_s: The time over which a batching's gain is held against the price of the reload.
        batching_saving_ratio: The least part of an instance that a batching must save.
        has_shared_runtime: Whether the first load of a server brings libraries along that stay, as CUDA's do; what it
            takes is then no size of its model.
        settings: The ratios and times of the plan, and the timings of the loop around it.
    """

    memory_budget_bytes: int
    minimum: tuple[ModelName, ...]
    wanted: tuple[ModelName, ...] = ()
    max_instances: int = 4
    utilisation_ceiling_ratio: float = 0.9
    unmeasured_instance_bytes: int = 128 << 20
    leak_limit_bytes: int = 512 << 20
    deadline_budget_s: float = 0.05
    batching_horizon_s: float = 60.0
    batching_saving_ratio: float = 0.05
    has_shared_runtime: bool = False
    settings: ControllerSettings = field(default_factory=ControllerSettings)
