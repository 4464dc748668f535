"""``slimsched demo``: what the whole thing does, in a table, a picture and a page."""

from __future__ import annotations

import asyncio
from pathlib import Path

import click
from rich.console import Console

from orchestrator.cli.options import PATH
from orchestrator.demo.comparison import POLICIES, DemoSettings, run_demo
from orchestrator.demo.report import check_report, comparison_tables, write_demo
from orchestrator.loadgen.sample import load_sample
from orchestrator.policies.parsing import parse_policy


@click.command()
@click.option("--repository", type=PATH, default=Path("model_repository"), help="Served by both servers.")
@click.option(
    "--sample",
    "sample_path",
    type=PATH,
    default=Path("examples/fashion-mnist/test_1000.npz"),
    help="Labelled images to send.",
)
@click.option("--policy", "policies", multiple=True, help="Compare these instead; may be given several times.")
@click.option("--load", "load_ratio", type=click.FloatRange(0.05, 10), default=1.2)
@click.option("--deadline-ms", type=click.FloatRange(min=1), default=100.0)
@click.option("--seed", type=int, default=0, help="Of arrivals and random choices.")
@click.option("--out", type=PATH, default=Path("reports"))
def demo(
    repository: Path,
    sample_path: Path,
    policies: tuple[str, ...],
    load_ratio: float,
    deadline_ms: float,
    seed: int,
    out: Path,
) -> None:
    """Send labelled images over two unlike Tritons under several policies and compare them.

    Two real tritonservers are started on this machine; that one is slower is emulated and labelled so. --load is the
    rate of requests over what the fleet can answer at full width.

    \b
    Example:
      slimsched demo --load 0.8 --policy lert --policy lert:slack
    """
    for policy in policies:
        parse_policy(policy)
    check_report(out)
    console = Console()
    sample = load_sample(sample_path)
    settings = DemoSettings(
        repository=repository,
        policies=policies or POLICIES,
        load_ratio=load_ratio,
        deadline_s=deadline_ms / 1e3,
        seed=seed,
    )
    comparison = asyncio.run(run_demo(settings, sample, say=lambda text: console.print(f"[dim]{text}[/dim]")))
    for table in comparison_tables(comparison):
        console.print(table)
    for line in comparison.setting:
        console.print(f"- {line}", soft_wrap=True)
    picture, page = write_demo(comparison, out, stem="demo")
    console.print(f"picture: {picture}\npage:    {page}")
