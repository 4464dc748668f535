"""A calm family beside one that floods the fleet, against the same family alone: one real gateway over real Tritons.

``make bench-families`` writes ``docs/benchmarks/families.json`` and ``families.md``. Both families are the demo family
under other names, so neither is dearer than the other. In each round the calm family gets the same arrivals twice,
alone and beside the flood, and who is first alternates. What the flood costs is the difference within rounds, so a
round is what the interval counts. Who floods shares the processors with gateway and servers, as the machine has no
others: that is in the figure too.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

import click

from benchmarks.harness.command import (
    Say,
    conclude,
    out_option,
    path_option,
    publish,
    read_run,
    repository_option,
    run_to_end,
    source_option,
    start_clock,
)
from benchmarks.harness.gateways import wait_served
from benchmarks.harness.processes import read_cpu
from benchmarks.harness.programs import run_gateway
from benchmarks.harness.run import Run, page_head
from orchestrator.config import FleetSettings, GatewaySettings, ServerSettings, render_fleet
from orchestrator.embedded.flags import LOOPBACK
from orchestrator.embedded.server import EmbeddedOptions, EmbeddedServer, choose_free_ports
from orchestrator.loadgen.capacity import measure_capacity
from orchestrator.loadgen.comparison import Mean, mean_of
from orchestrator.loadgen.plan import Load, arrivals_s
from orchestrator.loadgen.run import Part, measure_parts
from orchestrator.loadgen.sample import LabelledSample, load_sample
from orchestrator.loadgen.target import SetUp, Target
from orchestrator.reporting.blocks import Block, Heading, Table, Text
from orchestrator.reporting.claim import Claim, Interval

SOURCE, CALM, FLOOD = "fashion", "calm", "flood"
WIDTHS = (75, 100)
"""Wide ones gain little by large batches, so ten times what a fleet answers is little enough for two cores to send."""
SLOWDOWNS = (40.0, 40.0)
BAR = 2.0
"""Percentage points of the calm family's requests, by which fewer may be in time beside a flood."""
CALM_RPS = 20.0
_WARM_UP_S = 1.0
_REST_S = 1.0
_SENDERS = 2


@dataclass(frozen=True, slots=True)
class Flood:
    """What one family sends, and what time both have.

    Attributes:
        rate_rps: Requests a second; None: ten times what the fleet answers at its narrowest width.
    """

    name: str
    rate_rps: float | None
    deadline_s: float


FLOODS = (Flood("ten times too much", None, 0.2), Flood("5,000 a second, 50 ms", 5000.0, 0.05))
_OVERLOAD = 10.0
_PROSE = f"""\
This page is written by `make bench-families`; the raw numbers lie beside it in [families.json](families.json). One \
gateway of one process stands before two real Tritons that emulate machines {SLOWDOWNS[0]:g} times as slow. Together \
they answer {{capacity_rps:.0f}} requests a second at width {WIDTHS[0]} %, the narrowest here. Both have the demo \
family twice, under two names of equal weight. The calm one gets {CALM_RPS:g} requests a second, Poisson arrivals of \
one image, for {{seconds:g}} s, once alone and once beside the other one's flood, in {{rounds}} rounds. Arrivals are \
the same both times, and who is first alternates. What a flood costs is the difference within rounds, in percentage \
points of the requests that are answered in time, with a 95 % interval by Student's t. Senders, gateway and Tritons \
share the processors."""


@dataclass(frozen=True, slots=True)
class Sample:
    """What became of the calm family's requests in one run, and what the flood was.

    Attributes:
        flood: The name of the flood that the run belongs to.
        is_beside: Whether the flood was sent; else the calm family was alone.
        in_time: Of the calm family's requests, 0..1.
        refused: Likewise, those that were refused within their deadline.
        p99_s: The 99th percentile of its answers' latency; None without any.
        sent_late_s: How long after they were due 99 % of its requests were sent.
        flood_rps: Requests a second of the flood; 0 where there is none, like the next two.
        flood_in_time: Of the flood's requests, 0..1.
        flood_sent_late_s: As ``sent_late_s``.
        gateway_cores: Processor time of the gateway over the time of the run.
    """

    flood: str
    round: int
    is_beside: bool
    requests: int
    in_time: float
    refused: float
    p99_s: float | None
    sent_late_s: float
    flood_rps: float
    flood_in_time: float
    flood_sent_late_s: float
    gateway_cores: float


@dataclass(frozen=True, kw_only=True)
class Results(Run):
    """A run; ``capacity_rps`` is what the fleet answers at its narrowest width, ``seconds`` those of each run."""

    rounds: int
    seconds: float
    capacity_rps: float
    samples: tuple[Sample, ...]

    def of(self, flood: str, *, is_beside: bool) -> list[Sample]:
        """Return the runs beside a flood, or those alone that belong to it, in the order of rounds."""
        own = [sample for sample in self.samples if (sample.flood, sample.is_beside) == (flood, is_beside)]
        return sorted(own, key=lambda sample: sample.round)

    def lost_points(self, flood: str) -> Mean:
        """Return by how many points fewer requests of the calm family were in time beside a flood."""
        runs = zip(self.of(flood, is_beside=False), self.of(flood, is_beside=True), strict=True)
        return mean_of([100 * (alone.in_time - beside.in_time) for alone, beside in runs])


@click.command()
@repository_option
@out_option
@path_option("--sample", Path("examples/fashion-mnist/test_1000.npz"))
@click.option("--rounds", type=click.IntRange(2), default=4, show_default=True)
@click.option("--seconds", type=click.FloatRange(min=2), default=6.0, show_default=True, help="Of each run.")
@source_option
def main(repository: Path, out: Path, sample: Path, rounds: int, seconds: float, source: Path | None) -> None:
    """Measure what a family that floods costs a calm one; the exit status is 1 when it is more than 2 points."""
    if source:
        results = read_run(Results, source, "benchmark of families")
    else:
        results = run_to_end(_measure(repository, load_sample(sample), rounds, seconds, start_clock()))
    claims = list(draw_claims(results))
    publish("families", out, results.encode_with(claims), list(make_page(results, claims)))
    conclude(claims)


async def _measure(repository: Path, items: LabelledSample, rounds: int, seconds: float, say: Say) -> Results:
    results, began_s = Results.begin(rounds=rounds, seconds=seconds, capacity_rps=0.0, samples=()), time.monotonic()
    samples: list[Sample] = []
    with tempfile.TemporaryDirectory(prefix="bench-families-") as folder:
        async with _running(repository, Path(folder)) as fleet:
            narrowest = SetUp("narrowest", fleet.flood, (("slim_width", WIDTHS[0]),))
            capacity_rps = await measure_capacity(narrowest, items)
            say(f"{capacity_rps:.0f} requests a second at width {WIDTHS[0]} %")
            floods = [replace(each, rate_rps=each.rate_rps or _OVERLOAD * capacity_rps) for each in FLOODS]
            for number in range(rounds):
                for flood in floods:
                    for is_beside in (False, True) if number % 2 == 0 else (True, False):
                        await asyncio.sleep(_REST_S)
                        samples.append(found := await _run(fleet, items, flood, number, seconds, is_beside=is_beside))
                        how = f"beside {flood.name}" if is_beside else f"alone, before {flood.name}"
                        say(f"round {number + 1} of {rounds}, {how}: {100 * found.in_time:.1f} % in time")
    took_s = time.monotonic() - began_s
    return replace(results, took_s=took_s, capacity_rps=capacity_rps, samples=tuple(samples))


@dataclass(frozen=True, slots=True)
class _Fleet:
    """Both families of a gateway, and its process id."""

    calm: Target
    flood: Target
    gateway: int


async def _run(
    fleet: _Fleet, items: LabelledSample, flood: Flood, number: int, seconds: float, *, is_beside: bool
) -> Sample:
    """Send the calm family's requests of a round, and the flood beside them or not."""
    load = Load("poisson", CALM_RPS, seconds + _WARM_UP_S, flood.deadline_s, warm_up_s=_WARM_UP_S, seed=number)
    parts = [Part(fleet.calm, items.sent(), arrivals_s(load))]
    if is_beside:
        assert flood.rate_rps is not None
        flooding = replace(load, rate_rps=flood.rate_rps, seed=number + 1)
        parts.append(Part(fleet.flood, items.sent(), arrivals_s(flooding)))
    before = read_cpu({"gateway": fleet.gateway})
    calm, *others = [
        found.summary for found in await measure_parts(parts, load, senders=_SENDERS, progress=lambda _: None)
    ]
    after = read_cpu({"gateway": fleet.gateway})
    return Sample(
        flood=flood.name,
        round=number,
        is_beside=is_beside,
        requests=calm.requests,
        in_time=calm.in_time,
        refused=calm.refused,
        p99_s=calm.p99_s,
        sent_late_s=calm.sender_late_s,
        flood_rps=sum(other.requests for other in others) / seconds,
        flood_in_time=sum(other.in_time for other in others),
        flood_sent_late_s=sum(other.sender_late_s for other in others),
        gateway_cores=(after.cpu_s["gateway"] - before.cpu_s["gateway"]) / load.seconds,
    )


@asynccontextmanager
async def _running(repository: Path, folder: Path) -> AsyncIterator[_Fleet]:
    """Run the Tritons and the gateway before them."""
    models = folder / "models"
    for family in (CALM, FLOOD):
        copy_family(repository, family, models)
    async with AsyncExitStack() as stack:
        servers = [EmbeddedServer(models, EmbeddedOptions(slowdown=slowdown)) for slowdown in SLOWDOWNS]
        await asyncio.gather(*map(stack.enter_async_context, servers))
        settings = tuple(
            ServerSettings(name=f"s{number}", grpc=server.grpc_address, emulated_slowdown=slowdown)
            for number, (server, slowdown) in enumerate(zip(servers, SLOWDOWNS, strict=True))
        )
        (port,) = choose_free_ports(1)
        address = f"{LOOPBACK}:{port}"
        gateway = GatewaySettings(grpc=address, http=None, metrics=None)
        (folder / "fleet.yaml").write_text(render_fleet(FleetSettings(servers=settings, gateway=gateway)))
        pid = await stack.enter_async_context(run_gateway(folder / "fleet.yaml", port))
        yield _Fleet(await wait_served(address, CALM), await wait_served(address, FLOOD), pid)


def copy_family(repository: Path, family: str, target: Path) -> None:
    """Copy some of the demo family's models into another repository, as those of a family of another name."""
    for width in WIDTHS:
        copy = target / f"{family}_w{width:03d}"
        shutil.copytree(repository / f"{SOURCE}_w{width:03d}", copy)
        config = (copy / "config.pbtxt").read_text()
        config = config.replace(f'"{SOURCE}_w', f'"{family}_w').replace(f'"{SOURCE}"', f'"{family}"')
        (copy / "config.pbtxt").write_text(config)


def draw_claims(results: Results) -> Iterator[Claim]:
    """Yield for each flood what it costs the calm family."""
    for flood in FLOODS:
        lost = results.lost_points(flood.name)
        name = f"{flood.name}: what a calm family loses beside it"
        yield Claim(name, lost.value, "points in time", BAR, interval=Interval(lost.least, lost.most))


def make_page(results: Results, claims: Sequence[Claim]) -> Iterator[Block]:
    """Yield the page."""
    prose = _PROSE.format(capacity_rps=results.capacity_rps, seconds=results.seconds, rounds=results.rounds)
    yield from page_head("What a family that floods costs another", prose, results, claims)
    yield Heading(2, "The calm family")
    rows = []
    for flood in FLOODS:
        for is_beside in (False, True):
            own = results.of(flood.name, is_beside=is_beside)
            who = f"beside {flood.name}" if is_beside else f"alone, within {flood.deadline_s * 1e3:g} ms"
            in_time = mean_of([100 * sample.in_time for sample in own])
            p99_ms = [1e3 * sample.p99_s for sample in own if sample.p99_s is not None]
            rows.append(
                (
                    who,
                    f"{sum(sample.requests for sample in own):,}",
                    f"{in_time.value:.1f} ± {in_time.most - in_time.value:.1f} %",
                    f"{100 * mean_of([sample.refused for sample in own]).value:.1f} %",
                    f"{median(p99_ms):.0f}" if p99_ms else "none",
                    f"{1e3 * median(sample.sent_late_s for sample in own):.1f}",
                )
            )
    yield Table(("runs", "requests", "in time", "refused", "p99 ms", "99 % sent within ms"), rows)
    yield Heading(2, "The floods")
    floods = []
    for flood in FLOODS:
        own = results.of(flood.name, is_beside=True)
        rate_rps, late_s, cores = (
            median(getattr(sample, name) for sample in own)
            for name in ("flood_rps", "flood_sent_late_s", "gateway_cores")
        )
        in_time = mean_of([100 * sample.flood_in_time for sample in own])
        floods.append((flood.name, f"{rate_rps:.0f}", f"{in_time.value:.1f} %", f"{1e3 * late_s:.1f}", f"{cores:.2f}"))
    yield Table(("flood", "requests/s", "in time", "99 % sent within ms", "cores of the gateway"), floods)
    yield Text(
        "Figures that are no means are medians over rounds. A gateway process has one core at most, and a request that "
        "it refuses takes its part of that too; more processes are `gateway.workers`."
    )


if __name__ == "__main__":
    main()
