"""``slimsched report``: a decision log as the report of the real traffic."""

from __future__ import annotations

from pathlib import Path

import click

from orchestrator.cli.options import FOLDER, fleet_option
from orchestrator.cli.research.output import wide_console
from orchestrator.config import load_fleet
from orchestrator.errors import ConfigError
from orchestrator.reporting.outputs import check_folder, write_report
from orchestrator.router.dispatch.decision_log import read_all
from orchestrator.traffic.page import decided_mostly, render_report
from orchestrator.traffic.recorded import read_traffic
from orchestrator.traffic.replay import replay_if_possible

_BASELINES = ("jsq", "lert", "lert:slack", "slackfit")
_REMEDY = "give another --out"


@click.command()
@fleet_option
@click.option("--family", help="Whose requests; default: the family that has most.")
@click.option("--policy", "policies", multiple=True, help="To replay beside the one that decided; several times.")
@click.option("--out", type=FOLDER, default=Path("reports"), help="Folder for traffic.md, .html and .json.")
def report(fleet_path: Path, family: str | None, policies: tuple[str, ...], out: Path) -> None:
    """Report what came of real traffic, and what other policies would have made of it.

    Reads what `router.decision_log` of the fleet file has written. With `router.profile` the recorded requests are
    replayed in the simulator, also by the policy that really decided, which shows how far the simulator is off.

    \b
    Example:
      slimsched report --fleet fleet.yaml --policy jsq --policy lert:slack --out reports
    """
    fleet = load_fleet(fleet_path)
    log = fleet.router.decision_log
    if log is None:
        raise ConfigError(f"no decisions are written: {fleet_path} has no router.decision_log; give it a directory")
    check_folder(out, _REMEDY)
    traffic = read_traffic(read_all(log.directory), family)
    chosen = (decided_mostly(traffic), *(policies or _BASELINES))
    replayed, no_replay = replay_if_possible(traffic, chosen, fleet, sample_ratio=log.sample_ratio)
    files = render_report(traffic, log.sample_ratio, replayed, no_replay)
    paths = write_report(out, files, _REMEDY)
    wide_console().print(files["traffic.md"], markup=False, highlight=False, soft_wrap=True)
    for path in paths:
        click.echo(str(path), err=True)
