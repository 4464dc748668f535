"""``slimsched up`` apart from the processes that it runs."""

from __future__ import annotations

import asyncio
import io
import logging
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from orchestrator.background import end_tasks
from orchestrator.cli.serving.up import _SHOWN_LOGGERS, _ConsoleHandler, _follow
from orchestrator.config import FleetSettings, ServerSettings, render_fleet


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
