"""What the options of several commands share."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click

from orchestrator.cli.logs import FORMATS
from orchestrator.shipped import find_shipped


class ShippedPath(click.Path):
    """A path that may name what ships; see ``orchestrator.shipped``."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the path, or that of what ships."""
        return super().convert(find_shipped(Path(value)), param, ctx)


class FiniteRange(click.FloatRange):
    """A number within bounds that is neither NaN nor infinite."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the number."""
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value} is not a finite number.", param, ctx)
        return number


PATH = click.Path(path_type=Path)
SHIPPED_PATH = ShippedPath(path_type=Path)
SHIPPED_FILE = ShippedPath(path_type=Path, dir_okay=False)
SHIPPED_FOLDER = ShippedPath(path_type=Path, file_okay=False)
FILE = click.Path(path_type=Path, dir_okay=False)
FOLDER = click.Path(path_type=Path, file_okay=False)
LOG_LEVEL = click.Choice(["debug", "info", "warning", "error"])

fleet_option = click.option(
    "--config", "--fleet", "fleet_path", type=PATH, required=True, help="Which servers there are: fleet.yaml."
)
log_format_option = click.option(
    "--log-format", type=click.Choice(FORMATS), default="text", help="Of the lines on stderr."
)
token_option = click.option(
    "--token",
    envvar="SLIMSCHED_TOKEN",
    show_envvar=True,
    help="Of a tenant that may see the gateway's status page, where that asks for one.",
)
dask_option = click.option("--dask", help="A Dask scheduler whose workers run it, such as tcp://10.0.0.1:8786.")
processes_option = click.option("--processes", default=1, type=click.IntRange(1), help="Side by side.")
seed_option = click.option("--seed", type=click.IntRange(0, 2**31 - 1), default=0, help="Of everything.")
until_stdin_ends_option = click.option("--until-stdin-ends", is_flag=True, hidden=True)
"""For a command that another starts; see ``signals.watch_stdin``."""


def refuse_given(context: click.Context, names: Iterable[str], what: str) -> None:
    """Raise UsageError for the first option of these parameters that the user gave: with ``what`` none counts."""
    for name in names:
        if context.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE:
            option = next(each.opts[0] for each in context.command.params if each.name == name)
            raise click.UsageError(f"{option} counts for nothing with {what}; leave it out")
