"""``slimsched profile``: what every batch on every server costs, measured and written to profile.json."""

from __future__ import annotations

import asyncio
from pathlib import Path

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from orchestrator.cli.options import FILE, PATH, FiniteRange, fleet_option
from orchestrator.cli.research.output import told_how_to_go_on
from orchestrator.config import FleetSettings, load_fleet
from orchestrator.controller.status.client import has_controller
from orchestrator.errors import ConfigError
from orchestrator.profile.document import Profile, read_profile, write_profile
from orchestrator.profiling.campaign import Progress as CampaignProgress
from orchestrator.profiling.profiler import ProfileRequest, check_profile, take_profile
from orchestrator.profiling.sampling import Sampling, choose_sampling
from orchestrator.profiling.view import check_picture, draw_picture, render_profile_table
from orchestrator.reporting.outputs import check_file, check_not_read, write_file

DEFAULTS = Sampling()


@click.command()
@fleet_option
@click.option("--server", "server_names", multiple=True, help="Only this one; may be given several times.")
@click.option("--out", type=FILE, default=Path("profile.json"), help="Where to write.")
@click.option("--plot", "plot_path", type=PATH, help="Draw the curves into this .png too.")
@click.option("--control", is_flag=True, help="Measure loads, reloads and memory too; changes the servers meanwhile.")
@click.option("--force", is_flag=True, help="With --control: even where a controller runs.")
@click.option("--restart", is_flag=True, help="Forget what an interrupted run has measured.")
@click.option("--check", "is_check", is_flag=True, help="Measure nothing: is --out about the servers as they are?")
@click.option("--show", "is_show", is_flag=True, help="Measure nothing and ask nobody: show --out.")
@click.option(
    "--requests",
    "min_requests",
    type=click.IntRange(min=2),
    default=DEFAULTS.min_requests,
    help="Of each batch size at least; below 100 a p99 is the largest seen.",
)
@click.option(
    "--precision",
    "precision_ratio",
    type=FiniteRange(0, 1, min_open=True),
    default=DEFAULTS.precision_ratio,
    help="Half the 95 % interval of a mean over the mean, at which a batch size has enough.",
)
@click.option(
    "--cycles",
    type=click.IntRange(min=1),
    default=DEFAULTS.cycles,
    help="With --control: how often each model is loaded, scaled, reloaded and unloaded.",
)
@click.option(
    "--under-load",
    is_flag=True,
    help="Also what a batch takes of a busy server and of a rested one; a simulation is nearer to the truth with it.",
)
@click.option("--seed", type=int, default=DEFAULTS.seed, help="Of the order of measurements.")
def profile(
    fleet_path: Path,
    server_names: tuple[str, ...],
    out: Path,
    plot_path: Path | None,
    control: bool,
    force: bool,
    restart: bool,
    is_check: bool,
    is_show: bool,
    min_requests: int,
    precision_ratio: float,
    cycles: int,
    under_load: bool,
    seed: int,
) -> None:
    """Measure every width and batch size on every server, and write profile.json.

    Sends blank batches straight to the servers, one at a time, in rounds whose order is random; nothing else
    should use them meanwhile. What was measured is kept in OUT.partial until the profile is complete, and the same
    command goes on from there after an interruption.

    Energy is read from counters on this host; where there is none it is estimated from a server's `power` in the
    fleet file, or unknown with the reason.

    \b
    Example:
      slimsched profile --fleet fleet.yaml --out profile.json --plot profile.png
      slimsched profile --fleet fleet.yaml --out profile.json --check
    """
    _check_options(is_check=is_check, is_show=is_show, control=control, force=force, plot_path=plot_path)
    fleet = _choose(load_fleet(fleet_path), server_names)
    console = Console()
    if is_show:
        taken = read_profile(out)
    elif is_check:
        taken = asyncio.run(check_profile(fleet, out))
        console.print(f"{out} is about these servers as they are", soft_wrap=True)
    else:
        check_not_read(out, [fleet_path])
        check_file(plot_path, "the picture ")
        partial = _begin(console, out, restart=restart)
        sampling = choose_sampling(min_requests, precision_ratio, cycles=cycles, seed=seed, under_load=under_load)
        earlier = read_profile(out) if server_names and out.exists() else None
        request = ProfileRequest(
            fleet, partial, sampling, control=control, force=force, restart=restart, earlier=earlier
        )
        taken = _take(console, request)
        write_profile(taken, out)
        partial.unlink(missing_ok=True)
        console.print(f"profile: {out}", soft_wrap=True)
    console.print(render_profile_table(taken))
    if plot_path is not None:
        write_file(plot_path, draw_picture(taken), "the picture ")
        console.print(f"picture: {plot_path}", soft_wrap=True)


def _check_options(*, is_check: bool, is_show: bool, control: bool, force: bool, plot_path: Path | None) -> None:
    if is_check and is_show:
        raise click.UsageError("--check asks the servers and --show asks nobody; give one of them")
    if force and not control:
        raise click.UsageError("--force goes with --control")
    if plot_path is not None:
        check_picture(plot_path)


def _choose(fleet: FleetSettings, names: tuple[str, ...]) -> FleetSettings:
    chosen = tuple(map(fleet.server, dict.fromkeys(names)))
    return fleet.model_copy(update={"servers": chosen}) if names else fleet


def _begin(console: Console, out: Path, *, restart: bool) -> Path:
    """Return where what is measured is kept, after saying what happens to what was."""
    partial = out.with_name(f"{out.name}.partial")
    check_file(out)
    if not out.parent.is_dir():
        raise ConfigError(f"--out {out}: there is no folder {out.parent}; make it or name another")
    if partial.exists() and not restart:
        console.print(f"going on from {partial}", soft_wrap=True)
    return partial


def _take(console: Console, request: ProfileRequest) -> Profile:
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("starting", total=None)

        def report(now: CampaignProgress) -> None:
            what = f"round {now.round_number}: {now.now}" if now.round_number else now.now
            bar.update(task, total=now.cells, completed=now.settled, description=what)

        with told_how_to_go_on(request.partial, is_kept=request.partial.exists):
            return asyncio.run(take_profile(request, report=report, has_controller=has_controller))
