"""``slimsched demo``: what the whole thing does, in a headline, tables, a picture and a page."""

from __future__ import annotations

import asyncio
from functools import partial
from pathlib import Path

import click
from rich.console import Console

from orchestrator.cli.options import PATH, SHIPPED_PATH, FiniteRange
from orchestrator.demo.baselines import BASELINES, check_baselines
from orchestrator.demo.comparison import DemoSettings, run_demo
from orchestrator.demo.report import check_report, comparison_tables, describe_run, write_demo
from orchestrator.demo.results import Comparison, scores, tell_outcome
from orchestrator.embedded.server import check_repository
from orchestrator.embedded.wheel import check_installation
from orchestrator.loadgen.sample import load_sample


@click.command()
@click.option("--repository", type=SHIPPED_PATH, default=Path("model_repository"), help="Served by both servers.")
@click.option(
    "--sample",
    "sample_path",
    type=SHIPPED_PATH,
    default=Path("examples/fashion-mnist/test_1000.npz"),
    help="Labelled images to send.",
)
@click.option(
    "--policy",
    "baselines",
    multiple=True,
    help=f"Compare these instead; may be given several times: a policy, or one of {', '.join(BASELINES)}.",
)
@click.option(
    "--load",
    "load_ratio",
    type=FiniteRange(0.05, 10),
    help="A constant load, over what the servers can answer at full width.  [default: from 0.5 to 2 and back]",
)
@click.option("--rounds", type=click.IntRange(1), default=2, help="How often each takes its turn.")
@click.option("--seconds", type=FiniteRange(1, 3600), default=5.0, help="How long each turn is.")
@click.option("--deadline-ms", type=FiniteRange(min=1), default=100.0, help="From when a request is due.")
@click.option(
    "--seed", type=click.IntRange(0, 2**31 - 1), default=0, help="Of arrivals, the order of images and random choices."
)
@click.option("--out", type=PATH, default=Path("reports"), help="Where picture and page go.")
def demo(
    repository: Path,
    sample_path: Path,
    baselines: tuple[str, ...],
    load_ratio: float | None,
    rounds: int,
    seconds: float,
    deadline_ms: float,
    seed: int,
    out: Path,
) -> None:
    """Let the default and its rivals answer labelled images on two unlike Tritons, and compare them.

    Two real tritonservers are started on this machine, slowed down so that they are what is scarce, and a gateway for
    each policy. The load rises to twice what the servers can answer at full width, and falls again. Ctrl-C ends it; the
    report is then of what there is.

    \b
    Example:
      slimsched demo
      slimsched demo --load 0.8 --policy default --policy thrift --rounds 5
    """
    check_installation()
    check_repository(repository, None)
    check_baselines(baselines)
    check_report(out)
    console = Console()
    sample = load_sample(sample_path)
    settings = DemoSettings(
        repository=repository,
        baselines=baselines or BASELINES,
        load_ratio=load_ratio,
        rounds=rounds,
        seconds=seconds,
        deadline_s=deadline_ms / 1e3,
        seed=seed,
    )
    found: list[Comparison] = []
    try:
        asyncio.run(
            run_demo(settings, sample, say=partial(console.print, style="dim", markup=False), note=found.append)
        )
    finally:
        for comparison in found[-1:]:
            _report(console, comparison, out)


def _report(console: Console, comparison: Comparison, out: Path) -> None:
    headline, sentence = tell_outcome(scores(comparison))
    figures, shares = comparison_tables(comparison)
    console.print(f"\n[bold]{headline}[/bold]\n{sentence}", highlight=False)
    console.print(figures)
    console.print(shares)
    for line in describe_run(comparison):
        console.print(f"- {line}", soft_wrap=True, highlight=False)
    picture, page = write_demo(comparison, out, stem="demo")
    console.print(f"picture: {picture}\npage:    {page}")
