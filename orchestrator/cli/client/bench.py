"""``slimsched bench``: open-loop load at a gateway, a Triton or a router, and what came of it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from functools import wraps
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from orchestrator.cli.options import FILE, PATH, SHIPPED_PATH, FiniteRange, refuse_given
from orchestrator.cli.research.output import wide_console
from orchestrator.loadgen.clients import GRPC, HTTP, ROUTER
from orchestrator.loadgen.comparison import Result, compare, set_up_scores
from orchestrator.loadgen.judge import TOP_1
from orchestrator.loadgen.plan import KINDS, Load, arrivals_of_families_s, check_load
from orchestrator.loadgen.records import Summary
from orchestrator.loadgen.run import Measured, Part, measure, measure_parts
from orchestrator.loadgen.sample import Sample
from orchestrator.loadgen.sample_files import read_sample
from orchestrator.loadgen.target import (
    FamilyShare,
    SetUp,
    Target,
    check_names,
    decided_by,
    find_target,
    only_place,
    parse_families,
    parse_set_up,
)
from orchestrator.reporting.blocks import say_figure
from orchestrator.reporting.outputs import check_file, check_not_read, write_file

_COLUMNS = (
    ("right in time", "right_in_time", 1.0, ".1%"),
    ("in time", "in_time", 1.0, ".1%"),
    ("late", "late", 1.0, ".1%"),
    ("refused", "refused", 1.0, ".1%"),
    ("accuracy", "accuracy", 1.0, ".1%"),
    ("p50 ms", "p50_s", 1e3, ".1f"),
    ("p99 ms", "p99_s", 1e3, ".1f"),
)
_MEANS = tuple(column for column in _COLUMNS if column[1] not in ("right_in_time", "p50_s"))


@dataclass(frozen=True, slots=True)
class _Options:
    """What both commands take, as ``_load_options`` declares it."""

    sample_path: Path
    metric: str | None
    output: str | None
    resize: bool
    workload: str
    deadline_ms: float
    seconds: float
    warm_up_s: float
    seed: int
    senders: int
    out: Path | None
    as_json: bool

    def load(self, rate_rps: float) -> Load:
        """Return the load of a rate; raises ConfigError when it can't be sent."""
        deadline_s = self.deadline_ms / 1e3
        return check_load(
            Load(self.workload, rate_rps, self.seconds, deadline_s, warm_up_s=self.warm_up_s, seed=self.seed)
        )

    def check_out(self, *others: Path | None) -> None:
        """Raise ConfigError if the figures can't be saved, or would replace what is sent or one of these files."""
        kind, _, recorded = self.workload.partition(":")
        check_not_read(self.out, [self.sample_path, Path(recorded) if kind == "replay" else None, *others])
        check_file(self.out)

    def sample(self, target: Target, path: Path | None = None) -> Sample:
        """Return what is sent to a target, from a file of its own or that of all; raises ConfigError as read_sample."""
        return read_sample(path or self.sample_path, target, metric=self.metric, output=self.output, resize=self.resize)


def _load_options(function: Callable[..., None]) -> Callable[..., None]:
    """Add the options that both commands take, which come to the function as one value, ``options``."""

    @wraps(function)
    def command(**values: Any) -> None:
        own = {field.name: values.pop(field.name) for field in fields(_Options)}
        function(options=_Options(**own), **values)

    for option in (
        click.option("--json", "as_json", is_flag=True, help="Print the figures as JSON."),
        click.option("--out", type=FILE, help="Save every figure as JSON."),
        click.option("--senders", type=click.IntRange(1, 64), default=1, help="Processes that send."),
        click.option(
            "--seed", type=click.IntRange(0, 2**31 - 1), default=0, help="Of arrivals and the order of items."
        ),
        click.option("--warm-up-s", type=FiniteRange(min=0), default=1.0, help="First part that isn't counted."),
        click.option("--seconds", type=FiniteRange(min=0, min_open=True), default=10.0, help="How long to send."),
        click.option("--deadline-ms", type=FiniteRange(min=1), default=100.0, help="From when a request is due."),
        click.option(
            "--workload",
            default="poisson",
            help=f"Shape of the arrivals: {', '.join(KINDS)}, or NAME:NUMBER of another package.",
        ),
        click.option(
            "--sample",
            "sample_path",
            type=SHIPPED_PATH,
            default=Path("examples/fashion-mnist/test_1000.npz"),
            help="What to send: .npz with an array for each input and labels, or with images uint8 [n, c, h, w]; a "
            "folder of <class>/<image>; or a .txt list of images.",
        ),
        click.option(
            "--metric",
            help="How answers are judged by labels, as in 'slimsched import'; without it as the model's config says, "
            "else by top-1.",
        ),
        click.option("--output", help="The output that the metric is about."),
        click.option(
            "--resize", is_flag=True, help="Scale images to the input's size, where the family says nothing of it."
        ),
    ):
        option(command)
    return command


@click.group(invoke_without_command=True)
@click.option("--grpc", "grpc_address", help="HOST:PORT of a gateway's or a Triton's gRPC; with + between several.")
@click.option("--http", "http_address", help="HOST:PORT of a gateway's or a Triton's HTTP; with + between several.")
@click.option("--fleet", type=PATH, help="A fleet file: a router in the sender's own process.")
@click.option("--policy", help="With --fleet: what decides, in place of the file's; also one of another package.")
@click.option("--model", default="fashion", help="Family or model to ask for.")
@click.option(
    "--family",
    "families",
    multiple=True,
    help="NAME[:SHARE][=SAMPLE] in place of --model: its part of the requests, relative to the others', and what is "
    "sent to it. Several times for several at once.",
)
@click.option(
    "--drift",
    type=FiniteRange(0, 1000),
    default=0.0,
    help="How far the popularity of families swings around their shares; above 1 each has times without requests.",
)
@click.option("--drift-periods", type=FiniteRange(min=0, min_open=True), default=1.0, help="How often it goes round.")
@click.option("--rate", type=FiniteRange(min=0, min_open=True), default=100.0, help="Requests a second.")
@_load_options
@click.pass_context
def bench(
    context: click.Context,
    grpc_address: str | None,
    http_address: str | None,
    fleet: Path | None,
    policy: str | None,
    model: str,
    families: tuple[str, ...],
    drift: float,
    drift_periods: float,
    rate: float,
    options: _Options,
) -> None:
    """Send labelled items open loop, and show what was right and in time.

    Requests are sent when they are due, whether or not earlier ones were answered, and latency counts from then.
    Ctrl-C ends the sending; the figures are then of what was sent.

    \b
    Example:
      slimsched up &
      slimsched bench --grpc 127.0.0.1:8081 --rate 500 --deadline-ms 100
      slimsched bench --grpc 127.0.0.1:8081 --workload burst:1000
      slimsched bench --fleet fleet.yaml --policy lert:slack
      slimsched bench --grpc 127.0.0.1:8081 --family cats=cats.npz --family dogs:2=dogs.npz --drift 2
    """
    if context.invoked_subcommand is not None:
        refuse_given(context, context.params, f"'{context.invoked_subcommand}' after it")
        return
    refuse_given(context, ["model"] if families else [], "--family")
    refuse_given(context, ["drift", "drift_periods"] if len(families) < 2 else [], "fewer than two --family")
    kind, place = only_place({GRPC: grpc_address, HTTP: http_address, ROUTER: fleet})
    load = decided_by(policy, options.load(rate), kind)
    console = Console(stderr=True)

    asked = parse_families(families) or [FamilyShare(model)]
    options.check_out(fleet, *(family.sample for family in asked))
    shares = [family.share for family in asked]

    async def run() -> tuple[list[Measured], list[Sample]]:
        targets = [await find_target(kind, place, family.name) for family in asked]
        samples = [options.sample(target, family.sample) for target, family in zip(targets, asked, strict=True)]
        dues_s = arrivals_of_families_s(load, shares, drift_amplitude=drift, drift_periods=drift_periods)
        parts = [Part(*part) for part in zip(targets, samples, dues_s, strict=True)]
        with _progress(console, f"{rate:g}/s {options.workload}", options.seconds) as progress:
            return await measure_parts(parts, load, senders=options.senders, progress=progress), samples

    found, samples = asyncio.run(run())
    _say_state(console, found, samples)
    saved: dict[str, Any] = {"load": asdict(load)}
    if families:
        by_name = dict(zip([family.name for family in asked], found, strict=True))
        _show_families(by_name, as_json=options.as_json)
        told = [{"family": name, **asdict(measured)} for name, measured in by_name.items()]
        _save(options.out, {**saved, "drift": [drift, drift_periods], "families": told})
        return
    _show(found[0].summary, found[0].senders_cores, as_json=options.as_json)
    _save(options.out, {**saved, "metric": samples[0].metric, **asdict(found[0])})


@bench.command("compare")
@click.option(
    "--set-up",
    "named",
    multiple=True,
    required=True,
    help="NAME=KIND:PLACE[:MODEL][,PARAMETER=VALUE…]; kinds are grpc, http and router, the last one also with "
    ",policy=POLICY at the end. Several times for several.",
)
@click.option("--rate", "rates", type=FiniteRange(min=0, min_open=True), multiple=True, required=True)
@click.option("--rounds", type=click.IntRange(1), default=3)
@_load_options
def compare_command(named: tuple[str, ...], rates: tuple[float, ...], rounds: int, options: _Options) -> None:
    """Give several set-ups the same loads in turn, in several rounds; means come with 95 % intervals.

    \b
    Example:
      slimsched bench compare --rate 500 --rate 2000 \\
        --set-up default=grpc:127.0.0.1:8081:fashion \\
        --set-up narrowest=grpc:127.0.0.1:8081:fashion,slim_width=25
    """
    loads = [options.load(rate) for rate in rates]
    check_names(named)
    options.check_out()
    console = Console(stderr=True)
    samples: dict[str, Sample] = {}
    results: list[Result] = []

    async def measure_one(set_up: SetUp, load: Load) -> Measured:
        with _progress(console, f"{set_up.name} {load.rate_rps:g}/s", load.seconds) as progress:
            sample = samples[set_up.name]
            return await measure(set_up.target, load, sample, senders=options.senders, progress=progress)

    async def run() -> None:
        set_ups = [await parse_set_up(text) for text in named]
        samples.update({set_up.name: options.sample(set_up.target) for set_up in set_ups})
        await compare(set_ups, loads, rounds, measure_one, results.append)

    try:
        asyncio.run(run())
    except KeyboardInterrupt:
        console.print("interrupted; these are the figures so far")
    finally:  # what was measured before a failure counts too
        _end_comparison(console, results, samples.values(), options)


def _end_comparison(console: Console, results: Sequence[Result], samples: Iterable[Sample], options: _Options) -> None:
    """Show and save what was measured, if anything was."""
    if results:
        _say_metrics(console, samples)
        _show_results(results, as_json=options.as_json)
        _save(options.out, [asdict(result) for result in results])


@contextmanager
def _progress(console: Console, what: str, seconds: float) -> Iterator[Callable[[float], None]]:
    with Progress(
        TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), console=console, transient=True
    ) as bar:
        task = bar.add_task(what, total=seconds)
        yield lambda passed_s: bar.update(task, completed=passed_s)


def _say_state(console: Console, found: Iterable[Measured], samples: Iterable[Sample]) -> None:
    """Say whether it was interrupted, and what accuracy is."""
    if any(measured.is_cut for measured in found):
        console.print("interrupted; these are the figures of what was sent")
    _say_metrics(console, samples)


def _say_metrics(console: Console, samples: Iterable[Sample]) -> None:
    """Say once of each metric what accuracy is."""
    for metric in {sample.metric for sample in samples}:
        _say_metric(console, metric)


def _say_metric(console: Console, metric: str | None) -> None:
    """Say what accuracy is where it is not top-1."""
    if metric is None:
        console.print("no accuracy: nothing says what is right; give a sample with labels, and --metric", markup=False)
    elif metric != TOP_1:
        console.print(f"accuracy is {metric}, of each answer alone, on average", markup=False)


def _say_policies(console: Console, decided: Iterable[tuple[str, Mapping[str, float]]]) -> None:
    """Say who decided: where it is not the policy that was asked for, its guard has put another in its place."""
    for where, policies in decided:
        parts = ", ".join(f"{name} {part:.1%}" for name, part in sorted(policies.items(), key=lambda one: -one[1]))
        if parts:
            console.print(f"{where}decided by {parts}", highlight=False, markup=False)


def _show(summary: Summary, senders_cores: float, *, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps({**asdict(summary), "senders_cores": senders_cores}))
        return
    table = Table("requests", *(heading for heading, *_ in _COLUMNS), "widths")
    widths = ", ".join(f"{width} %: {part:.0%}" for width, part in summary.widths.items() if width)
    table.add_row(
        f"{summary.requests:,}",
        *(say_figure(getattr(summary, name), form, scale) for _, name, scale, form in _COLUMNS),
        widths or "-",
    )
    console = wide_console()
    console.print(table)
    _say_policies(console, [("", summary.policies)])
    for status, count in summary.statuses.items():
        if status != "OK":
            console.print(f"{status}: {count:,}", highlight=False)
    console.print(
        f"senders took {senders_cores:.2f} cores; 99 % of requests left within {summary.sender_late_s * 1e3:.1f} ms of "
        "when they were due",
        highlight=False,
    )


def _show_families(found: Mapping[str, Measured], *, as_json: bool) -> None:
    if as_json:
        click.echo(
            json.dumps({name: {**asdict(m.summary), "senders_cores": m.senders_cores} for name, m in found.items()})
        )
        return
    table = Table("family", "requests", *(heading for heading, *_ in _COLUMNS))
    for name, measured in found.items():
        summary = measured.summary
        cells = [say_figure(getattr(summary, column), form, scale) for _, column, scale, form in _COLUMNS]
        table.add_row(name, f"{summary.requests:,}", *cells)
    wide_console().print(table)


def _show_results(results: Sequence[Result], *, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps([asdict(result) for result in results]))
        return
    table = Table("rate", "set-up", "rounds", "right in time", "95 %", *(heading for heading, *_ in _MEANS))
    scores = set_up_scores(results, [name for _, name, *_ in _MEANS])
    for score in scores:
        right = score.right_in_time
        interval = f"{right.least:.1%} to {right.most:.1%}" if right is not None and score.rounds > 1 else "-"
        cells = [say_figure(score.means[name], form, scale) for _, name, scale, form in _MEANS]
        names = (f"{score.rate_rps:g}/s", score.set_up, str(score.rounds))
        table.add_row(*names, say_figure(None if right is None else right.value, ".1%"), interval, *cells)
    console = wide_console()
    console.print(table)
    _say_policies(console, ((f"{score.set_up} at {score.rate_rps:g}/s ", score.policies) for score in scores))
    console.print(f"senders took {max(r.senders_cores for r in results):.2f} cores at the most", highlight=False)


def _save(out: Path | None, content: Any) -> None:
    if out is not None:
        write_file(out, json.dumps(content, indent=1) + "\n")
