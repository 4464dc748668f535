"""``slimsched config``: what is wrong with a fleet file, what is in force by it, and its schema for editors."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path

import click

from orchestrator.cli.options import fleet_option
from orchestrator.config import FleetSettings
from orchestrator.config.effective import effective_settings
from orchestrator.config.fleet import read_fleet
from orchestrator.config.schema import SHIPPED, settings_schema
from orchestrator.config.tenants import TenantsSettings
from orchestrator.errors import SettingsError


@click.group()
def config() -> None:
    """Check a fleet file, show the settings in force, or print the schema for editors.

    \b
    Example:
      slimsched config check --fleet fleet.yaml
      slimsched config show --fleet fleet.yaml
    """


@config.command()
@fleet_option
def check(fleet_path: Path) -> None:
    """Print all that is wrong with a fleet file and its policies, a line each; exit with 1 if anything is.

    A note, which is nothing wrong, tells of a described family's variant that is no better than a narrower one, and of
    a server's telemetry that no package on this machine brings: its controller's host may have it.
    Variables of the environment count as they do for the gateway. Files that it names are not opened, but for that of a
    learned policy, and no server is asked.

    \b
    Example:
      slimsched config check --fleet fleet.yaml
    """
    from orchestrator.router.dispatch.deciders import policy_checks  # takes a second to import
    from orchestrator.telemetry.host import PLUGINS

    try:
        fleet, _ = read_fleet(fleet_path, os.environ, policy_checks())
    except SettingsError as exc:
        _say(fleet_path, exc.problems)
        raise click.exceptions.Exit(1) from exc
    _say(fleet_path, [f"note: {warning}" for family in fleet.families for warning in family.warnings])
    unknown = [
        (server.name, server.telemetry) for server in fleet.servers if server.telemetry not in (None, *PLUGINS.names())
    ]
    _say(fleet_path, [f"note: telemetry {what!r} of server {name} is of no package here" for name, what in unknown])
    _say(fleet_path, ["nothing is wrong"])


def _say(fleet_path: Path, found: Iterable[str]) -> None:
    for each in found:
        click.echo(f"{fleet_path}: {each}")


@config.command()
@fleet_option
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list instead of lines.")
def show(fleet_path: Path, as_json: bool) -> None:
    """Print every setting in force, and where it comes from: a line of the file, the environment or the default.

    Passwords in URLs are hidden.

    \b
    Example:
      slimsched config show --fleet fleet.yaml
      slimsched config show --fleet fleet.yaml | grep -v '# default'
    """
    settings = list(effective_settings(*read_fleet(fleet_path, os.environ)))
    if as_json:
        click.echo(json.dumps([setting._asdict() for setting in settings], indent=2))
        return
    for key, value, origin in settings:
        click.echo(f"{f'{key}: {json.dumps(value)}':<60}  # {origin}")


@config.command()
@click.option("--tokens", is_flag=True, help="Of the tokens file instead of fleet.yaml.")
@click.option("--path", is_flag=True, help="Print where that of fleet.yaml lies on this machine.")
def schema(tokens: bool, path: bool) -> None:
    """Print the JSON schema of fleet.yaml, by which editors complete, explain and check it.

    \b
    Example:
      slimsched config schema > fleet.schema.json
      slimsched config schema --path
    """
    if tokens and path:
        raise click.UsageError("--path is of fleet.yaml's schema only; give --tokens alone")
    kind = TenantsSettings if tokens else FleetSettings
    click.echo(str(SHIPPED) if path else json.dumps(settings_schema(kind), indent=2))
