"""What a plan is made from: what a controller knows of its host at one moment, and the bounds to keep to there.

``RepositoryModel`` comes from the files, ``LoadedModel`` from Triton, ``Rates`` from its counters; a
``ModelSnapshot`` joins the three. Whatever could not be read is None, never 0: a plan that took an unknown memory
reading for an empty host would fill it. ``Limits`` are resolved from fleet.yaml and the host before the first step.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from orchestrator.config import ControllerSettings
from orchestrator.planner.rates import Rates
from orchestrator.snapshot import Family, ModelName, Width


class ModelStatus(StrEnum):
    """The state of a model in its server."""

    ABSENT = "absent"
    """Never loaded, or unloaded for good."""
    LOADING = "loading"
    READY = "ready"
    """Some version answers; a reload under way shows as ready too, the old version serves meanwhile."""
    UNLOADING = "unloading"
    FAILED = "failed"
    """The last load failed and nothing answers."""


@dataclass(frozen=True, slots=True)
class Batching:
    """How Triton's dynamic batcher waits.

    Attributes:
        preferred_sizes: Sizes at which a batch is sent at once, in items; empty means only the largest allowed is.
        delay_us: The longest that a batch's first request waits for others; 0 batches what is queued and waits never.
    """

    preferred_sizes: tuple[int, ...] = ()
    delay_us: int = 0


@dataclass(frozen=True, slots=True)
class RepositoryModel:
    """One width as its files describe it.

    Attributes:
        accuracy: Top-1 on the family's test split, 0..1.
        max_batch_size: The largest batch, in items.
        instances: The instances that config.pbtxt asks for; a controller starts with one and adds what is needed.
        batching: The batching that config.pbtxt asks for.
        files_stamp: A stamp that changes whenever its files do.
        damage: In what its weights differ from the digest in config.pbtxt; empty: in nothing, as far as can be told.
    """

    name: ModelName
    family: Family
    width: Width
    accuracy: float
    max_batch_size: int
    weights_bytes: int
    instances: int = 1
    batching: Batching = Batching()
    files_stamp: str = ""
    damage: str = ""


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """One model as Triton has it.

    Attributes:
        reason: Triton's reason why it is not ready; empty otherwise.
        instances: The instances that it runs with; 0 when it is not ready.
        nonce: The marker of the last forced reload, empty when there was none; an in-place change must repeat it.
        is_canonical: Whether it runs with what its files say, but for instances, batching and nonce; False means
            that any change is a full reload.
        is_python_based: Whether each instance is a stub process, whose death Triton does not notice.
    """

    name: ModelName
    status: ModelStatus
    reason: str = ""
    instances: int = 0
    batching: Batching = Batching()
    nonce: str = ""
    is_canonical: bool = True
    is_python_based: bool = False


@dataclass(frozen=True, slots=True)
class ModelSnapshot:
    """One width of the repository, and what became of it.

    Attributes:
        rates: What it did in the last window; zero while it is not ready.
        live_instances: Stub processes seen alive; None where instances are no processes or can't be seen.
        demanded_until_s: When the demand that keeps it ends, seconds on the controller's clock; None: nobody demanded
            it.
        instance_bytes: The memory of its largest instance now; None where instances are no processes or can't be seen.
    """

    model: RepositoryModel
    loaded: LoadedModel
    rates: Rates = field(default_factory=Rates)
    live_instances: int | None = None
    demanded_until_s: float | None = None
    instance_bytes: int | None = None

    @property
    def name(self) -> ModelName:
        """The model's name in Triton."""
        return self.model.name

    @property
    def is_ready(self) -> bool:
        """Whether the model answers requests."""
        return self.loaded.status is ModelStatus.READY


@dataclass(frozen=True, slots=True)
class HostSnapshot:
    """The host at one moment.

    Attributes:
        models: The models of the repository, in any order; a plan does not depend on it.
        memory_used_bytes: Memory that counts against the budget: in use on the device on GPU, by Triton and its stubs
            on CPU; None: unreadable.
        utilisation_ratio: How busy the device is, or the CPUs that Triton may use, 0..1; None: unreadable.
        server_id: The running Triton process, another one after a restart; None: unknown.
        overhead_bytes: What no instance that serves holds of the memory in use: the server itself, and what was not
            given back; None where instances are no processes or can't be seen.
        server_threads: The threads of the server process; None: can't be seen.
        busy_models: The models whose last action has not ended; they are left alone.
    """

    models: tuple[ModelSnapshot, ...]
    memory_used_bytes: int | None
    utilisation_ratio: float | None
    server_id: str | None = None
    busy_models: frozenset[ModelName] = frozenset()
    overhead_bytes: int | None = None
    server_threads: int | None = None

    def is_moving(self, seen: ModelSnapshot) -> bool:
        """Return whether a model is loading or unloading, or its last action has not ended."""
        return seen.loaded.status in (ModelStatus.LOADING, ModelStatus.UNLOADING) or seen.name in self.busy_models


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of one host's plans: what depends on the host or its repository, resolved, and the settings as they are.

    Attributes:
        memory_budget_bytes: The memory that must never be exceeded, reload peaks included.
        minimum: The models that always stay loaded, of every family.
        wanted: The models that are loaded whenever there is room; of each family the most wanted first.
        max_instances: The most instances of one model.
        utilisation_ceiling_ratio: The utilisation above which nothing grows.
        unmeasured_instance_bytes: The size of an instance until one of its model has been measured.
        leak_limit_bytes: The memory not given back above which a restart of Triton is advised.
        deadline_budget_s: The latency that batching may use up, wait and run together.
        batching_horizon_s: The time over which a batching's gain is held against the price of the reload.
        batching_saving_ratio: The least part of an instance that a batching must save.
        weights: What each family counts for where families compete; one that is not named counts for 1.
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
    weights: Mapping[Family, float] = field(default_factory=dict)
    has_shared_runtime: bool = False
    settings: ControllerSettings = field(default_factory=ControllerSettings)
