"""``slimsched top``: a gateway's status page in the terminal."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

import click

from orchestrator.cli.options import PATH, token_option
from orchestrator.config import load_fleet
from orchestrator.errors import ConfigError
from orchestrator.installed.extras import install_hint
from orchestrator.top.events import watch


@click.command()
@click.option("--config", "--fleet", "fleet_path", type=PATH, help="Whose gateway: fleet.yaml, its `gateway.metrics`.")
@click.option("--address", metavar="HOST:PORT", help="Of the gateway's metrics, in place of the file's.")
@click.option("--find", default="", help="Only families with that in their name.")
@token_option
def top(fleet_path: Path | None, address: str | None, find: str, token: str | None) -> None:
    """Show what a gateway and its fleet do now: the status page in a terminal.

    Keys 1 to 7 change the table, s sorts by the next column and r the other way round, arrows move, q ends. Columns can
    be clicked too. Below the table is all that there is to say about its row. Needs the extra `top`.

    \b
    Example:
      slimsched top --fleet fleet.yaml
      slimsched top --address gateway-1:8082
    """
    found = address or (None if fleet_path is None else load_fleet(fleet_path).gateway.metrics)
    if found is None:
        raise ConfigError("no address of a gateway's metrics; give --address, or --fleet with gateway.metrics")
    if not (sys.stdin.isatty() and sys.stderr.isatty()):  # where it reads and draws
        raise ConfigError("'slimsched top' needs a terminal; elsewhere 'slimsched status' tells the same once")
    try:
        from orchestrator.top.app import Top
    except ModuleNotFoundError as exc:
        raise ConfigError(f"'slimsched top' needs {exc.name}: {install_hint('top')}") from exc
    Top(partial(watch, found, find, token)).run()
