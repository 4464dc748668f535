"""One worker of ``slimsched gateway``, run by its supervisor in a process of its own with two inherited sockets."""

from __future__ import annotations

import asyncio
import shutil
import signal
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from orchestrator.cli.logs import logging_to_stderr
from orchestrator.config import FleetSettings
from orchestrator.errors import SlimError
from orchestrator.gateway import WorkerTeam, freeze_heap, go_first, new_event_loop, open_gateway, read_init_message

_ALONE_S = 10.0  # served without the supervisor, until whoever has started that may have started it again


def main(channel_descriptor: int, handoff_descriptor: int) -> int:
    """Answer until the supervisor says stop, or is gone; return the exit status."""
    channel_end, handoff_end = socket.socket(fileno=channel_descriptor), socket.socket(fileno=handoff_descriptor)
    init = read_init_message(channel_end)
    if init is None:
        return 0  # the supervisor was gone before this began
    logged = logging_to_stderr(*init["logging_as"], worker=init["number"])
    with logged, asyncio.Runner(loop_factory=new_event_loop) as runner:
        return runner.run(_work(init, channel_end, handoff_end))


async def _work(init: Mapping[str, Any], channel_end: socket.socket, handoff_end: socket.socket) -> int:
    fleet, path = FleetSettings.model_validate_json(init["fleet"]), Path(init["fleet_path"])
    stamps = tuple(stamp and tuple(stamp) for stamp in init["fleet_stamps"])
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    is_alone = asyncio.Event()

    def go_on_alone() -> None:
        is_alone.set()
        loop.call_later(_ALONE_S, stop.set)

    team = WorkerTeam(
        channel_end,
        handoff_end,
        on_alone=go_on_alone,
        number=init["number"],
        directory=init["directory"],
    )
    await team.join()
    failure: str | None = None
    sockets = {"peers": [socket.socket(fileno=descriptor) for descriptor in init["peers"]]}
    try:
        async with open_gateway(
            fleet, path, team, requires_server=init["requires_server"], sockets=sockets, stamps=stamps
        ) as gateway:
            asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, gateway.reload)
            freeze_heap()
            go_first(fleet.gateway.nice)
            team.serve(gateway)
            await stop.wait()
    except SlimError as exc:
        failure = str(exc)
    await team.leave(failure)
    if is_alone.is_set():  # its supervisor can't
        shutil.rmtree(init["directory"], ignore_errors=True)
    return 0 if failure is None else 1
