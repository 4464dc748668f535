"""``slimsched why``: one decision of the router, as it was written to its decision log."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from orchestrator.cli.options import fleet_option
from orchestrator.config import load_fleet
from orchestrator.errors import ConfigError
from orchestrator.router.dispatch.decision_log import find_decision
from orchestrator.router.dispatch.explanation import describe_decision, describe_outcome


@click.command()
@click.argument("decision_id", metavar="ID")
@fleet_option
@click.option("--json", "as_json", is_flag=True, help="Print the line as it was written.")
def why(decision_id: str, fleet_path: Path, as_json: bool) -> None:
    """Tell why a request ran where it ran; ID is its answer's slim_decision_id.

    Reads what the router wrote; `router.decision_log` in the fleet file turns that on and says how many are sampled.

    \b
    Example:
      slimsched why a93a3a-17 --fleet fleet.yaml
    """
    settings = load_fleet(fleet_path).router.decision_log
    if settings is None:
        raise ConfigError(f"no decisions are written: {fleet_path} has no router.decision_log; give it a directory")
    record = find_decision(settings.directory, decision_id)
    if as_json:
        click.echo(json.dumps(record))
        return
    console = Console()
    for part in _render(record):
        console.print(part)


def _render(record: dict[str, Any]) -> list[Text | Table]:
    choice = record["choice"]
    table = Table(
        "server", "width", "items", "ms wait", "ms to answer", "times", "ms to drain", "J", "room", "in time", box=None
    )
    for c in record["candidates"]:
        is_chosen = choice is not None and (c["server"], c["width"]) == (choice["server"], choice["width"])
        joules = "" if c["energy_j"] is None else f"{c['energy_j']:.3g}"
        table.add_row(
            *(f"{'→ ' if is_chosen else '  '}{c['server']}", f"{c['width']} %", str(c["items"])),
            *(f"{c[name] * 1e3:.1f}" for name in ("wait_s", "completion_s")),
            f"{c.get('margin') or record['slack_margin']:.2f}",
            f"{c['drain_s'] * 1e3:.1f}",
            *(joules, "yes" if c["has_room"] else "no", "yes" if c["in_time"] else "no"),
            style="bold" if is_chosen else None,
        )
    return [Text("\n".join(describe_decision(record))), table, Text(describe_outcome(record["outcome"]))]
