"""The option that names the fleet file, the same for every command that takes one."""

from __future__ import annotations

from pathlib import Path

import click

fleet_option = click.option(
    "--config",
    "--fleet",
    "fleet_path",
    type=click.Path(path_type=Path),
    required=True,
    help="Which servers there are: fleet.yaml.",
)
