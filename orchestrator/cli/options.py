"""What the options of several commands share."""

from __future__ import annotations

from pathlib import Path

import click

from orchestrator.cli.logs import FORMATS

PATH = click.Path(path_type=Path)
FILE = click.Path(path_type=Path, dir_okay=False)
FOLDER = click.Path(path_type=Path, file_okay=False)
LOG_LEVEL = click.Choice(["debug", "info", "warning", "error"])

fleet_option = click.option(
    "--config", "--fleet", "fleet_path", type=PATH, required=True, help="Which servers there are: fleet.yaml."
)
log_format_option = click.option(
    "--log-format", type=click.Choice(FORMATS), default="text", help="Of the lines on stderr."
)
until_stdin_ends_option = click.option("--until-stdin-ends", is_flag=True, hidden=True)
"""For a command that another starts; see ``signals.watch_stdin``."""
