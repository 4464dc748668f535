"""The hosts of a scenario: who shares which cores, what else runs there, and what that does to times.

A host is what the servers of one machine have in common, and its router where that is one of them. Without hosts each
server is a machine of its own, nothing competes with it, and a router takes no time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from orchestrator.config.section import Section
from orchestrator.simulation.scenario.residuals import read_factors

Positive = Annotated[float, Field(gt=0)]


class StallSettings(Section):
    """Moments in which a host does nothing, at exponential times."""

    every_s: float = Field(ge=1e-3)
    """Mean time between their beginnings; they may overlap."""
    stops: Literal["both", "servers", "router"] = "both"
    """What stands still meanwhile."""
    lengths_ms: tuple[Positive, ...] | None = Field(default=None, min_length=1)
    """Lengths that were observed, any of which is as likely; None: drawn from the three numbers below."""
    least_ms: float = Field(default=50.0, gt=0)
    """Of a Pareto distribution that ends at ``most_ms``."""
    most_ms: float = Field(default=800.0, gt=0)
    """Likewise."""
    alpha: float = Field(default=1.0, gt=0, le=20)
    """Its exponent; the lower, the heavier its tail."""

    def _contradictions(self) -> Iterator[str]:
        if self.most_ms < self.least_ms:
            yield f"most_ms = {self.most_ms:g} is below least_ms = {self.least_ms:g}; give it as much"

    def draw_lengths_s(self, count: int, rng: np.random.Generator) -> NDArray[np.float64]:
        """Return the lengths of so many stalls."""
        if self.lengths_ms is not None:
            return rng.choice(np.array(self.lengths_ms), count) / 1e3
        beyond = 1 - (self.least_ms / self.most_ms) ** self.alpha  # the part of an endless Pareto that is kept
        return np.asarray(self.least_ms / 1e3 * (1 - beyond * rng.random(count)) ** (-1 / self.alpha))


class ResidualSettings(Section):
    """Factors on service times as they were observed: any is as likely, instead of a lognormal factor."""

    factors: tuple[Positive, ...] | None = Field(default=None, min_length=1)
    """Actual over expected times."""
    file: Path | None = None
    """Of such factors, one a line; or a decision log (.jsonl), or a directory of them, whose batches have such.
    Relative to the scenario's file; instead of ``factors``."""
    correlation: float = Field(default=0.0, ge=0, le=1)
    """Of the normal scores of two batches that start on the host at the same time."""
    drift_s: float = Field(default=10.0, ge=1e-3)
    """What they have in common wanders; after this time 1/e of it is left (a first-order autoregression)."""

    def _contradictions(self) -> Iterator[str]:
        if (self.factors is None) == (self.file is None):
            yield "residuals need either factors or file"


class RouterSettings(Section):
    """Time of a core that the router takes; it does one thing after the other."""

    request_us: float = Field(default=0.0, ge=0)
    """For each request that it reads."""
    decision_us: float = Field(default=0.0, ge=0)
    """For each time that its policy is asked."""
    batch_us: float = Field(default=0.0, ge=0)
    """For each batch that it sends."""
    answer_us: float = Field(default=0.0, ge=0)
    """For each request that it answers or refuses."""
    weight: float = Field(default=1.0, ge=1, le=100)
    """Parts of the cores that it has for each one of a batch or another process: 3 with the niceness of -5 that a
    gateway takes where it may, which Linux weighs 3121 to 1024."""
    has_callers: bool = False
    """Whether callers are on the same host: then they have to wake up for their answers."""
    turn_requests: int = Field(default=256, ge=1)
    """Requests that it reads before it decides, at the most; those behind them it only knows to be there."""


class HostSettings(Section):
    """Servers that share cores, with what else runs on them."""

    name: str = Field(min_length=1)
    """For messages."""
    servers: dict[str, Annotated[float, Field(ge=0, le=1)]] = Field(default_factory=dict)
    """By name, those of an entry with ``count`` by the entry's: which part of its time a batch needs a core for. 1 is
    inference on CPU; the rest of the time, which a device works, is at the batch's end and waits for no core."""
    router: RouterSettings | None = None
    """None: it is elsewhere."""
    cores: float = Field(gt=0, le=4096)
    """Batches, router and other processes share them, evenly but for the router's weight; none has more than one."""
    slice_ms: float = Field(default=0.0, ge=0, le=1000)
    """How long a process runs before another has its turn, on average: who wakes while cores are taken waits for it."""
    competing: tuple[tuple[Annotated[float, Field(ge=0)], Annotated[float, Field(ge=0)]], ...] = ()
    """Pairs of a time in seconds, ascending, and how many other processes want a core from then on; 0 before."""
    stalls: StallSettings | None = None
    """None: there are none."""
    residuals: ResidualSettings | None = None
    """None: batches have the noise of their widths."""

    def _contradictions(self) -> Iterator[str]:
        times_s = [at_s for at_s, _ in self.competing]
        for earlier_s, later_s in pairwise(times_s):
            if later_s <= earlier_s:
                yield f"competing: {later_s:g} s comes after {earlier_s:g} s; give the times in order"

    def with_files(self, folder: Path) -> HostSettings:
        """Return the host with the factors of a file that it names in their place, which then are a part of it.

        Raises:
            ConfigError: when the file can't be read or used.
        """
        if self.residuals is None or self.residuals.file is None:
            return self
        factors = read_factors(folder / self.residuals.file)
        return self.model_copy(
            update={"residuals": self.residuals.model_copy(update={"factors": factors, "file": None})}
        )


def check_hosts(hosts: Sequence[HostSettings], known: Sequence[str]) -> None:
    """Check that each server is on one host at the most, and the router likewise.

    Raises:
        ValueError: when that is not so, or a server is not among those ``known``.
    """
    hosts_of: dict[str, str] = {}
    for host in hosts:
        for server in host.servers:
            if server not in known:
                raise ValueError(f"hosts: {host.name} has no server {server!r} to hold; there are {', '.join(known)}")
            if server in hosts_of:
                raise ValueError(f"hosts: {server} is on {hosts_of[server]} and on {host.name}; leave it on one")
            hosts_of[server] = host.name
    routers = [host.name for host in hosts if host.router is not None]
    if len(routers) > 1:
        raise ValueError(f"hosts: {' and '.join(routers)} have a router each; leave one of them")
