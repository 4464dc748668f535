"""``python -m benchmarks.real``: measures all cells, goes on where it was interrupted, and writes page and JSON."""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from benchmarks.harness.claims import encode_claim
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
from benchmarks.harness.machine import describe_machine
from benchmarks.harness.profiles import profile_fleet
from benchmarks.harness.rows import REMEDY, about_machine, check_about, digest_code
from benchmarks.real.cells import FLEETS, WARM_UP_S, Cell, cells_of
from benchmarks.real.claims import NARROWEST, WIDEST, draw_claims
from benchmarks.real.found import Found
from benchmarks.real.page import make_page
from benchmarks.real.picture import draw_picture
from benchmarks.real.promises import watch_promises
from benchmarks.real.results import Line, mean_late_s, missed_part, pressed_widths
from benchmarks.real.testbed import (
    DEFAULT,
    IN_TURN,
    NARROWEST_WIDTH,
    POLICIES,
    accuracies_of,
    hogged,
    open_set_ups,
    run_fleet,
)
from orchestrator.loadgen.capacity import measure_capacity
from orchestrator.loadgen.comparison import drain, turns
from orchestrator.loadgen.plan import Load
from orchestrator.loadgen.records import summarize
from orchestrator.loadgen.run import counted, run_load
from orchestrator.loadgen.sample import LabelledSample, load_sample
from orchestrator.loadgen.target import SetUp
from orchestrator.reporting.journal import Journal
from orchestrator.triton.client import TritonClient

_REST_S = 0.5
_SETTLE_S = 2.0  # from when a hog begins to when something is measured
_BURST_SET_UPS = (DEFAULT, NARROWEST)
_BRIEF = ("--requests", "16", "--precision", "0.1")
Keep = Callable[[dict[str, Any]], None]
"""Writes what was measured into the journal."""


@click.command()
@repository_option
@out_option
@path_option("--sample", Path("examples/fashion-mnist/test_1000.npz"))
@path_option("--journal", Path("build/real.jsonl"))
@click.option(
    "--rounds", type=click.IntRange(1), default=2, show_default=True, help="Of loads beyond full width; else one."
)
@click.option("--seconds", type=click.FloatRange(min=2), default=3.0, show_default=True, help="Of each run.")
@click.option("--fleet", "fleets", multiple=True, type=click.Choice(list(FLEETS)), help="Only these.")
@click.option("--workload", "workloads", multiple=True, help="Only these shapes of load.")
@click.option("--deadline-ms", "deadlines_ms", type=float, multiple=True, help="Only these deadlines.")
@click.option(
    "--promises-s",
    type=click.FloatRange(min=0),
    default=90.0,
    show_default=True,
    help="How long promises are watched at each load; 0: not at all.",
)
def main(
    repository: Path,
    out: Path,
    sample: Path,
    journal: Path,
    rounds: int,
    seconds: float,
    fleets: tuple[str, ...],
    workloads: tuple[str, ...],
    deadlines_ms: tuple[float, ...],
    promises_s: float,
) -> None:
    """Measure; the exit status is 1 when a bar is missed."""
    found = Found()
    about = about_machine(machine := describe_machine(), rounds=rounds, seconds=seconds, code=digest_code())

    def replay(number: int, values: Any) -> None:
        if number == 1:
            check_about(values, about)
        else:
            found.add(values)

    accuracies = accuracies_of(repository, load_sample(sample))
    say = start_clock()
    with Journal(journal, replay, remedy=REMEDY) as kept:
        if kept.is_new:
            kept.write(about)

        def keep(values: dict[str, Any]) -> None:
            kept.write(values)
            found.add(values)

        for fleet in fleets or tuple(FLEETS):
            wanted = [cell for hogs in (0, 1) for cell in cells_of(fleet, hogs)]
            if workloads:
                wanted = [cell for cell in wanted if cell.workload in workloads]
            if deadlines_ms:
                wanted = [cell for cell in wanted if cell.deadline_s * 1e3 in deadlines_ms]
            run_to_end(_measure_fleet(repository, wanted, load_sample(sample), rounds, seconds, found, keep, say))
            if promises_s and not any(one.fleet == fleet for one in found.promises):
                run_to_end(_watch_promises(repository, fleet, load_sample(sample), promises_s, keep, say))
    setting = {"machine": machine, "rounds": rounds, "seconds of each run": f"{seconds:g}"}
    claims = draw_claims(found.lines, found.promises, accuracies)
    document: dict[str, Any] = {
        "taken_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "setting": {key: str(value) for key, value in setting.items()},
        "claims": [encode_claim(claim) for claim in claims],
        "lines": [line.encode() for line in found.lines],
        "promises": [one.encode() for one in found.promises],
        "profiles": found.profiles,
        "accuracies": accuracies,
    }
    page = list(make_page(found.lines, found.promises, claims, document["setting"], "real.png"))
    publish("real", out, document, page, picture=draw_picture(found.lines))
    journal.unlink()  # what is done is done; the next run measures anew
    conclude(claims)


async def _measure_fleet(
    repository: Path,
    wanted: Sequence[Cell],
    sample: LabelledSample,
    rounds: int,
    seconds: float,
    found: Found,
    keep: Keep,
    say: Say,
) -> None:
    if not wanted:
        return
    fleet = wanted[0].fleet
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-real-")))
        settings = await run_fleet(stack, repository, fleet)
        if fleet not in found.profiles:  # of these very servers, for who simulates what they do
            await profile_fleet(settings, folder, folder / "profile.json", say, *_BRIEF)
            keep({"fleet": fleet, "profile": json.loads((folder / "profile.json").read_text())})
        set_ups, tritons = await stack.enter_async_context(open_set_ups(settings, folder))
        widest = next(set_up for set_up in set_ups if set_up.name == WIDEST)
        if fleet not in found.capacities_rps:
            keep({"fleet": fleet, "capacity_rps": await measure_capacity(widest, sample)})
        capacity_rps = found.capacities_rps[fleet]
        say(f"{fleet}: {capacity_rps:.0f} requests a second at full width")
        for index, cell in enumerate(wanted):
            load = cell.load(capacity_rps, seconds, WARM_UP_S, seed=0)
            async with hogged(cell.hogs):
                await asyncio.sleep(_SETTLE_S if cell.hogs else 0)
                await _measure_cell(cell, index, load, set_ups, tritons, sample, rounds, found, keep, say)


async def _measure_cell(
    cell: Cell,
    first: int,
    load: Load,
    set_ups: Sequence[SetUp],
    tritons: Sequence[TritonClient],
    sample: LabelledSample,
    rounds: int,
    found: Found,
    keep: Keep,
    say: Say,
) -> None:
    known = {(line.cell, line.round, line.set_up) for line in found.lines}
    if not cell.is_usual:
        set_ups = [set_up for set_up in set_ups if set_up.name not in IN_TURN]
    if cell.is_burst:
        set_ups = [set_up for set_up in set_ups if set_up.name in _BURST_SET_UPS]
    for number, own, set_up in turns(set_ups, [load], cell.rounds(rounds), first=first):
        if (cell, number, set_up.name) in known or (number and set_up.name not in POLICIES):
            continue
        await drain(tritons, sample.images[:1])
        await asyncio.sleep(_REST_S)
        run = await run_load(set_up.target, set_up.of(own), sample.sent())
        if run.is_cut:
            raise asyncio.CancelledError
        records = counted(run, own)
        summary, pressed = summarize(records, cell.deadline_s), pressed_widths(records, cell.deadline_s)
        assert summary.right_in_time is not None  # its images are labelled
        line = Line(
            cell,
            number,
            set_up.name,
            own.rate_rps,
            summary.right_in_time,
            summary.in_time,
            summary.late,
            summary.refused,
            summary.accuracy,
            summary.mean_s,
            summary.p99_s,
            summary.sender_late_s,
            {str(width): part for width, part in summary.widths.items()},
            missed_part(records, cell.deadline_s),
            len(pressed),
            int((pressed > NARROWEST_WIDTH).sum()),
            run.senders_cores,
            mean_late_s(records),
        )
        keep(line.encode())
        say(
            f"{cell.fleet}, {cell.hogs} hogs, {cell.workload}, {cell.deadline_s * 1e3:g} ms, load {cell.ratio:g}, "
            f"{set_up.name}: {100 * line.right_in_time:.1f} % right in time, {100 * line.late:.1f} % late"
        )


async def _watch_promises(
    repository: Path, fleet: str, sample: LabelledSample, seconds: float, keep: Keep, say: Say
) -> None:
    with tempfile.TemporaryDirectory(prefix="bench-real-") as folder:
        for one in await watch_promises(repository, fleet, Path(folder), sample, seconds):
            keep(one.encode())
            kept = f"{100 * one.share:.1f} % of {one.groups} promises kept"
            say(f"{fleet}, load {one.load:g}, {one.server} at {one.width} %: {kept}")


if __name__ == "__main__":
    main()
