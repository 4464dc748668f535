"""``slimsched local``: real tritonservers on this machine, in the background."""

import json
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from orchestrator.cli.options import FOLDER, PATH, SHIPPED_PATH, FiniteRange
from orchestrator.embedded.emulation import parse_cpu_sets, parse_slowdowns
from orchestrator.embedded.local_fleet import (
    FleetStatus,
    check_copy_target,
    copy_fleet_file,
    read_status,
    start_fleet,
    stop_fleet,
)
from orchestrator.embedded.local_state import command_down, default_state_directory
from orchestrator.embedded.local_supervisor import FleetRequest
from orchestrator.embedded.wheel import check_installation
from orchestrator.errors import SlimError

_ENCODED = ("name", "is_running", "grpc", "http", "metrics", "controller", "repository")

state_directory_option = click.option(
    "--state-dir",
    type=FOLDER,
    default=default_state_directory,
    show_default="$XDG_RUNTIME_DIR/slimsched, else slimsched-UID in the temporary directory",
    help="Where the fleet's state, fleet.yaml and logs lie; one fleet per directory.",
)


@click.group()
def local() -> None:
    """Run real tritonservers on this machine, without GPU or container.

    They outlive the command that starts them, until `slimsched local down`.

    \b
    Example:
      slimsched local up --servers 2 --slowdown 1,3
    """


@local.command()
@click.option("--servers", type=click.IntRange(min=1), default=2, help="How many.")
@click.option(
    "--repository",
    type=SHIPPED_PATH,
    default=Path("model_repository"),
    help="Triton model repository that all of them serve.",
)
@click.option("--slowdown", help="One emulated slow-down factor (>= 1) per server, such as 1,3.")
@click.option("--cpus", help="One CPU list per server, such as '0;1' or '0-1;2,3'.")
@click.option(
    "--timeout",
    "timeout_s",
    type=FiniteRange(min=1),
    default=60.0,
    help="Seconds to become ready, beside those in which models load.",
)
@click.option("--fleet", "fleet_copy", type=PATH, help="Write a copy of fleet.yaml here too.")
@state_directory_option
def up(
    servers: int,
    repository: Path,
    slowdown: str | None,
    cpus: str | None,
    timeout_s: float,
    fleet_copy: Path | None,
    state_dir: Path,
) -> None:
    """Start a fleet and wait until every server is ready.

    When one of them fails, all are taken down and the reason is shown. Slow-downs and CPU sets emulate unlike
    machines and are labelled so in fleet.yaml.

    \b
    Example:
      slimsched local up --servers 2 --slowdown 1,3 --cpus "0;1" --fleet fleet.yaml
      slimsched infer --fleet fleet.yaml image.png
    """
    request = FleetRequest(
        repository=repository.absolute(),
        slowdowns=parse_slowdowns(slowdown, servers) if slowdown else (1.0,) * servers,
        cpu_sets=parse_cpu_sets(cpus, servers) if cpus else (None,) * servers,
        start_timeout_s=timeout_s,
    )
    check_installation()
    if fleet_copy is not None:
        check_copy_target(fleet_copy)
    console = Console()
    with console.status(f"starting {servers} tritonserver(s)"):
        status = start_fleet(request, state_dir)
    if fleet_copy is not None:
        try:
            copy_fleet_file(status, fleet_copy)
        except SlimError:
            stop_fleet(state_dir)
            raise
    _print_status(console, status)


@local.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
@state_directory_option
def status(as_json: bool, state_dir: Path) -> None:
    """Show the fleet's servers and whether they run.

    \b
    Example:
      slimsched local status --json
    """
    found = read_status(state_dir)
    if as_json:
        click.echo(json.dumps(_encode_status(found), indent=2))
    elif found is None:
        click.echo(f"no local fleet in {state_dir}")
    else:
        _print_status(Console(), found)


@local.command()
@state_directory_option
def down(state_dir: Path) -> None:
    """Take the fleet down; does nothing when there is none.

    \b
    Example:
      slimsched local down
    """
    console = Console()
    with console.status("stopping the local fleet"):
        stopped = stop_fleet(state_dir)
    if stopped is None:
        click.echo(f"no local fleet in {state_dir}")
    elif stopped.is_running:
        click.echo(f"stopped {len(stopped.servers)} server(s)")
    else:
        click.echo(f"cleaned up after a fleet of {len(stopped.servers)} server(s) that was gone already")


def _encode_status(status: FleetStatus | None) -> dict[str, object]:
    if status is None:
        return {"is_running": False, "servers": []}
    servers = [
        {
            **{key: getattr(server, key) for key in _ENCODED},
            "pid": server.process.pid,
            "emulated_slowdown": server.slowdown if server.slowdown > 1.0 else None,
            "cpus": server.cpus,
            "log": server.log,
        }
        for server in status.servers
    ]
    return {"is_running": status.is_running, "fleet": str(status.fleet_path), "servers": servers}


def _print_status(console: Console, status: FleetStatus) -> None:
    if not status.is_running:
        clean = command_down(status.fleet_path.parent)
        click.echo(f"stale: the fleet's supervisor is gone; '{clean}' cleans up")
    if status.servers:
        console.print(_table(status))
    if status.is_running:
        click.echo(f"fleet file: {status.fleet_path}" if status.servers else "the fleet is starting")


def _table(status: FleetStatus) -> Table:
    table = Table("server", "state", "gRPC", "emulated slow-down", "CPUs", "pid")
    for server in status.servers:
        table.add_row(
            server.name,
            "running" if server.is_running else f"gone, see {server.log}",
            server.grpc,
            f"{server.slowdown:g}×" if server.slowdown > 1.0 else "none",
            "all" if server.cpus is None else ",".join(map(str, server.cpus)),
            str(server.process.pid),
        )
    return table
