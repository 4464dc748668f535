"""``slimsched gateway``: Triton's protocol in front of the fleet, until told to stop."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
from pathlib import Path

import click

from orchestrator.config import FleetSettings, load_fleet
from orchestrator.gateway import Gateway, new_event_loop
from orchestrator.router import Router

log = logging.getLogger(__name__)


@click.command()
@click.option(
    "--fleet",
    "--config",
    "fleet_path",
    type=click.Path(path_type=Path),
    required=True,
    help="Which servers there are, and where to listen: fleet.yaml.",
)
@click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error"]),
    default="info",
    show_default=True,
    help="Of the lines on stderr.",
)
def gateway(fleet_path: Path, log_level: str) -> None:
    """Answer Triton clients over gRPC and HTTP, every request routed over the fleet.

    The family is one model; other models are passed on to a server that has them. Runs until SIGTERM or SIGINT, then
    takes no more, answers what is in, and ends with status 0; a second signal ends it at once. Addresses and limits
    are in the fleet file's `gateway` section.

    \b
    Example:
      slimsched local up --servers 2 --fleet fleet.yaml
      slimsched gateway --fleet fleet.yaml
      curl -s localhost:8080/v2/health/ready -o /dev/null -w '%{http_code}\\n'
    """
    fleet = load_fleet(fleet_path)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    root = logging.getLogger()
    root.addHandler(handler)
    root.setLevel(log_level.upper())
    try:
        with asyncio.Runner(loop_factory=new_event_loop) as runner:
            runner.run(_serve(fleet))
    finally:
        root.removeHandler(handler)


async def _serve(fleet: FleetSettings) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def begin_to_stop() -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)  # so that a second one ends at once
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, begin_to_stop)
    async with Router.from_fleet(fleet) as router, Gateway.over(fleet, router) as opened:
        for what, endpoint in (("gRPC", opened.grpc), ("HTTP", opened.http), ("metrics", opened.metrics)):
            if endpoint is not None:
                log.info("%s on %s", what, endpoint.address)
        await stop.wait()
        log.info("stopping: no more is taken, what is in is answered within %g s", fleet.gateway.drain_s)
    log.info("the gateway has ended")
