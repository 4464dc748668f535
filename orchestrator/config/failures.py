"""What the router does when servers fail: retries, hedges, ejection and probes."""

from __future__ import annotations

from pydantic import Field

from orchestrator.config.section import Section


class RetrySettings(Section):
    """The conditions under which a request is sent once more; see docs/router.md#retries."""

    budget_ratio: float = Field(default=0.1, ge=0, le=1)
    """Requests that may be sent again, as a share of those that are answered: what a failing fleet does in vain."""
    minimum: int = Field(default=256, ge=0)
    """Requests that may be sent again after ten quiet seconds whatever the traffic; what one server has in flight when
    it dies, with some full batches of 64."""
    burst: int = Field(default=1000, ge=0)
    """Most requests that may be sent again at once, however long nothing went wrong."""
    overdue_factor: float = Field(default=4.0, ge=1)
    """An attempt that takes this many times longer than expected is overdue; its requests may go elsewhere too."""
    overdue_floor_ms: float = Field(default=50.0, gt=0)
    """But not before this: half of the default deadline, and longer than hosts usually stall."""


class HedgeSettings(Section):
    """Sending a second copy of what takes longer than most; off unless the section is there."""

    quantile: float = Field(default=0.95, gt=0, lt=1)
    """Quantile of the times that recent batches took, held against what was expected of them."""
    floor_ms: float = Field(default=5.0, ge=0)
    """No copy is sent before this; below it a copy costs more than it saves."""


class EjectionSettings(Section):
    """The conditions under which a server that answers is left out; see docs/router.md#ejection."""

    failures_in_row: int = Field(default=5, ge=1)
    """Attempts that fail one after another, after which a server is left out; Envoy's number."""
    latency_factor: float = Field(default=3.0, gt=1)
    """How far above its own profile and the fleet's median its median run must be."""
    latency_runs: int = Field(default=8, ge=2)
    """Over how many runs that median is taken; half of them must be there."""
    latency_window_s: float = Field(default=30.0, gt=0)
    """Older runs do not count."""
    latency_floor_ms: float = Field(default=20.0, ge=0)
    """Runs expected to be shorter are held against this: a few milliseconds more hurt nobody."""
    panic_share: float = Field(default=0.3, ge=0, le=1)
    """Share of the fleet's capacity that must remain; low enough for two unlike machines to lose the larger one."""
    ejection_s: float = Field(default=5.0, gt=0)
    """How long the first ejection lasts; doubles with each that follows soon."""
    ejection_max_s: float = Field(default=120.0, gt=0)
    """The longest ejection."""
    slow_start_s: float = Field(default=5.0, ge=0)
    """Over which a server that comes back is given its whole in-flight budget."""


class ProbeSettings(Section):
    """Golden probes; see docs/router.md#golden-probes."""

    period_s: float = Field(default=10.0, gt=0)
    """Between two probes of one width in use on one server: one item each, so some thousandths of its time."""
    tolerance: float = Field(default=0.02, gt=0)
    """How far a score may be off, as a part of the largest score: two kinds of device differ by thousandths."""
