"""Several gateways over one fleet against one: sharing it, and each for itself, on real Tritons that emulate slow ones.

``make bench-sharing`` writes ``docs/benchmarks/sharing.json`` and ``sharing.md``. Requests go to all gateways of a
set-up in turn, and all set-ups take turns with the same arrivals. What sharing costs is the difference to one gateway,
within rounds. Five rounds gave intervals of 3 points where the bar is one, so there are fifteen. Loads are told over
what one gateway answers within the deadline. Without one it answers a fifth more, because queues of seconds fill each
batch: 0.9 of that was 1.07 times what it kept up with, and it missed 7 %. Each run is kept as it comes, so whoever is
interrupted starts it again and goes on.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict, dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

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
from orchestrator.errors import ConfigError, ServerUnavailableError
from orchestrator.loadgen.capacity import measure_capacity
from orchestrator.loadgen.comparison import mean_of, turns
from orchestrator.loadgen.plan import Load
from orchestrator.loadgen.run import measure
from orchestrator.loadgen.sample import LabelledSample, load_sample
from orchestrator.loadgen.target import SetUp, find_target
from orchestrator.reporting.blocks import Block, Heading, Table, Text
from orchestrator.reporting.claim import Claim, Interval
from orchestrator.reporting.journal import Journal, differences

FAMILY = "fashion"
SHARING = {2: "two that share", 4: "four that share", 8: "eight that share"}
ONE, APART = "one gateway", "two, each for itself"
SLOWDOWNS = (144.0,) * 4
"""So slow that two cores hold servers, all gateways and the sender at twice what the servers answer."""
RATIOS = (0.5, 0.9, 1.2, 2.0)
"""Requests over what one gateway answers within the deadline at the narrowest width when it is sent more."""
DEADLINE_S = 0.6
COST = 0.01
"""Of the requests that are answered in time by one gateway, which those that share its fleet may answer less."""
_CAPACITY_S, _OVERLOAD_RPS = 20.0, 400.0
_WARM_UP_S = 1.0
_REST_S = 0.5
_SETTLE_S = 5.0
_TRIES = 100
_REMEDY = "remove it to begin anew"


@dataclass(frozen=True, slots=True)
class Row:
    """What one set-up did in one round at a load; ``in_time`` is the part of the requests."""

    set_up: str
    ratio: float
    round: int
    in_time: float


@dataclass
class Taken:
    """What a journal holds: at its head what the run is about and the capacity that it goes by, then a line a row."""

    about: Mapping[str, Any]
    capacity_rps: float | None = None
    rows: list[Row] = field(default_factory=list)

    def replay(self, number: int, values: Any) -> None:
        """Take in a line; raises ConfigError when it is of another run."""
        if number > 1:
            self.rows.append(Row(**values))
            return
        self.capacity_rps = float(values.pop("capacity_rps"))
        for key, was, now in differences(values, self.about):
            raise ConfigError(f"the journal was begun with {key} = {was}, now it is {now}; {_REMEDY}")


def about(machine: Machine, seconds: float) -> Mapping[str, Any]:
    """Return what the parts of a run must have in common."""
    own = {"seconds": seconds, "slowdowns": list(SLOWDOWNS), "deadline_s": DEADLINE_S, "gateways": list(SHARING)}
    return {"cpu": machine.cpu, "cpus": machine.cpus, "kernel": machine.kernel, **own}


@click.command()
@repository_option
@out_option
@path_option("--sample", Path("examples/fashion-mnist/test_1000.npz"))
@path_option("--journal", Path("build/sharing.jsonl"))
@click.option("--rounds", type=click.IntRange(2), default=15, show_default=True)
@click.option("--seconds", type=click.FloatRange(min=2), default=6.0, show_default=True, help="Of each run.")
def main(repository: Path, out: Path, sample: Path, journal: Path, rounds: int, seconds: float) -> None:
    """Measure one gateway, several that share its fleet, and two that don't; go on where the journal ends."""
    machine, say = describe_machine(), start_clock()
    taken = Taken(about(machine, seconds))
    try:
        with Journal(journal, taken.replay, remedy=_REMEDY) as kept:
            run_to_end(_measure(repository, load_sample(sample), rounds, seconds, taken, kept, say))
    except ConfigError as exc:
        raise click.ClickException(str(exc)) from exc
    claims = list(draw_claims(taken.rows))
    document = {
        "machine": str(machine),
        "capacity_rps": taken.capacity_rps,
        "rows": [asdict(row) for row in taken.rows],
        "claims": [encode_claim(claim) for claim in claims],
    }
    publish("sharing", out, document, list(make_page(taken, claims, machine)))
    journal.unlink()
    conclude(claims)


async def _measure(
    repository: Path, sample: LabelledSample, rounds: int, seconds: float, taken: Taken, journal: Journal, say: Say
) -> None:
    known = {(row.set_up, row.ratio, row.round) for row in taken.rows}
    with tempfile.TemporaryDirectory(prefix="bench-sharing-") as folder:
        async with open_set_ups(repository, Path(folder)) as set_ups:
            if taken.capacity_rps is None:
                narrowest = SetUp("narrowest", set_ups[0].target, (("slim_width", 25),))
                taken.capacity_rps = await measure_capacity(
                    narrowest, sample, seconds=_CAPACITY_S, first_rps=_OVERLOAD_RPS, deadline_s=DEADLINE_S
                )
                journal.write({**taken.about, "capacity_rps": taken.capacity_rps})
            capacity_rps = taken.capacity_rps
            say(f"{capacity_rps:.0f} requests a second at the narrowest width")
            loads = [
                Load("poisson", ratio * capacity_rps, seconds, DEADLINE_S, warm_up_s=_WARM_UP_S) for ratio in RATIOS
            ]
            ratios = dict(zip((load.rate_rps for load in loads), RATIOS, strict=True))
            for number, load, set_up in turns(set_ups, loads, rounds):
                ratio = ratios[load.rate_rps]
                if (set_up.name, ratio, number) in known:
                    continue
                await asyncio.sleep(_REST_S)
                found = await measure(set_up.target, load, sample.sent(), senders=1, progress=lambda seconds: None)
                if found.is_cut:
                    raise asyncio.CancelledError
                row = Row(set_up.name, ratio, number, found.summary.in_time)
                taken.rows.append(row)
                journal.write(asdict(row))
                say(f"round {number + 1}, load {ratio:g}, {set_up.name}: {100 * row.in_time:.1f} % in time")


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
        found = []
        members_of: dict[str, Sequence[PeerSettings | None]] = {ONE: [None], APART: [None, None]}
        members_of |= {name: _peers(count) for count, name in SHARING.items()}
        for name, members in members_of.items():
            addresses = []
            for member in members:
                addresses.append(await _run_gateway(stack, fleet, member, folder))
            found.append(SetUp(name, await find_target("grpc", "+".join(addresses), FAMILY)))
        await asyncio.sleep(_SETTLE_S)
        yield found


def _peers(count: int) -> list[PeerSettings]:
    listen = [f"{LOOPBACK}:{port}" for port in choose_free_ports(count)]
    return [PeerSettings(listen=own, addresses=tuple(listen), name=f"g{n}") for n, own in enumerate(listen)]


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


def draw_claims(rows: Sequence[Row]) -> Iterator[Claim]:
    """Yield for each number of gateways and load what sharing costs of what is answered in time, in points."""
    for sharing, ratio in product(SHARING.values(), RATIOS):
        in_time = {(row.set_up, row.round): row.in_time for row in rows if row.ratio == ratio}
        rounds = sorted({number for _, number in in_time})
        lost = mean_of([100 * (in_time[ONE, number] - in_time[sharing, number]) for number in rounds])
        name = f"at {ratio:g} of the capacity, what {sharing} lose against one"
        yield Claim(name, lost.value, "points in time", 100 * COST, interval=Interval(lost.least, lost.most))


def make_page(taken: Taken, claims: Sequence[Claim], machine: Machine) -> Iterator[Block]:
    """Yield the page."""
    yield Heading(1, "Gateways that share a fleet")
    yield Text(
        f"Made by `make bench-sharing` on {machine}. {len(SLOWDOWNS)} Tritons that emulate machines {SLOWDOWNS[0]:g} "
        f"times as slow. One gateway answers {taken.capacity_rps:.0f} requests a second within the deadline at the "
        "narrowest width when it is sent more; a load is the requests sent over that. Poisson arrivals of one image "
        f"each, a deadline of {DEADLINE_S * 1e3:g} ms, sent to all gateways of a set-up in turn. All set-ups take turns "
        f"with the same arrivals, in {len({row.round for row in taken.rows})} rounds."
    )
    yield Heading(2, "Answered in time")
    rows = []
    for name in dict.fromkeys(row.set_up for row in taken.rows):
        cells = []
        for ratio in RATIOS:
            found = mean_of([row.in_time for row in taken.rows if (row.set_up, row.ratio) == (name, ratio)])
            cells.append(f"{100 * found.value:.1f} ± {100 * (found.most - found.value):.1f} %")
        rows.append((name, *cells))
    yield Table(("set-up", *(f"load {ratio:g}" for ratio in RATIOS)), rows)
    yield Heading(2, "Claims")
    yield claims_table(claims)


if __name__ == "__main__":
    main()
