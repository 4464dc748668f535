"""``slimsched refit``: the policy in force fitted again to what its router has recorded, for a nightly job."""

from __future__ import annotations

import asyncio
from functools import partial
from pathlib import Path

import click

from orchestrator.cli.options import FILE, FiniteRange, fleet_option, seed_option
from orchestrator.cli.research.train_router import fit_and_write, learning_installed
from orchestrator.config import load_fleet
from orchestrator.errors import ConfigError
from orchestrator.profiling.profiler import check_weights


@click.command()
@fleet_option
@click.option("--out", type=FILE, help="The policy file.  [default: router.policy_file]")
@click.option("--minutes", type=FiniteRange(0), default=2.0, show_default=True, help="For each learner.")
@seed_option
@click.option("--threads", type=click.IntRange(1), default=2, show_default=True, help="Cores to use.")
@click.option("--family", help="Of whose requests; needed where the log has several.")
@click.option(
    "--resume", is_flag=True, help="Go on where the last one was interrupted, if the log has not grown since."
)
def refit(
    fleet_path: Path, out: Path | None, minutes: float, seed: int, threads: int, family: str | None, resume: bool
) -> None:
    """Fit a policy to the traffic of a router's decision log, and replace its policy file where that is better.

    Fleet, deadline and the policy in force are those of fleet.yaml, which needs router.profile and router.decision_log
    with sample_ratio 1. A profile that is older than the weights that the servers serve is refused. A router that runs
    rolls the new file out by itself.

    \b
    Example:
      slimsched refit --fleet fleet.yaml
    """
    with learning_installed():
        from orchestrator.learning import fitting, tasks
    fleet = load_fleet(fleet_path)
    out = out or fleet.router.policy_file
    if out is None:
        raise ConfigError(f"{fleet_path} has no router.policy_file; set it, or say with --out where to write")
    if fleet.router.profile is not None and (silent := asyncio.run(check_weights(fleet, fleet.router.profile))):
        click.echo(f"{', '.join(silent)}: no answer, so the profile was not held against what it serves", err=True)
    say = partial(click.echo, err=True)
    traffic = tasks.logged_traffic(fleet, source=str(fleet_path), family=family, say=say)
    present = tasks.present_spec(fleet.router)
    settings = fitting.FitSettings(present, seconds=60 * minutes, seed=seed, threads=threads)
    inputs = [fleet_path, fleet.router.profile]
    fit_and_write(traffic, settings, out.with_name(out.name + ".run"), out, inputs, resume=resume, restart=True)
