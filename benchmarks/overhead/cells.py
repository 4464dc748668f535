"""What is measured, and the numbers of a run, kept whole so that rows and page can be made anew from them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from statistics import median

from benchmarks.harness.run import Run
from orchestrator.snapshot import Width


class Way(StrEnum):
    """How a request gets to Triton."""

    RAW = "tritonclient.grpc.aio"
    ROUTER = "Router.infer"
    DIRECT = "direct"
    ENVOY = "Envoy"
    GATEWAY = "gateway"


@dataclass(frozen=True, slots=True)
class Load:
    """One kind of load, sent each of its ways.

    Attributes:
        ways: The ways that are compared.
        concurrency: Requests under way at any time.
        width: The width that answers all of them.
    """

    ways: tuple[Way, ...]
    concurrency: int
    width: Width

    @property
    def title(self) -> str:
        """For people."""
        return f"concurrency {self.concurrency}, width {self.width} %"


@dataclass(frozen=True, slots=True)
class Sample:
    """One measurement.

    Attributes:
        way: The way that the requests took.
        concurrency: Requests under way at any time.
        width: The width that answered.
        answers_per_s: Answers a second, each of one item.
        p50_s: Median latency, as the client sees it.
        p99_s: Its 99th percentile.
        triton_cpu_s: Processor time of Triton and its stubs, a request.
        proxy_cpu_s: Processor time of what stands between, a request; None when nothing does.
        client_cpu_s: Processor time of the client, a request; the router is part of it.
    """

    way: Way
    concurrency: int
    width: Width
    answers_per_s: float
    p50_s: float
    p99_s: float
    triton_cpu_s: float
    proxy_cpu_s: float | None
    client_cpu_s: float


@dataclass(frozen=True, kw_only=True)
class Results(Run):
    """A run.

    Attributes:
        rounds: How often each load was sent each way.
        samples: In the order they were taken.
    """

    rounds: int
    samples: tuple[Sample, ...]

    def of(self, way: Way, load: Load) -> tuple[Sample, ...]:
        """Return the samples of one way and load, one a round."""
        return tuple(s for s in self.samples if (s.way, s.concurrency, s.width) == (way, load.concurrency, load.width))


def middle(samples: Sequence[Sample], name: str) -> float | None:
    """Return the median of a field, None when there is none."""
    values = [value for sample in samples if (value := getattr(sample, name)) is not None]
    return median(values) if values else None
