"""A child that says when it serves, which is later than when it runs."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
import tempfile
from pathlib import Path

import pytest

from orchestrator.errors import ServerUnavailableError
from orchestrator.processes.child import ChildProcess
from orchestrator.processes.readiness import Announcement, Hearing

ROOT = str(Path(__file__).parents[2])
SAYS_WHEN_TOLD = f"""
import os, sys, time
sys.path.insert(0, {ROOT!r})
from orchestrator.processes.readiness import Announcement
announcement = Announcement(os.environ)
print("runs", flush=True)
while not os.path.exists(sys.argv[1]):
    time.sleep(0.01)
announcement.say_ready()
time.sleep(600)
"""


def child(folder: Path, script: str) -> ChildProcess:
    command = (sys.executable, "-I", "-c", script, str(folder / "told"))
    return ChildProcess("it", command, stop_s=20.0, log_path=folder / "log", says_ready=True)


async def test_it_has_started_when_it_says_so_and_not_when_it_runs(tmp_path: Path) -> None:
    process = child(tmp_path, SAYS_WHEN_TOLD)
    starting = asyncio.create_task(process.start())
    try:
        async with asyncio.timeout(20):
            while "runs" not in ((tmp_path / "log").read_text() if (tmp_path / "log").exists() else ""):
                await asyncio.sleep(0.01)
        for _ in range(10):  # it is looked at meanwhile
            await asyncio.sleep(0.02)
        assert not starting.done()
        (tmp_path / "told").touch()
        async with asyncio.timeout(20):
            await starting
        assert process.is_running
    finally:
        starting.cancel()
        await process.stop()


async def test_who_ends_without_a_word_has_not_started(tmp_path: Path) -> None:
    with pytest.raises(ServerUnavailableError, match="no such file"):
        await child(tmp_path, "import sys; sys.exit('Error: no such file')").start()


async def test_it_is_heard_once_said_and_no_child_of_its_says_it_again() -> None:
    with Hearing() as hearing:
        environment = {"HOME": "/", **hearing.environment}
        announcement = Announcement(environment)
        assert environment == {"HOME": "/"}
        assert not await hearing.is_heard()
        announcement.say_ready()
        assert await hearing.is_heard()
        assert await hearing.is_heard()
    announcement.say_ready()  # nobody is there any more


def test_systemd_hears_it_at_a_path() -> None:
    with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
        place = os.path.join(folder, "notify")
        end.bind(place)
        end.settimeout(20.0)
        Announcement({"NOTIFY_SOCKET": place}).say_ready()
        assert end.recv(100) == b"READY=1"


@pytest.mark.parametrize("environment", [{}, {"NOTIFY_SOCKET": ""}])
async def test_where_nobody_asks_nothing_is_said(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    with Hearing() as hearing:
        for name, place in hearing.environment.items():  # the one that counts is the one that was given
            monkeypatch.setenv(name, place)
        Announcement(environment).say_ready()
        assert not await hearing.is_heard()
