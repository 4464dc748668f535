"""``slimsched controller``: the daemon beside a Triton, or one look at what it would do.

Only what the command needs to catch a SIGHUP is imported here; what it does is in ``controller_daemon``.
"""

from __future__ import annotations

import asyncio
from contextlib import nullcontext
from pathlib import Path

import click

from orchestrator.cli.logs import logging_to_stderr
from orchestrator.cli.options import LOG_LEVEL, fleet_option, log_format_option, until_stdin_ends_option
from orchestrator.cli.signals import SighupHandler, caught_sighup


@click.command()
@fleet_option
@click.option(
    "--server",
    envvar="SLIMSCHED_SERVER",
    show_envvar=True,
    help="Which server of the fleet file runs beside this.  [default: the only one]",
)
@click.option(
    "--name",
    envvar="SLIMSCHED_SERVER_NAME",
    show_envvar=True,
    help="What it is called instead, such as by its pod.  [default: as in the fleet file]",
)
@click.option(
    "--sidecar",
    "is_sidecar",
    is_flag=True,
    envvar="SLIMSCHED_SIDECAR",
    show_envvar=True,
    help="Triton is in the same pod: ask it on 127.0.0.1 and answer on 0.0.0.0, at the ports of the fleet file.",
)
@click.option(
    "--gpu",
    envvar="SLIMSCHED_GPU",
    show_envvar=True,
    help="Index or UUID of its GPU or MIG instance.  [default: as in the fleet file]",
)
@click.option(
    "--memory-limit-bytes",
    type=click.IntRange(min=1),
    envvar="SLIMSCHED_MEMORY_LIMIT_BYTES",
    show_envvar=True,
    help="What Triton's container may use, on CPU.  [default: as in the fleet file]",
)
@click.option("--dry-run", "is_dry", is_flag=True, help="Say what would be done now and why, and change nothing.")
@click.option("--once", "is_once", is_flag=True, help="Do what is to be done now, say what was done, and end.")
@click.option(
    "--log-level", type=LOG_LEVEL, help="Of the lines on stderr.  [default: info; error with --dry-run and --once]"
)
@log_format_option
@until_stdin_ends_option
def controller(
    fleet_path: Path,
    server: str | None,
    name: str | None,
    is_sidecar: bool,
    gpu: str | None,
    memory_limit_bytes: int | None,
    is_dry: bool,
    is_once: bool,
    log_level: str | None,
    log_format: str,
    until_stdin_ends: bool,
) -> None:
    """Keep one server's Triton loaded with the right widths, instances and batches.

    Runs until SIGTERM or SIGINT. SIGHUP reads the fleet file again; one that is refused leaves the old settings in
    force. It answers on the server's `controller` address: GET /status, /metrics and health (/livez, /readyz) from
    anywhere it can be reached, /holder for gateways, and POST /demand {"width": 50, "hold_s": 60} from this machine
    only. The address also keeps a second controller of the server away.

    --dry-run and --once take two looks at the host, one `period_s` apart, because rates need two readings. What must
    be seen for longer (`grow_after_s`, `idle_s`) before anything is done about it, only the running daemon sees.

    \b
    Example:
      slimsched controller --config fleet.yaml --server local-0 --dry-run
      slimsched controller --config fleet.yaml --server local-0
      slimsched controller --config fleet.yaml --sidecar --name "$POD_NAME"
    """
    if is_dry and is_once:
        raise click.UsageError("--dry-run changes nothing and --once does; give one of them")
    with nullcontext(SighupHandler()) if is_dry or is_once else caught_sighup() as sighup:
        # The rest takes a second to import, in which a daemon must not be ended by a SIGHUP.
        from orchestrator.cli.serving.controller_daemon import act_once, serve, show_plan
        from orchestrator.controller.sidecar import ServerOfController

        own = ServerOfController(fleet_path, server, name, gpu, memory_limit_bytes, is_sidecar)
        fleet, settings = own.load()
        level = log_level or ("error" if is_dry or is_once else "info")
        with logging_to_stderr(level, log_format):
            if is_dry:
                asyncio.run(show_plan(fleet, settings))
            elif is_once:
                asyncio.run(act_once(fleet, settings))
            else:
                asyncio.run(serve(fleet, settings, own.load, sighup, until_stdin_ends=until_stdin_ends))
