"""Two gateways over one fleet against one: sharing it, and each for itself, on real Tritons that emulate slow machines.

``make bench-sharing`` writes ``docs/benchmarks/sharing.json`` and ``sharing.md``. Requests go to both gateways in turn,
and all set-ups take turns with the same arrivals. What sharing costs is the difference to one gateway, within rounds.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import click

from benchmarks.harness.claims import claims_table, encode_claim
from benchmarks.harness.command import (
    Say,
    conclude,
    out_option,
    path_option,
    publish,
    repository_option,
    run_to_end,
    start_clock,
)
from benchmarks.harness.machine import Machine, describe_machine
from benchmarks.harness.programs import run_gateway
from orchestrator.config import FleetSettings, GatewaySettings, PeerSettings, ServerSettings, render_fleet
from orchestrator.embedded.flags import LOOPBACK
from orchestrator.embedded.server import EmbeddedOptions, EmbeddedServer, choose_free_ports
from orchestrator.errors import ServerUnavailableError
from orchestrator.loadgen.capacity import measure_capacity
from orchestrator.loadgen.comparison import Result, compare, mean_of
from orchestrator.loadgen.plan import Load
from orchestrator.loadgen.run import Measured, measure
from orchestrator.loadgen.sample import LabelledSample, load_sample
from orchestrator.loadgen.target import SetUp, find_target
from orchestrator.reporting.blocks import Block, Heading, Table, Text
from orchestrator.reporting.claim import Claim, Interval

FAMILY = "fashion"
ONE, SHARING, APART = "one gateway", "two that share", "two, each for itself"
SLOWDOWNS = (12.0, 12.0)
"""So slow that two cores hold servers, gateways and the sender."""
RATIOS = (0.5, 0.9, 1.2, 2.0)
"""Requests over what the fleet answers at its narrowest width."""
DEADLINE_S = 0.1
COST = 0.01
"""Of the requests that are answered in time by one gateway, which two that share it may answer less."""
_WARM_UP_S = 1.0
_REST_S = 0.5
_SETTLE_S = 5.0
_TRIES = 100


@click.command()
@repository_option
@out_option
@path_option("--sample", Path("examples/fashion-mnist/test_1000.npz"))
@click.option("--rounds", type=click.IntRange(2), default=5, show_default=True)
@click.option("--seconds", type=click.FloatRange(min=2), default=4.0, show_default=True, help="Of each run.")
def main(repository: Path, out: Path, sample: Path, rounds: int, seconds: float) -> None:
    """Measure one gateway, two that share its fleet, and two that don't."""
    machine, say = describe_machine(), start_clock()
    capacity_rps, results = run_to_end(_measure(repository, load_sample(sample), rounds, seconds, say))
    claims = list(draw_claims(results, capacity_rps))
    rows = [
        {"set_up": r.set_up, "ratio": r.load.rate_rps / capacity_rps, "round": r.round, "in_time": r.summary.in_time}
        for r in results
    ]
    document = {
        "machine": str(machine),
        "capacity_rps": capacity_rps,
        "rows": rows,
        "claims": [encode_claim(claim) for claim in claims],
    }
    publish("sharing", out, document, list(make_page(results, capacity_rps, claims, machine)))
    conclude(claims)


async def _measure(
    repository: Path, sample: LabelledSample, rounds: int, seconds: float, say: Say
) -> tuple[float, list[Result]]:
    results: list[Result] = []

    async def run(set_up: SetUp, load: Load) -> Measured:
        await asyncio.sleep(_REST_S)
        return await measure(set_up.target, load, sample.sent(), senders=1, progress=lambda seconds: None)

    def note(result: Result) -> None:
        results.append(result)
        say(f"{result.set_up}, {result.load.rate_rps:.0f}/s: {100 * result.summary.in_time:.1f} % in time")

    with tempfile.TemporaryDirectory(prefix="bench-sharing-") as folder:
        async with open_set_ups(repository, Path(folder)) as set_ups:
            narrowest = SetUp("narrowest", set_ups[0].target, (("slim_width", 25),))
            capacity_rps = await measure_capacity(narrowest, sample)
            say(f"{capacity_rps:.0f} requests a second at the narrowest width")
            loads = [
                Load("poisson", ratio * capacity_rps, seconds, DEADLINE_S, warm_up_s=_WARM_UP_S) for ratio in RATIOS
            ]
            await compare(set_ups, loads, rounds, run, note)
    return capacity_rps, results


@asynccontextmanager
async def open_set_ups(repository: Path, folder: Path) -> AsyncIterator[list[SetUp]]:
    """Run a fleet and all gateways over it; yield the set-ups, one gateway first."""
    async with AsyncExitStack() as stack:
        servers = [EmbeddedServer(repository, EmbeddedOptions(slowdown=slowdown)) for slowdown in SLOWDOWNS]
        await asyncio.gather(*map(stack.enter_async_context, servers))
        fleet = tuple(
            ServerSettings(name=f"s{number}", grpc=server.grpc_address, emulated_slowdown=slowdown)
            for number, (server, slowdown) in enumerate(zip(servers, SLOWDOWNS, strict=True))
        )
        listen = [f"{LOOPBACK}:{port}" for port in choose_free_ports(2)]
        peers = [PeerSettings(listen=own, addresses=tuple(listen), name=f"g{n}") for n, own in enumerate(listen)]
        found = []
        members_of: dict[str, Sequence[PeerSettings | None]] = {ONE: [None], SHARING: peers, APART: [None, None]}
        for name, members in members_of.items():
            addresses = []
            for member in members:
                addresses.append(await _run_gateway(stack, fleet, member, folder))
            found.append(SetUp(name, await find_target("grpc", "+".join(addresses), FAMILY)))
        await asyncio.sleep(_SETTLE_S)
        yield found


async def _run_gateway(
    stack: AsyncExitStack, servers: tuple[ServerSettings, ...], peers: PeerSettings | None, folder: Path
) -> str:
    ports = choose_free_ports(3)
    grpc, http, metrics = (f"{LOOPBACK}:{port}" for port in ports)
    own = folder / str(ports[0])
    own.mkdir()
    path = own / "fleet.yaml"
    settings = FleetSettings(
        servers=servers, gateway=GatewaySettings(grpc=grpc, http=http, metrics=metrics, peers=peers)
    )
    path.write_text(render_fleet(settings))
    await stack.enter_async_context(run_gateway(path, ports[0]))
    for _ in range(_TRIES):
        try:
            await find_target("grpc", grpc, FAMILY)
        except ServerUnavailableError:
            await asyncio.sleep(0.2)
        else:
            break
    return grpc


def draw_claims(results: Sequence[Result], capacity_rps: float) -> Iterator[Claim]:
    """Yield for each load what sharing costs of the requests that are answered in time, in points."""
    for rate_rps in dict.fromkeys(result.load.rate_rps for result in results):
        in_time = {(r.set_up, r.round): r.summary.in_time for r in results if r.load.rate_rps == rate_rps}
        rounds = sorted({number for _, number in in_time})
        lost = mean_of([100 * (in_time[ONE, number] - in_time[SHARING, number]) for number in rounds])
        name = f"at {rate_rps / capacity_rps:g} of the capacity, what two that share lose against one"
        yield Claim(name, lost.value, "points in time", 100 * COST, interval=Interval(lost.least, lost.most))


def make_page(
    results: Sequence[Result], capacity_rps: float, claims: Sequence[Claim], machine: Machine
) -> Iterator[Block]:
    """Yield the page."""
    yield Heading(1, "Gateways that share a fleet")
    yield Text(
        f"Made by `make bench-sharing` on {machine}. Two Tritons that emulate machines {SLOWDOWNS[0]:g} times as slow, "
        f"together {capacity_rps:.0f} requests a second at the narrowest width; Poisson arrivals of one image each, a "
        f"deadline of {DEADLINE_S * 1e3:g} ms, sent to both gateways in turn. All set-ups take turns with the same "
        "arrivals. A load is the requests sent over that capacity."
    )
    yield Heading(2, "Answered in time")
    rates = list(dict.fromkeys(result.load.rate_rps for result in results))
    rows = []
    for name in dict.fromkeys(result.set_up for result in results):
        cells = []
        for rate_rps in rates:
            own = [r.summary.in_time for r in results if (r.set_up, r.load.rate_rps) == (name, rate_rps)]
            found = mean_of(own)
            cells.append(f"{100 * found.value:.1f} ± {100 * (found.most - found.value):.1f} %")
        rows.append((name, *cells))
    yield Table(("set-up", *(f"load {rate_rps / capacity_rps:g}" for rate_rps in rates)), rows)
    yield Heading(2, "Claims")
    yield claims_table(claims)


if __name__ == "__main__":
    main()
