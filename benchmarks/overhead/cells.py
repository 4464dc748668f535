"""What is measured, and the numbers of a run, kept whole so that rows and page can be made anew from them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from statistics import median
from typing import Any

from pydantic import TypeAdapter, ValidationError

from benchmarks.controller.results import Machine
from orchestrator.errors import ConfigError
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
        ways: to compare.
        concurrency: requests under way at any time.
        width: that answers all of them.
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
        way: that the requests took.
        concurrency: as in Load.
        width: likewise.
        answers_per_s: each of one item.
        p50_s: as the client sees it.
        p99_s: likewise.
        triton_cpu_s: of Triton and its stubs, a request.
        proxy_cpu_s: of what stands between, a request; None when nothing does.
        client_cpu_s: of the client, a request; the router is part of it.
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


@dataclass(frozen=True, slots=True)
class Results:
    """A run.

    Attributes:
        taken_at: ISO 8601.
        took_s: in all.
        machine: it was made on.
        versions: of what took part, by name.
        rounds: each load was sent each way so often.
        samples: in the order they were taken.
    """

    taken_at: str
    took_s: float
    machine: Machine
    versions: dict[str, str]
    rounds: int
    samples: tuple[Sample, ...]

    def of(self, way: Way, load: Load) -> tuple[Sample, ...]:
        """Return the samples of one way and load, one a round."""
        return tuple(s for s in self.samples if (s.way, s.concurrency, s.width) == (way, load.concurrency, load.width))


def middle(samples: Sequence[Sample], name: str) -> float | None:
    """Return the median of a field, None when there is none."""
    values = [value for sample in samples if (value := getattr(sample, name)) is not None]
    return median(values) if values else None


@cache
def _adapter() -> TypeAdapter[Results]:
    return TypeAdapter(Results)


def encode_results(results: Results) -> dict[str, Any]:
    """Return a run as what JSON can hold."""
    encoded: dict[str, Any] = _adapter().dump_python(results, mode="json")
    return encoded


def parse_results(raw: object) -> Results:
    """Return the run that JSON holds.

    Raises:
        ConfigError: when it holds none.
    """
    try:
        return _adapter().validate_python(raw)
    except ValidationError as exc:
        problem = exc.errors()[0]
        where = ".".join(map(str, problem["loc"]))
        raise ConfigError(f"this is no run of the overhead benchmark: {where}: {problem['msg']}") from exc
