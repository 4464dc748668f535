"""A gateway that traces 1 % of its requests against one that traces none, over the same Triton.

``make bench-tracing`` writes ``docs/benchmarks/tracing.json`` and ``tracing.md``. A closed loop keeps the gateway that
is asked as busy as it gets, because there a request's processor time is what limits the answers. The gateways take
turns after so few requests that what else the machine does meets both. Every round has new processes, because two of
the same program differ by some percent for as long as they live, so a round is what the interval counts. Spans are
posted to a receiver, as they are to a collector.
"""

from __future__ import annotations

import asyncio
import http.server
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

import click
import numpy as np
from numpy.typing import NDArray

from benchmarks.controller.load import INPUT, ITEM_SHAPE
from benchmarks.harness.command import (
    Say,
    conclude,
    out_option,
    publish,
    read_run,
    repository_option,
    run_to_end,
    source_option,
    start_clock,
)
from benchmarks.harness.processes import read_cpu
from benchmarks.harness.programs import run_gateway
from benchmarks.harness.run import Run, page_head
from orchestrator.client import AsyncClient
from orchestrator.config import FleetSettings, GatewaySettings, ServerSettings, render_fleet
from orchestrator.config.gateway import TracingSettings
from orchestrator.embedded.flags import LOOPBACK
from orchestrator.embedded.server import EmbeddedOptions, EmbeddedServer, choose_free_ports
from orchestrator.errors import PermanentError
from orchestrator.loadgen.comparison import mean_of
from orchestrator.reporting.blocks import Block, Heading, Table, Text
from orchestrator.reporting.claim import Claim, Interval

FAMILY, MODEL, WIDTH = "fashion", "fashion_w025", 25
CONCURRENCY = 32
SAMPLE_RATIO = 0.01
FLOOR = 0.98
"""Answers a second of the gateway that traces, over those of the one that does not."""
WITHOUT, WITH = "no tracing", "1 % traced"
_BLOCKS = 8
"""Turns of each gateway in a round, after one that isn't counted."""
_ATTEMPTS = 100
"""Until a gateway that has just begun to listen answers."""
_PROSE = f"""\
This page is written by `make bench-tracing`; the raw numbers lie beside it in [tracing.json](tracing.json). Two \
gateways of one process each stand before one real tritonserver, on the same cores as who asks. One of them samples \
1 % of its requests and posts their spans to a receiver. Each is asked for {{requests:,}} items at width {WIDTH} %, \
{CONCURRENCY} under way over gRPC, then the other, {_BLOCKS} times in turn. That is a round, and each of the \
{{rounds}} has new processes. A ratio is taken within a round, and its mean has a 95 % interval by Student's t. The \
receiver got {{posted_kb:,.0f}} kB of spans."""


@dataclass(frozen=True, slots=True)
class Sample:
    """What one gateway did in a round; processor time is the gateway's, for a request."""

    way: str
    round: int
    answers_per_s: float
    cpu_s: float


@dataclass(frozen=True, kw_only=True)
class Results(Run):
    """A run; ``requests`` were sent in each turn, and ``posted_bytes`` is what the receiver got."""

    rounds: int
    requests: int
    samples: tuple[Sample, ...]
    posted_bytes: int

    def ratios(self, name: str) -> list[float]:
        """Return a figure of the gateway that traces over that of the other, round by round."""
        found = {(sample.way, sample.round): getattr(sample, name) for sample in self.samples}
        return [found[WITH, number] / found[WITHOUT, number] for number in range(self.rounds)]


@click.command()
@repository_option
@out_option
@click.option("--rounds", type=click.IntRange(2), default=36, show_default=True)
@click.option("--requests", type=click.IntRange(CONCURRENCY), default=1000, show_default=True, help="Of each turn.")
@source_option
def main(repository: Path, out: Path, rounds: int, requests: int, source: Path | None) -> None:
    """Measure what tracing 1 % of the requests costs; the exit status is 1 when it is more than 2 % of the answers."""
    if source:
        results = read_run(Results, source, "benchmark of tracing")
    else:
        results = run_to_end(_measure(repository, rounds, requests, start_clock()))
    claims = list(draw_claims(results))
    publish("tracing", out, results.encode_with(claims), list(make_page(results, claims)))
    conclude(claims)


async def _measure(repository: Path, rounds: int, requests: int, say: Say) -> Results:
    results = Results.begin(rounds=rounds, requests=requests, samples=(), posted_bytes=0)
    began_s, samples = time.monotonic(), []
    with tempfile.TemporaryDirectory(prefix="bench-tracing-") as folder, receiving() as (endpoint, received):
        for number in range(rounds):
            (own := Path(folder) / str(number)).mkdir()
            ways = (WITHOUT, WITH) if number % 2 == 0 else (WITH, WITHOUT)
            async with _running(repository, own, endpoint, ways) as gateways:
                for sample in await _round(number, gateways, requests):
                    say(f"round {number + 1} of {rounds}, {sample.way}: {sample.answers_per_s:.0f}/s")
                    samples.append(sample)
    if not received:
        raise PermanentError("the gateway that traces has posted no spans, so there is nothing to compare")
    return replace(
        results,
        took_s=time.monotonic() - began_s,
        samples=tuple(samples),
        posted_bytes=sum(received),
    )


async def _round(number: int, gateways: Mapping[str, tuple[AsyncClient, int]], requests: int) -> list[Sample]:
    """Return what each gateway did in turns, the first of which is not counted."""
    took_s, cpu_s = dict.fromkeys(gateways, 0.0), dict.fromkeys(gateways, 0.0)
    for block in range(_BLOCKS + 1):
        for way in gateways if block % 2 == 0 else reversed([*gateways]):
            client, pid = gateways[way]
            before = read_cpu({way: pid})
            await _ask(client, requests)
            after = read_cpu({way: pid})
            if block > 0:
                took_s[way] += after.at_s - before.at_s
                cpu_s[way] += after.cpu_s[way] - before.cpu_s[way]
    sent = requests * _BLOCKS
    return [Sample(way, number, sent / took_s[way], cpu_s[way] / sent) for way in gateways]


async def _ask(client: AsyncClient, requests: int) -> None:
    items = np.random.default_rng(0).random((CONCURRENCY, 1, *ITEM_SHAPE), np.float32)
    left = iter(range(requests))

    async def loop(item: NDArray[np.float32]) -> None:
        for _ in left:
            await client.infer(FAMILY, {INPUT: item}, width=WIDTH)

    await asyncio.gather(*map(loop, items))


@contextmanager
def receiving() -> Iterator[tuple[str, list[int]]]:
    """Take what is posted, on loopback; yields the endpoint and the bytes of each message that came."""
    received: list[int] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            received.append(len(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer((LOOPBACK, 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, name="receiver")
        thread.start()
        try:
            yield f"http://{LOOPBACK}:{server.server_port}/v1/traces", received
        finally:
            server.shutdown()
            thread.join()


@asynccontextmanager
async def _running(
    repository: Path, folder: Path, endpoint: str, ways: Sequence[str]
) -> AsyncIterator[dict[str, tuple[AsyncClient, int]]]:
    """Run a Triton and both gateways, in the order of ``ways``; yields a client and the process id of each."""
    async with AsyncExitStack() as stack:
        triton = await stack.enter_async_context(EmbeddedServer(repository.resolve(), EmbeddedOptions(models=(MODEL,))))
        server = ServerSettings(name="s0", grpc=triton.grpc_address, metrics=triton.metrics_url)
        gateways = {}
        for way, port in zip(ways, choose_free_ports(2), strict=True):
            tracing = TracingSettings(endpoint=endpoint, sample_ratio=SAMPLE_RATIO) if way == WITH else None
            (own := folder / str(port)).mkdir()
            address = f"{LOOPBACK}:{port}"
            settings = GatewaySettings(grpc=address, http=None, metrics=None, tracing=tracing)
            (own / "fleet.yaml").write_text(render_fleet(FleetSettings(servers=(server,), gateway=settings)))
            pid = await stack.enter_async_context(run_gateway(own / "fleet.yaml", port))
            client = await stack.enter_async_context(AsyncClient(address, attempts=_ATTEMPTS))
            gateways[way] = (client, pid)
        yield gateways


def draw_claims(results: Results) -> Iterator[Claim]:
    """Yield how many of the answers a second are left."""
    ratio = mean_of(results.ratios("answers_per_s"))
    interval = Interval(ratio.least, ratio.most)
    yield Claim(f"answers/s, {WITH} over {WITHOUT}", ratio.value, "ratio", FLOOR, is_floor=True, interval=interval)


def make_page(results: Results, claims: Sequence[Claim]) -> Iterator[Block]:
    """Yield the page."""
    prose = _PROSE.format(requests=results.requests, rounds=results.rounds, posted_kb=results.posted_bytes / 1e3)
    yield from page_head("What traces cost", prose, results, claims)
    yield Heading(2, "Measured")
    rows = []
    for way in (WITHOUT, WITH):
        own = [sample for sample in results.samples if sample.way == way]
        rate, cpu_s = (median(getattr(sample, name) for sample in own) for name in ("answers_per_s", "cpu_s"))
        rows.append((way, f"{rate:.0f}", f"{cpu_s * 1e6:.0f}"))
    yield Table(("median of all rounds", "answers/s", "gateway's CPU µs a request"), rows)
    ratio = mean_of(results.ratios("cpu_s"))
    yield Text(
        f"Processor time of the gateway, {WITH} over {WITHOUT}: {ratio.value:.3f}, {ratio.least:.3f} to "
        f"{ratio.most:.3f} with 95 %."
    )


if __name__ == "__main__":
    main()
