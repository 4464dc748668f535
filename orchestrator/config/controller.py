"""The controller's section of fleet.yaml."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

from pydantic import Field

from orchestrator.config.section import Section
from orchestrator.validation import Distinct

_Width = Annotated[int, Field(ge=1, le=100)]


class WidthSettings(Section):
    """The widths of a family that are loaded."""

    minimum_widths: Annotated[tuple[_Width, ...], Field(min_length=1), Distinct(("",))] | None = None
    """Widths that are always resident; None: the narrowest, which answers when nothing else can."""
    wanted_widths: Annotated[tuple[_Width, ...], Distinct(("",))] | None = None
    """Loaded whenever the budget has room, most wanted first; None: all, the narrowest first. Other widths are loaded
    when asked for and unloaded when idle."""


class ControllerSettings(WidthSettings):
    """What a controller keeps loaded and how quickly it changes it; the same for every server."""

    family: str | None = None
    """The only family to look after; None: every family in the repository."""
    families: dict[str, WidthSettings] = Field(default_factory=dict)
    """Widths of single families, in place of ``minimum_widths`` and ``wanted_widths``, which are for all others."""
    period_s: float = Field(default=1.0, gt=0)
    """Between two steps; one costs some milliseconds."""
    grow_busy_ratio: float = Field(default=0.7, gt=0, le=1)
    """A width whose instances are busier than this while requests wait gets another one."""
    grow_after_s: float = Field(default=1.0, ge=0)
    """Time for which they must have been that busy; shorter bursts are cheaper to sit out."""
    shrink_busy_ratio: float = Field(default=0.4, ge=0, lt=1)
    """An instance is taken away when the others would stay below this; the gap to grow_busy_ratio is the hysteresis."""
    idle_s: float = Field(default=30.0, gt=0)
    """Time for which the others must have stayed below it; also before a width makes room for another."""
    unload_after_s: float = Field(default=300.0, gt=0)
    """Time without a request before a width that is neither wanted nor asked for is unloaded."""
    cooldown_s: float = Field(default=2.0, ge=0)
    """Between two changes of one width, so that the second sees what the first did."""
    deadline_budget_ms: float | None = Field(default=None, gt=0)
    """Part of a request's deadline that waiting for a batch and running it may take; None: half of
    ``router.deadline_ms``, the rest is for the way and for the router's queue."""
    batching: bool = True
    """Whether batching parameters are sized at all; False leaves what config.pbtxt says."""
    batching_horizon_s: float = Field(default=60.0, gt=0)
    """Over which a batching's gain is held against the price of the reload."""
    batching_cooldown_s: float = Field(default=60.0, ge=0)
    """Between two batching changes of one width."""
    memory_margin: float = Field(default=0.1, ge=0)
    """Estimates of memory are taken this part larger before they are held against the budget."""
    unmeasured_instance_mib: float | None = Field(default=None, gt=0)
    """What an instance is taken for until one has been measured; None: 128 on CPU, 1024 on GPU, where a first
    session brings its libraries along."""
    leak_limit_mib: float = Field(default=512.0, gt=0)
    """Memory not given back by unloads above which a restart of Triton is advised."""
    leak_limit_threads: int = Field(default=512, ge=1)
    """Threads of Triton beyond those that as many instances need, above which a restart is advised, because hosts and
    containers bound their number; 14 repairs of a model that died with requests in hand leave as many."""
    repair_after_s: float = Field(default=2.0, ge=0)
    """Time for which an instance must be missing, or every answer an error, before a width is reloaded."""
    quarantine_s: float = Field(default=5.0, gt=0)
    """How long a config that failed to load is left alone; doubles with each failure."""
    quarantine_max_s: float = Field(default=300.0, gt=0)
    """The longest quarantine."""
    rival_quiet_s: float = Field(default=60.0, gt=0)
    """Time without a change by somebody else before a controller whose changes were undone twice changes anything
    again; doubles each time, up to quarantine_max_s."""
    stuck_after_s: float = Field(default=60.0, gt=0)
    """Time of loading after which it is reported as stuck."""
    action_timeout_s: float = Field(default=10.0, ge=0.5)
    """How long a step waits for one action; a slower one goes on by itself and its width is left alone meanwhile.
    Hardly any is done in less than half a second."""

    def _contradictions(self) -> Iterator[str]:
        if self.shrink_busy_ratio >= self.grow_busy_ratio:
            yield (
                f"shrink_busy_ratio {self.shrink_busy_ratio:g} must be below grow_busy_ratio "
                f"{self.grow_busy_ratio:g}; else instances come and go under constant load"
            )
        if self.quarantine_max_s < self.quarantine_s:
            yield (f"quarantine_max_s {self.quarantine_max_s:g} is below quarantine_s {self.quarantine_s:g}; raise it")
        if self.stuck_after_s < self.action_timeout_s:
            yield (
                f"stuck_after_s {self.stuck_after_s:g} is below action_timeout_s {self.action_timeout_s:g}, for which "
                "an action is waited for; raise it"
            )
        if self.idle_s > self.unload_after_s:
            yield (
                f"idle_s {self.idle_s:g} is above unload_after_s {self.unload_after_s:g}; an instance goes before its "
                "width does: lower it"
            )
