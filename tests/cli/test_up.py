"""``slimsched up`` apart from the processes that it runs."""

from __future__ import annotations

import asyncio
import fcntl
import io
import logging
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from rich.console import Console

from orchestrator.background import end_tasks
from orchestrator.cli import main
from orchestrator.cli.serving.up import _SHOWN_LOGGERS, _ConsoleHandler, _describe_first_request, _follow
from orchestrator.config import FleetSettings, GatewaySettings, ServerSettings, render_fleet
from orchestrator.config.gateway import TlsSettings
from orchestrator.embedded.local_state import LOCK_FILE, command_down

ROOT = Path(__file__).parents[2]


class _FullDisk(io.StringIO):
    def write(self, text: str) -> int:
        raise OSError(28, "No space left on device")


def test_a_line_that_can_not_be_written_ends_nothing_that_logs() -> None:
    """Such as the supervision of a process, which would not be started again."""
    handler = _ConsoleHandler(Console(file=_FullDisk()))
    record = logging.LogRecord("orchestrator.processes.managed", logging.ERROR, "", 0, "a died", None, None)
    for _ in range(2):
        handler.handle(record)


class _Stack:
    """Takes a fleet at the third attempt."""

    def __init__(self) -> None:
        self.attempts = 0

    def complete(self, fleet: FleetSettings, repository: Path) -> FleetSettings:
        return fleet

    async def take(self, fleet: FleetSettings) -> None:
        self.attempts += 1
        if self.attempts < 3:
            raise OSError(28, "No space left on device")


@pytest.mark.virtual_time
async def test_a_fleet_file_that_can_not_be_taken_for_want_of_space_is_told_and_taken_later(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path, stack = tmp_path / "fleet.yaml", _Stack()
    path.write_text(render_fleet(FleetSettings(servers=(ServerSettings(name="a", grpc="127.0.0.1:1"),))))
    any_stack: Any = stack
    following = asyncio.create_task(_follow(path, (None,), tmp_path, any_stack))
    await asyncio.sleep(10)
    assert (following.done(), stack.attempts) == (False, 3)
    told = [r.getMessage() for r in caplog.records if r.levelno == logging.ERROR and r.name.startswith(_SHOWN_LOGGERS)]
    assert told == ["the fleet file is not taken yet: [Errno 28] No space left on device; tried again in 1 s"] * 2
    await end_tasks(following)


async def test_a_gateway_with_tls_is_told_to_have_it_and_not_to_serve_nothing(tmp_path: Path) -> None:
    tls = TlsSettings(certificate=tmp_path / "cert.pem", key=tmp_path / "key.pem")
    (line,) = await _describe_first_request(GatewaySettings(http="127.0.0.1:1", tls=tls))
    assert line.startswith("the gateway speaks TLS, so there is no line to try it by")


def test_a_state_folder_that_is_taken_is_told_with_who_may_have_it_and_what_to_do(tmp_path: Path) -> None:
    place = tmp_path / "of two"
    place.mkdir(mode=0o700)
    with open(place / LOCK_FILE, "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for command, who in (("up", "another 'slimsched up', or a fleet of"), ("local up", "'slimsched up' runs in")):
            arguments = [*command.split(), "--state-dir", str(place), "--repository", str(ROOT / "model_repository")]
            found = CliRunner().invoke(main, arguments)
            assert (found.exit_code, who in found.output, "another --state-dir" in found.output) == (1, True, True)


def test_a_fleet_is_ended_in_its_own_folder(tmp_path: Path) -> None:
    assert command_down(tmp_path / "of two") == f"slimsched local down --state-dir '{tmp_path}/of two'"
