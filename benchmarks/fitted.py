"""A policy fitted to a fleet's profile and to each of its kinds of traffic, against the default, on real Tritons.

``make bench-fitted`` profiles two servers and fits a policy by ``slimsched train-router`` for each cell to arrivals of
its kind. A gateway that runs the default rolls it out, under arrivals of that kind, and takes it or returns, as it does
with every file that is new. Where it was taken, both gateways, this one and one with the default, are measured in turn
over the same servers, on arrivals that nothing was fitted to or tried with. It writes ``docs/benchmarks/fitted.json``
and ``fitted.md``. Both know the same profile, so the policy alone differs. Where a fit promotes nothing, or its rollout
returns, the default goes on, and nothing is measured: that is no difference, and no gain. Each fit, rollout and run is
kept as it comes, so whoever is interrupted starts it again and goes on.

Power is stated, so joules are times the measured time of batches; none was measured. What they count for is told to the
fit and to the rollout, as an operator does: fits go by it, and by default they give points of accuracy for them.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import click
import numpy as np

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
from benchmarks.harness.programs import run_slimsched
from benchmarks.harness.rows import REMEDY, Taken, about_machine, measure_in_turn
from orchestrator.config import FleetSettings, PowerSettings, RouterSettings, ServerSettings, render_fleet
from orchestrator.config.rollout import RolloutSettings
from orchestrator.embedded.server import EmbeddedOptions, EmbeddedServer
from orchestrator.errors import ConfigError
from orchestrator.files import write_atomically
from orchestrator.learning.fitting import rule_file
from orchestrator.loadgen.capacity import measure_capacity
from orchestrator.loadgen.comparison import Mean, mean_of
from orchestrator.loadgen.plan import Load, arrivals_s
from orchestrator.loadgen.records import Summary
from orchestrator.loadgen.run import measure
from orchestrator.loadgen.sample import LabelledSample, load_sample
from orchestrator.loadgen.target import SetUp
from orchestrator.policies.learned.policy_file import write_policy_file
from orchestrator.reporting.blocks import Block, Heading, Table, Text
from orchestrator.reporting.claim import Claim, Interval
from orchestrator.reporting.journal import Journal
from orchestrator.router.rollout.record import digest, read_record
from orchestrator.router.rollout.stages import Verdict

FAMILY: Final = "fashion"
SERVERS: Final = {
    "s0": (12.0, PowerSettings(idle_w=52, busy_w=350)),
    "s1": (36.0, PowerSettings(idle_w=37.5, busy_w=250)),
}
"""By how much each is slowed down, and its stated power: the unlike fleet that leaves two cores enough for the rest."""
CELLS: Final = {
    f"{workload}, {ratio:g} times": (workload, ratio)
    for workload, ratios in (("steady", (0.3, 0.6, 0.9, 1.2, 2.0, 4.0)), ("gamma:8", (0.6, 1.2, 2.0)))
    for ratio in ratios
}
"""The shape of arrivals, and requests over what the fleet answers at full width: cells of ``make bench-real``."""
DEADLINE_MS: Final = 100.0
ENERGY_WEIGHT: Final = 0.01
"""All the joules that a request could cost are worth 1 point, and those that can be saved, less than half, no more than
the half a point that a fitted policy may be behind."""
ROLLOUT: Final = RolloutSettings(shadow_decisions=200, shares=(0.5,), answers=200)
"""In turns of seconds, so that it ends within minutes; see docs/learning.md for the default."""
DEFAULT, FITTED = "default", "fitted"
TAKEN, KEPT = "taken", "nothing promoted"
"""What became of a policy; else it was returned, with the reason."""
WORST_POINTS: Final = 0.5
BETTER_PART: Final = 0.5
_FITTED_SEED, _TRIED_SEED = 1_000_000, 2_000_000  # runs have the number of their round
_RECORDED_S: Final = 150.0
_TRIAL_S, _TRIALS = 10.0, 18
_WARM_UP_S, _REST_S, _SETTLE_S = 1.0, 0.5, 3.0


@dataclass(frozen=True, slots=True)
class Row:
    """What one policy did in one round of a cell: parts of all requests, and joules above idle of an answer."""

    set_up: str
    cell: str
    round: int
    right_in_time: float
    in_time: float
    energy_j: float


def about(machine: Machine, seconds: float, minutes: float) -> Mapping[str, Any]:
    """Return what the parts of a run must have in common."""
    slowdowns = [slowdown for slowdown, _ in SERVERS.values()]
    return about_machine(machine, seconds=seconds, minutes=minutes, slowdowns=slowdowns, cells=list(CELLS))


@click.command()
@repository_option
@out_option
@path_option("--sample", Path("examples/fashion-mnist/test_1000.npz"))
@path_option("--work", Path("build/fitted"))
@click.option("--rounds", type=click.IntRange(2), default=8, show_default=True)
@click.option("--seconds", type=click.FloatRange(min=2), default=4.0, show_default=True, help="Of each run.")
@click.option("--minutes", type=click.FloatRange(min=0), default=0.5, show_default=True, help="For each learner.")
def main(repository: Path, out: Path, sample: Path, work: Path, rounds: int, seconds: float, minutes: float) -> None:
    """Fit a policy for each cell and measure it against the default; go on where it ended."""
    machine, say = describe_machine(), start_clock()
    work.mkdir(parents=True, exist_ok=True)
    taken = Taken(about(machine, seconds, minutes), Row)
    try:
        with Journal(work / "journal.jsonl", taken.replay, remedy=REMEDY) as kept:
            outcomes = run_to_end(
                _measure(repository.resolve(), work, load_sample(sample), rounds, seconds, minutes, taken, kept, say)
            )
    except ConfigError as exc:
        raise click.ClickException(str(exc)) from exc
    claims = list(draw_claims(taken.rows))
    document = {**taken.document(machine, claims), "outcomes": outcomes}
    publish("fitted", out, document, list(make_page(taken, outcomes, claims, machine)))
    (work / "journal.jsonl").unlink()
    conclude(claims)


async def _measure(
    repository: Path,
    work: Path,
    sample: LabelledSample,
    rounds: int,
    seconds: float,
    minutes: float,
    taken: Taken[Row],
    journal: Journal,
    say: Say,
) -> dict[str, str]:
    """Return what became of the policy that was fitted to each cell."""
    outcomes: dict[str, str] = {}
    async with open_fleet(repository, work, say) as fleet, AsyncExitStack() as stack:
        router = RouterSettings(
            deadline_ms=DEADLINE_MS, profile=(work / "profile.json").resolve(), energy_weight=ENERGY_WEIGHT
        )
        address = await start_gateway(stack, fleet, work / "gateway-default", router=router)
        default = SetUp(DEFAULT, await wait_served(address, FAMILY))
        await asyncio.sleep(_SETTLE_S)
        if taken.capacity_rps is None:
            widest = SetUp("widest", default.target, (("slim_width", 100),))
            taken.begin(await measure_capacity(widest, sample), journal)
        assert taken.capacity_rps is not None
        say(f"{taken.capacity_rps:.0f} requests a second at full width")
        known = {(row.set_up, row.cell, row.round) for row in taken.rows}
        for number, cell in enumerate(CELLS):
            load = _load(cell, taken.capacity_rps, seconds)
            file = await _fit(work, number, cell, load, minutes, say)
            if file is None:
                outcomes[cell] = KEPT
                continue
            async with AsyncExitStack() as own_stack:
                own = (work / f"policy-{number}.npz").resolve()
                if not own.exists():
                    write_policy_file(own, rule_file(router.policy))
                rolling = router.model_copy(update={"policy": FITTED, "policy_file": own, "rollout": ROLLOUT})
                address = await start_gateway(own_stack, fleet, work / f"gateway-{number}", router=rolling)
                fitted = SetUp(FITTED, await wait_served(address, FAMILY))
                await asyncio.sleep(_SETTLE_S)
                outcomes[cell] = await _roll_out(own, file, fitted, load, sample)
                say(f"{cell}: {outcomes[cell]}")
                if outcomes[cell] != TAKEN:
                    continue
                done = {(name, 0, at) for name, other, at in known if other == cell}
                async for name, _, at, summary in measure_in_turn(
                    [default, fitted], [load], rounds, sample.sent(), known=done, rest_s=_REST_S
                ):
                    taken.add(_row_of(name, cell, at, summary), journal)
                    say(f"{cell}, round {at + 1}, {name}: {summary.right_in_time:.1%} right in time")
    return outcomes


async def _roll_out(own: Path, file: Path, set_up: SetUp, load: Load, sample: LabelledSample) -> str:
    """Return what becomes of a fitted policy under such a load, in a gateway whose policy is of the file ``own``."""
    data = file.read_bytes()
    if own.read_bytes() != data:
        write_atomically(own, data)
    for turn in range(_TRIALS):
        found = read_record(own)
        if found is not None and found.candidate == digest(data) and found.verdict is not Verdict.ROLLING:
            return TAKEN if found.verdict is Verdict.IN_FORCE else f"returned: {found.why}"
        tried = replace(load, seconds=_TRIAL_S, warm_up_s=0.0, seed=_TRIED_SEED + turn)
        run = await measure(set_up.target, set_up.of(tried), sample.sent(), senders=1, progress=lambda seconds: None)
        if run.is_cut:
            raise asyncio.CancelledError
    return f"not taken within {_TRIALS * _TRIAL_S:.0f} s"


def _row_of(name: str, cell: str, number: int, summary: Summary) -> Row:
    if summary.right_in_time is None or summary.energy_j is None:
        raise ConfigError(f"{name} answered nothing, or its joules are unknown: {dict(summary.statuses)}")
    return Row(name, cell, number, summary.right_in_time, summary.in_time, summary.energy_j)


def _load(cell: str, capacity_rps: float, seconds: float) -> Load:
    workload, ratio = CELLS[cell]
    return Load(workload, ratio * capacity_rps, _WARM_UP_S + seconds, DEADLINE_MS / 1e3, warm_up_s=_WARM_UP_S)


async def _fit(work: Path, number: int, cell: str, load: Load, minutes: float, say: Say) -> Path | None:
    """Return the policy that is fitted to arrivals of a cell's kind; None where the default was kept."""
    file, report = work / f"fitted-{number}.npz", work / f"fitted-{number}.json"
    if not report.exists():
        arrivals = work / f"arrivals-{number}.txt"
        recorded = replace(load, seconds=_RECORDED_S, warm_up_s=0.0, seed=_FITTED_SEED)
        np.savetxt(arrivals, arrivals_s(recorded), fmt="%.6f")
        options = ["--profile", str(work / "profile.json"), "--arrivals", str(arrivals)]
        options += ["--deadline-ms", f"{DEADLINE_MS:g}", "--energy-weight", f"{ENERGY_WEIGHT:g}"]
        run = work / f"fitted-{number}.run"
        options += ["--minutes", f"{minutes:g}", "--out", str(file), "--run", str(run), *["--resume"] * run.exists()]
        say(f"fitting to {cell}")
        await run_slimsched("train-router", *options, log=work / f"fit-{number}.log")
    return file if file.exists() else None


@asynccontextmanager
async def open_fleet(repository: Path, work: Path, say: Say) -> AsyncIterator[FleetSettings]:
    """Run the servers, and profile them where that was not done before."""
    async with AsyncExitStack() as stack:
        servers = [EmbeddedServer(repository, EmbeddedOptions(slowdown=slowdown)) for slowdown, _ in SERVERS.values()]
        await asyncio.gather(*map(stack.enter_async_context, servers))
        fleet = FleetSettings(
            servers=tuple(
                ServerSettings(name=name, grpc=server.grpc_address, emulated_slowdown=slowdown, power=power)
                for server, (name, (slowdown, power)) in zip(servers, SERVERS.items(), strict=True)
            )
        )
        path, profile = work / "fleet.yaml", work / "profile.json"
        path.write_text(render_fleet(fleet))
        if not profile.exists():
            say("profiling")
            options = ["--requests", "5", "--precision", "0.2", "--under-load"]
            await run_slimsched(
                "profile", "--fleet", str(path), "--out", str(profile), *options, log=work / "profile.log"
            )
        yield fleet


def gain(rows: Sequence[Row], cell: str, figure: str) -> Mean:
    """Return by how much a figure of the fitted policy is above the default's in a cell, mean over rounds."""
    found = {(row.set_up, row.round): getattr(row, figure) for row in rows if row.cell == cell}
    rounds = sorted({number for _, number in found})
    return mean_of([found[FITTED, number] - found[DEFAULT, number] for number in rounds])


def draw_claims(rows: Sequence[Row]) -> Iterator[Claim]:
    """Yield that no cell is much worse, and that half of them are surely better in one of both figures."""
    cells = list(dict.fromkeys(row.cell for row in rows))
    right = {cell: gain(rows, cell, "right_in_time") for cell in cells}
    worst = max((mean for mean in right.values()), key=lambda mean: -mean.value, default=None)
    lost = 0.0 if worst is None else max(0.0, -100 * worst.value)
    interval = None if worst is None else Interval(-100 * worst.most, -100 * worst.least)
    yield Claim("top-1 in time behind the default, in the worst cell", lost, "points", WORST_POINTS, interval=interval)
    better = [cell for cell in cells if right[cell].least > 0 or gain(rows, cell, "energy_j").most < 0]
    name = "cells in which top-1 in time or joules an answer are better, interval above 0"
    yield Claim(name, len(better) / len(CELLS), "part", BETTER_PART, is_floor=True)


def make_page(
    taken: Taken[Row], outcomes: Mapping[str, str], claims: Sequence[Claim], machine: Machine
) -> Iterator[Block]:
    """Yield the page."""
    servers = ", ".join(
        f"{name} ({slowdown:g} times as slow, {power.idle_w:g} W idle and {power.busy_w:g} W busy)"
        for name, (slowdown, power) in SERVERS.items()
    )
    rounds = len({row.round for row in taken.rows})
    yield Heading(1, "A fitted policy on real servers")
    yield Text(
        f"Made by `make bench-fitted` on {machine}. Two real Tritons: {servers}. Speeds are emulated and power is "
        "stated, so joules are estimates. For each cell `slimsched train-router` fits a policy to the profile and to "
        f"{_RECORDED_S:g} s of arrivals of its kind. All the joules that a request could cost count for "
        f"{100 * ENERGY_WEIGHT:g} points of accuracy. A gateway that runs the default rolls the policy out under such "
        "arrivals, and takes it or returns. What it has taken and the default, with the same profile, take turns with "
        f"other arrivals, in {rounds} rounds. Requests of one image each have {DEADLINE_MS:g} ms; loads are over "
        f"{taken.capacity_rps:.0f} requests a second, which is what the fleet answers at full width. Energy is above "
        "idle. ± is half of the 95 % interval over rounds, of differences within rounds."
    )
    yield Table(_HEADER, [_line(taken.rows, cell) if outcomes[cell] == TAKEN else _kept(cell) for cell in CELLS])
    returned = [f"{cell}: {found}" for cell, found in outcomes.items() if found not in (TAKEN, KEPT)]
    if returned:
        yield Text("Not taken: " + "; ".join(returned) + ".")
    yield Heading(2, "Claims")
    yield claims_table(claims)


_HEADER = ("cell", "default, right in time", "fitted", "gain, points", "default, J an answer", "fitted", "gain")


def _kept(cell: str) -> tuple[str, ...]:
    return (cell, "", "the default", "0", "", "the default", "0")


def _line(rows: Sequence[Row], cell: str) -> tuple[str, ...]:
    def of(name: str, figure: str, scale: float) -> str:
        values = [scale * getattr(row, figure) for row in rows if (row.set_up, row.cell) == (name, cell)]
        return f"{sum(values) / len(values):.2f}"

    def difference(figure: str, scale: float) -> str:
        mean = gain(rows, cell, figure)
        return f"{scale * mean.value:+.2f} ± {abs(scale) * (mean.most - mean.value):.2f}"

    right = [*(of(name, "right_in_time", 100) for name in (DEFAULT, FITTED)), difference("right_in_time", 100)]
    energy = [*(of(name, "energy_j", 1) for name in (DEFAULT, FITTED)), difference("energy_j", 1)]
    return (cell, *right, *energy)


if __name__ == "__main__":
    main()
