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
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import click

from benchmarks.harness.claims import claims_table
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
from benchmarks.harness.gateways import start_gateway, wait_served
from benchmarks.harness.machine import Machine, describe_machine
from benchmarks.harness.rows import REMEDY, Taken, about_machine, measure_in_turn
from orchestrator.config import FleetSettings, PeerSettings, ServerSettings
from orchestrator.embedded.flags import LOOPBACK
from orchestrator.embedded.server import EmbeddedOptions, EmbeddedServer, choose_free_ports
from orchestrator.errors import ConfigError
from orchestrator.loadgen.capacity import measure_capacity
from orchestrator.loadgen.comparison import mean_of
from orchestrator.loadgen.plan import Load
from orchestrator.loadgen.sample import LabelledSample, load_sample
from orchestrator.loadgen.target import SetUp, find_target
from orchestrator.reporting.blocks import Block, Heading, Table, Text
from orchestrator.reporting.claim import Claim, Interval
from orchestrator.reporting.journal import Journal

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


@dataclass(frozen=True, slots=True)
class Row:
    """What one set-up did in one round at a load; ``in_time`` is the part of the requests."""

    set_up: str
    ratio: float
    round: int
    in_time: float


def about(machine: Machine, seconds: float) -> Mapping[str, Any]:
    """Return what the parts of a run must have in common."""
    own = {"slowdowns": list(SLOWDOWNS), "deadline_s": DEADLINE_S, "gateways": list(SHARING)}
    return about_machine(machine, seconds=seconds, **own)


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
    taken = Taken(about(machine, seconds), Row)
    try:
        with Journal(journal, taken.replay, remedy=REMEDY) as kept:
            run_to_end(_measure(repository, load_sample(sample), rounds, seconds, taken, kept, say))
    except ConfigError as exc:
        raise click.ClickException(str(exc)) from exc
    claims = list(draw_claims(taken.rows))
    publish("sharing", out, taken.document(machine, claims), list(make_page(taken, claims, machine)))
    journal.unlink()
    conclude(claims)


async def _measure(
    repository: Path, sample: LabelledSample, rounds: int, seconds: float, taken: Taken[Row], journal: Journal, say: Say
) -> None:
    known = {(row.set_up, RATIOS.index(row.ratio), row.round) for row in taken.rows}
    with tempfile.TemporaryDirectory(prefix="bench-sharing-") as folder:
        async with open_set_ups(repository, Path(folder)) as set_ups:
            if taken.capacity_rps is None:
                narrowest = SetUp("narrowest", set_ups[0].target, (("slim_width", 25),))
                limits = {"seconds": _CAPACITY_S, "first_rps": _OVERLOAD_RPS, "deadline_s": DEADLINE_S}
                taken.begin(await measure_capacity(narrowest, sample, **limits), journal)
            assert taken.capacity_rps is not None
            capacity_rps = taken.capacity_rps
            say(f"{capacity_rps:.0f} requests a second at the narrowest width")
            loads = [
                Load("poisson", ratio * capacity_rps, seconds, DEADLINE_S, warm_up_s=_WARM_UP_S) for ratio in RATIOS
            ]
            async for name, index, number, summary in measure_in_turn(
                set_ups, loads, rounds, sample.sent(), known=known, rest_s=_REST_S
            ):
                row = Row(name, RATIOS[index], number, summary.in_time)
                taken.add(row, journal)
                say(f"round {number + 1}, load {row.ratio:g}, {name}: {100 * row.in_time:.1f} % in time")


@asynccontextmanager
async def open_set_ups(repository: Path, folder: Path) -> AsyncIterator[list[SetUp]]:
    """Run a fleet and all gateways over it; yield the set-ups, one gateway first."""
    async with AsyncExitStack() as stack:
        servers = [EmbeddedServer(repository, EmbeddedOptions(slowdown=slowdown)) for slowdown in SLOWDOWNS]
        await asyncio.gather(*map(stack.enter_async_context, servers))
        fleet = FleetSettings(
            servers=tuple(
                ServerSettings(name=f"s{number}", grpc=server.grpc_address, emulated_slowdown=slowdown)
                for number, (server, slowdown) in enumerate(zip(servers, SLOWDOWNS, strict=True))
            )
        )
        found: list[SetUp] = []
        members_of: dict[str, Sequence[PeerSettings | None]] = {ONE: [None], APART: [None, None]}
        members_of |= {name: _peers(count) for count, name in SHARING.items()}
        for name, members in members_of.items():
            addresses = []
            for number, member in enumerate(members):
                own = folder / f"gateway-{len(found)}-{number}"
                addresses.append(await start_gateway(stack, fleet, own, peers=member))
                await wait_served(addresses[-1], FAMILY)
            found.append(SetUp(name, await find_target("grpc", "+".join(addresses), FAMILY)))
        await asyncio.sleep(_SETTLE_S)
        yield found


def _peers(count: int) -> list[PeerSettings]:
    listen = [f"{LOOPBACK}:{port}" for port in choose_free_ports(count)]
    return [PeerSettings(listen=own, addresses=tuple(listen), name=f"g{n}") for n, own in enumerate(listen)]


def draw_claims(rows: Sequence[Row]) -> Iterator[Claim]:
    """Yield for each number of gateways and load what sharing costs of what is answered in time, in points."""
    for sharing, ratio in product(SHARING.values(), RATIOS):
        in_time = {(row.set_up, row.round): row.in_time for row in rows if row.ratio == ratio}
        rounds = sorted({number for _, number in in_time})
        lost = mean_of([100 * (in_time[ONE, number] - in_time[sharing, number]) for number in rounds])
        name = f"at {ratio:g} of the capacity, what {sharing} lose against one"
        yield Claim(name, lost.value, "points in time", 100 * COST, interval=Interval(lost.least, lost.most))


def make_page(taken: Taken[Row], claims: Sequence[Claim], machine: Machine) -> Iterator[Block]:
    """Yield the page."""
    yield Heading(1, "Gateways that share a fleet")
    yield Text(
        f"Made by `make bench-sharing` on {machine}. {len(SLOWDOWNS)} Tritons that emulate machines {SLOWDOWNS[0]:g} "
        f"times as slow. One gateway answers {taken.capacity_rps:.0f} requests a second within the deadline at the "
        "narrowest width when it is sent more; a load is the requests sent over that. Poisson arrivals of one image "
        f"each, a deadline of {DEADLINE_S * 1e3:g} ms, sent to all gateways of a set-up in turn. All set-ups take "
        f"turns with the same arrivals, in {len({row.round for row in taken.rows})} rounds."
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
