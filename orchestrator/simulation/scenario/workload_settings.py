"""When requests arrive and what they bring, as a scenario's file says it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Final

from pydantic import Field, field_validator

from orchestrator.config.section import Section
from orchestrator.errors import ConfigError
from orchestrator.policies.preference import parse_preference
from orchestrator.simulation.scenario import workloads

_TAIL: Final = 1.4
"""Of self-similar arrivals; Hurst's parameter is (3 - 1.4) / 2 = 0.8, as it was found of traffic in networks."""
PositiveMs = Annotated[float, Field(gt=0)]
Shares = dict[Annotated[int, Field(ge=1, le=1000)], Annotated[float, Field(gt=0)]]
KINDS: Final = ("poisson", "gamma", "mmpp", "self-similar", "ramp", "diurnal", "flash-crowd", "replay")


class ClassSettings(Section):
    """Requests of a family that ask for the same; as live, those of one floor and preference wait in one queue."""

    share: float = Field(default=1.0, gt=0, le=1e9)
    """Of the requests, relative to the others'."""
    deadline_ms: float | None = Field(default=None, gt=0)
    """From arrival; None: that of the objectives."""
    min_accuracy: float = Field(default=0.0, allow_inf_nan=False)
    """Only widths of at least this accuracy, on their own scale; left out: that of the objectives."""
    preference: str | None = None
    """As ``slim_preference`` of a request, such as ``energy``; None: what the policy prefers."""

    @field_validator("preference")
    @classmethod
    def _is_one(cls, preference: str | None) -> str | None:
        try:
            if preference is not None:
                parse_preference(preference)
        except ConfigError as exc:
            raise ValueError(str(exc)) from exc
        return preference


class WorkloadSettings(Section):
    """When requests arrive and what they bring."""

    kind: str = "poisson"
    """Shape of the arrivals, one of ``KINDS`` or of another package; see orchestrator.simulation.scenario.workloads."""
    load_ratio: float = Field(default=0.7, gt=0, le=100)
    """Items a second over the fleet's fluid capacity; above 1 not all can be served for good."""
    load_of_width: int | None = Field(default=None, ge=1, le=100)
    """Capacity at this width; None: at each server's quickest width."""
    requests: int = Field(default=100_000, ge=1, le=100_000_000)
    """How many arrive."""
    callers: int | None = Field(default=None, ge=1, le=1_000_000)
    """Who send them, each one request at a time; None: as many as it takes, so that nobody waits to send.

    While all wait for answers nothing is sent, and what comes next comes later by as much: times between arrivals stay.
    """
    items: int = Field(default=1, ge=1, le=4096)
    """In each request."""
    priorities: Shares | None = Field(default=None, min_length=1)
    """How many requests have which priority, relative to each other; 1 is served first. None: all have the same."""
    deadlines_ms: dict[PositiveMs, Annotated[float, Field(gt=0)]] | None = Field(default=None, min_length=1)
    """How many requests have which deadline, relative to each other; None: all have that of the objectives."""
    classes: tuple[ClassSettings, ...] = ()
    """Of requests, where they ask for unlike things; none: all ask for the same."""
    drift_amplitude: float = Field(default=0.0, ge=0, le=1000)
    """How far the popularity of families swings around their shares; above 1 each has times without requests."""
    drift_periods: float = Field(default=1.0, gt=0)
    """How often popularity goes round, over all requests."""
    cv2: float = Field(default=4.0, ge=0, le=1000)
    """Of gamma gaps: squared coefficient of variation."""
    rates: tuple[float, ...] = Field(default=(0.5, 2.0), min_length=1)
    """Of an MMPP or self-similar arrivals, relative to each other; of a ramp the first and the last."""
    sojourn_requests: float = Field(default=500.0, gt=0)
    """Likewise: how many requests a state lasts, on average."""
    amplitude: float = Field(default=0.8, ge=0, le=1)
    """Of a diurnal rate."""
    periods: float = Field(default=2.0, gt=0)
    """Of a diurnal rate, over all requests."""
    factor: float = Field(default=5.0, gt=0)
    """Of a flash crowd over the level rate."""
    begins: float = Field(default=0.4, ge=0, lt=1)
    """Of a flash crowd, as a part of the whole time."""
    lasts: float = Field(default=0.1, gt=0, le=1)
    """Likewise."""
    file: Path | None = None
    """Of timestamps to replay, relative to the scenario's file."""
    numbers: tuple[float, ...] = ()
    """What a shape of another package is made of."""

    @field_validator("kind")
    @classmethod
    def _is_known(cls, kind: str) -> str:
        if kind not in KINDS and kind not in workloads.PLUGINS.names():
            raise ValueError(f"unknown kind {kind!r}; known are {', '.join(KINDS)}{workloads.PLUGINS.describe()}")
        return kind

    def _contradictions(self) -> Iterator[str]:
        if self.numbers and self.kind in KINDS:
            yield f"numbers go with a kind of another package; {self.kind!r} has keys of its own"
        if (self.kind == "replay") != (self.file is not None):
            yield "file goes with kind 'replay', and only with it"
        if any(rate < 0 for rate in self.rates) or sum(self.rates) <= 0:
            yield f"rates {list(self.rates)} must not be negative, and one must be above 0"
        if self.kind == "ramp" and len(self.rates) != 2:
            yield f"a ramp has two rates, the first and the last; rates has {len(self.rates)}"

    def shape(self) -> workloads.Shape:
        """Return the shape of the arrivals."""
        if self.kind == "poisson":
            return workloads.gamma(1.0)
        if self.kind == "gamma":
            return workloads.gamma(self.cv2)
        if self.kind == "mmpp":
            return workloads.mmpp(self.rates, self.sojourn_requests)
        if self.kind == "self-similar":
            return workloads.mmpp(self.rates, self.sojourn_requests, tail=_TAIL)
        if self.kind == "ramp":
            return workloads.ramp(self.rates[0], self.rates[1])
        if self.kind == "diurnal":
            return workloads.diurnal(self.amplitude, self.periods)
        if self.kind == "flash-crowd":
            return workloads.flash_crowd(self.factor, self.begins, self.lasts)
        if self.kind != "replay":
            return workloads.plugged(self.kind, self.numbers)
        assert self.file is not None  # checked above
        return workloads.replay(self.file)
