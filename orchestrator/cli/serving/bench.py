"""``slimsched bench``: open-loop load at a gateway, a Triton or a router, and what came of it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from orchestrator.cli.options import FILE, PATH
from orchestrator.cli.research.output import save, say_figure, wide_console
from orchestrator.loadgen.clients import GRPC, HTTP, ROUTER
from orchestrator.loadgen.comparison import Result, compare, mean_of
from orchestrator.loadgen.plan import KINDS, Load, arrivals_s
from orchestrator.loadgen.records import Summary, summarize
from orchestrator.loadgen.run import run_load
from orchestrator.loadgen.sample import LabelledSample, load_sample
from orchestrator.loadgen.target import SetUp, Target, find_target, parse_set_up

_COLUMNS = (
    ("right in time", "right_in_time", 1.0, ".1%"),
    ("in time", "in_time", 1.0, ".1%"),
    ("late", "late", 1.0, ".1%"),
    ("refused", "refused", 1.0, ".1%"),
    ("accuracy", "accuracy", 1.0, ".1%"),
    ("p50 ms", "p50_s", 1e3, ".1f"),
    ("p99 ms", "p99_s", 1e3, ".1f"),
)
_MEANS = (("in time", "in_time"), ("late", "late"), ("refused", "refused"), ("accuracy", "accuracy"))


def _load_options(command: Any) -> Any:
    for option in (
        click.option("--json", "as_json", is_flag=True, help="Print the figures as JSON."),
        click.option("--out", type=FILE, help="Save every figure as JSON."),
        click.option("--senders", type=click.IntRange(1, 64), default=1, help="Processes that send."),
        click.option("--seed", type=int, default=0, help="Of arrivals and the order of images."),
        click.option("--warm-up-s", type=click.FloatRange(min=0), default=1.0, help="First part that isn't counted."),
        click.option("--seconds", type=click.FloatRange(min=0, min_open=True), default=10.0, help="How long to send."),
        click.option("--deadline-ms", type=click.FloatRange(min=1), default=100.0, help="From when a request is due."),
        click.option("--workload", default="poisson", help=f"Shape of the arrivals: {', '.join(KINDS)}."),
        click.option(
            "--sample",
            "sample_path",
            type=PATH,
            default=Path("examples/fashion-mnist/test_1000.npz"),
            help="Labelled images to send: .npz with images uint8 [n, c, h, w] and labels [n].",
        ),
    ):
        command = option(command)
    return command


@click.group(invoke_without_command=True)
@click.option("--grpc", "grpc_address", help="HOST:PORT of a gateway's or a Triton's gRPC.")
@click.option("--http", "http_address", help="HOST:PORT of a gateway's or a Triton's HTTP.")
@click.option("--fleet", type=PATH, help="A fleet file: a router in the sender's own process.")
@click.option("--model", default="fashion", help="Family or model to ask for.")
@click.option("--rate", type=click.FloatRange(min=0, min_open=True), default=100.0, help="Requests a second.")
@_load_options
@click.pass_context
def bench(
    context: click.Context,
    grpc_address: str | None,
    http_address: str | None,
    fleet: Path | None,
    model: str,
    rate: float,
    sample_path: Path,
    workload: str,
    deadline_ms: float,
    seconds: float,
    warm_up_s: float,
    seed: int,
    senders: int,
    out: Path | None,
    as_json: bool,
) -> None:
    """Send labelled images open loop, and show what was right and in time.

    Requests are sent when they are due, whether or not earlier ones were answered, and latency counts from then.
    Ctrl-C ends the sending; the figures are then of what was sent.

    \b
    Example:
      slimsched up &
      slimsched bench --grpc 127.0.0.1:9001 --rate 500 --deadline-ms 100
      slimsched bench --grpc 127.0.0.1:9001 --workload burst:1000
    """
    if context.invoked_subcommand is not None:
        return
    places = ((GRPC, grpc_address), (HTTP, http_address), (ROUTER, fleet))
    given = [(kind, str(place)) for kind, place in places if place is not None]
    if len(given) != 1:
        raise click.UsageError("give one of --grpc, --http and --fleet")
    load = Load(workload, rate, seconds, deadline_ms / 1e3, warm_up_s=warm_up_s, seed=seed)
    arrivals_s(load)
    sample = load_sample(sample_path)
    console = Console(stderr=True)

    async def run() -> tuple[Summary, float, bool]:
        target = await find_target(*given[0], model)
        with _progress(console, f"{rate:g}/s {workload}", seconds) as progress:
            return await _measure(target, load, sample, senders, progress)

    summary, senders_cores, is_cut = asyncio.run(run())
    if is_cut:
        console.print("interrupted; these are the figures of what was sent")
    _show(summary, senders_cores, as_json=as_json)
    _save(out, {"load": asdict(load), "senders_cores": senders_cores, "summary": asdict(summary)})


@bench.command("compare")
@click.option(
    "--set-up",
    "named",
    multiple=True,
    required=True,
    help="NAME=KIND:PLACE[:MODEL][,PARAMETER=VALUE…]; kinds are grpc, http and router. Several times for several.",
)
@click.option("--rate", "rates", type=click.FloatRange(min=0, min_open=True), multiple=True, required=True)
@click.option("--rounds", type=click.IntRange(1), default=3)
@_load_options
def compare_command(
    named: tuple[str, ...],
    rates: tuple[float, ...],
    rounds: int,
    sample_path: Path,
    workload: str,
    deadline_ms: float,
    seconds: float,
    warm_up_s: float,
    seed: int,
    senders: int,
    out: Path | None,
    as_json: bool,
) -> None:
    """Give several set-ups the same loads in turn, in several rounds; means come with 95 % intervals.

    \b
    Example:
      slimsched bench compare --rate 500 --rate 2000 \\
        --set-up default=grpc:127.0.0.1:9001:fashion \\
        --set-up narrowest=grpc:127.0.0.1:9001:fashion,slim_width=25
    """
    loads = [Load(workload, rate, seconds, deadline_ms / 1e3, warm_up_s=warm_up_s, seed=seed) for rate in rates]
    for load in loads:
        arrivals_s(load)
    sample = load_sample(sample_path)
    console = Console(stderr=True)
    results: list[Result] = []

    async def run() -> None:
        set_ups = [await parse_set_up(text) for text in named]

        async def measure(set_up: SetUp, load: Load) -> tuple[Summary, float]:
            with _progress(console, f"{set_up.name} {load.rate_rps:g}/s", load.seconds) as progress:
                summary, senders_cores, is_cut = await _measure(set_up.target, load, sample, senders, progress)
            if is_cut:
                raise asyncio.CancelledError
            return summary, senders_cores

        await compare(set_ups, loads, rounds, measure, results.append)

    try:
        asyncio.run(run())
    except KeyboardInterrupt:
        console.print("interrupted; these are the figures so far")
    _show_results(results, as_json=as_json)
    _save(out, [asdict(result) for result in results])


async def _measure(
    target: Target, load: Load, sample: LabelledSample, senders: int, progress: Any
) -> tuple[Summary, float, bool]:
    done = await run_load(target, load, sample.images, sample.labels, senders=senders, progress=progress)
    counted = done.records if load.is_burst else done.records.after(load.warm_up_s)
    return summarize(counted, load.deadline_s), done.senders_cores, done.is_cut


@contextmanager
def _progress(console: Console, what: str, seconds: float) -> Iterator[Callable[[float], None]]:
    with Progress(
        TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), console=console, transient=True
    ) as bar:
        task = bar.add_task(what, total=seconds)
        yield lambda passed_s: bar.update(task, completed=passed_s)


def _cells(summary: Summary) -> list[str]:
    values = [(getattr(summary, name), scale, form) for _, name, scale, form in _COLUMNS]
    return [say_figure(None if value is None else scale * value, form) for value, scale, form in values]


def _show(summary: Summary, senders_cores: float, *, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(asdict(summary)))
        return
    table = Table("requests", *(heading for heading, *_ in _COLUMNS), "widths")
    widths = ", ".join(f"{width} %: {part:.0%}" for width, part in summary.widths.items() if width)
    table.add_row(f"{summary.requests:,}", *_cells(summary), widths or "-")
    console = wide_console()
    console.print(table)
    for status, count in summary.statuses.items():
        if status != "OK":
            console.print(f"{status}: {count:,}", highlight=False)
    console.print(
        f"senders took {senders_cores:.2f} cores; 99 % of requests left within {summary.sender_late_s * 1e3:.1f} ms of "
        "when they were due",
        highlight=False,
    )


def _show_results(results: Sequence[Result], *, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps([asdict(result) for result in results]))
        return
    table = Table("rate", "set-up", "rounds", "right in time", "95 %", *(heading for heading, _ in _MEANS), "p99 ms")
    for rate, name in dict.fromkeys((result.load.rate_rps, result.set_up) for result in results):
        own = [r.summary for r in results if (r.load.rate_rps, r.set_up) == (rate, name)]
        right = mean_of([summary.right_in_time for summary in own])
        interval = f"{right.least:.1%} to {right.most:.1%}" if len(own) > 1 else "-"
        means = [_mean([getattr(summary, key) for summary in own]) for _, key in _MEANS]
        p99_s = _mean([summary.p99_s for summary in own])
        table.add_row(
            f"{rate:g}/s",
            name,
            str(len(own)),
            f"{right.value:.1%}",
            interval,
            *(say_figure(mean, ".1%") for mean in means),
            say_figure(None if p99_s is None else 1e3 * p99_s, ".1f"),
        )
    wide_console().print(table)


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _save(out: Path | None, content: Any) -> None:
    if out is not None:
        save(out, json.dumps(content, indent=1) + "\n")
