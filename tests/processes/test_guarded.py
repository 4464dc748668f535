"""The guardian's promises on ordinary programs; tests/triton/test_real_life.py has them on the real tritonserver."""

import asyncio
import contextlib
import fcntl
import os
import signal
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from orchestrator.processes.guarded import (
    PREFIX,
    GuardedProcess,
    PrivateDirectory,
    create_private_directory,
    remove_abandoned,
)
from orchestrator.processes.guardian import Leftovers, Task, decode_task, kill_session
from orchestrator.processes.process_table import list_session, read_command_line


def build_task(directory: PrivateDirectory, script: str, *, grace_s: float = 5.0) -> Task:
    return Task(
        command=(sys.executable, "-I", "-S", "-c", script),
        environment={"PATH": os.defpath, "MARK": "yes"},
        log_path=str(directory.path / "log"),
        cpus=None,
        directory=str(directory.path),
        grace_s=grace_s,
    )


FOREVER = "import time\nprint('up', flush=True)\ntime.sleep(600)"
# A server that ignores SIGTERM and has a child that ignores it as well.
STUBBORN = """
import os, signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
os.fork()
print('up', flush=True)
time.sleep(600)
"""


@pytest.fixture
def directory() -> PrivateDirectory:
    return create_private_directory()


@contextlib.asynccontextmanager
async def running(task: Task, directory: PrivateDirectory) -> AsyncIterator[GuardedProcess]:
    process = GuardedProcess(task, directory)
    try:
        await process.start()
        yield process
    finally:
        await process.stop()


async def wait_for_log(directory: PrivateDirectory, lines: int) -> str:
    log = directory.path / "log"
    async with asyncio.timeout(20):
        while not log.exists() or len(log.read_text().splitlines()) < lines:
            await asyncio.sleep(0.01)
    return log.read_text()


def test_a_task_survives_the_socket(directory: PrivateDirectory) -> None:
    task = replace(build_task(directory, "pass"), cpus=(0, 2))
    assert decode_task(task.encode()) == task
    assert decode_task(replace(task, cpus=None).encode()).cpus is None
    directory.remove()


async def test_an_exit_is_noticed_with_its_code_and_the_log_is_still_there(directory: PrivateDirectory) -> None:
    script = "import os, sys\nprint(os.environ['MARK'])\nsys.exit(7)"
    async with running(build_task(directory, script), directory) as process:
        await process.wait_exited()
        assert (process.exit_code, process.is_running) == (7, False)
        assert (directory.path / "log").read_text() == "yes\n"
    assert not directory.path.exists()


async def test_a_program_that_does_not_exist_says_so_in_the_log(directory: PrivateDirectory) -> None:
    task = replace(build_task(directory, ""), command=("/no/such/program",))
    async with running(task, directory) as process:
        await process.wait_exited()
        assert process.exit_code == 127
        assert "can't start /no/such/program" in (directory.path / "log").read_text()


async def test_stop_is_orderly_and_idempotent(directory: PrivateDirectory) -> None:
    async with running(build_task(directory, FOREVER), directory) as process:
        await wait_for_log(directory, 1)
        await process.stop()
        assert process.exit_code == -signal.SIGTERM
        assert list_session(process.pid) == []


@pytest.mark.parametrize("turns", [0, 1, 3, 10, 100])
async def test_a_stop_right_behind_the_task_is_heard(directory: PrivateDirectory, turns: int) -> None:
    """At any turn of the event loop, from before the guardian runs until it has read its task."""
    process = GuardedProcess(build_task(directory, FOREVER, grace_s=60.0), directory)
    starting = asyncio.create_task(process.start())
    for _ in range(turns + 1):
        await asyncio.sleep(0)
    starting.cancel()
    async with asyncio.timeout(20):
        await asyncio.gather(starting, return_exceptions=True)
        await process.stop()
    assert not directory.path.exists()


async def test_who_ignores_sigterm_is_killed_with_its_children(directory: PrivateDirectory) -> None:
    async with running(build_task(directory, STUBBORN, grace_s=0.2), directory) as process:
        await wait_for_log(directory, 2)
        assert len(list_session(process.pid)) == 2
    assert process.exit_code == -signal.SIGKILL
    assert list_session(process.pid) == []


async def test_orphans_of_a_crashed_program_are_killed(directory: PrivateDirectory) -> None:
    async with running(build_task(directory, STUBBORN), directory) as process:
        await wait_for_log(directory, 2)
        os.kill(process.pid, signal.SIGKILL)
        await process.wait_exited()
        assert process.exit_code == -signal.SIGKILL
        assert list_session(process.pid) == []


async def test_a_killed_guardian_is_noticed_at_once_and_replaced_by_stop(directory: PrivateDirectory) -> None:
    async with running(build_task(directory, STUBBORN), directory) as process:
        await wait_for_log(directory, 2)
        os.kill(psutil.Process(process.pid).ppid(), signal.SIGKILL)
        async with asyncio.timeout(10):
            await process.wait_exited()
        assert process.exit_code is None
        assert len(list_session(process.pid)) == 2
    assert list_session(process.pid) == []
    assert not directory.path.exists()


async def test_the_program_is_in_a_session_of_its_own_on_its_cpus(directory: PrivateDirectory) -> None:
    cpu = min(os.sched_getaffinity(0))
    async with running(replace(build_task(directory, FOREVER), cpus=(cpu,)), directory) as process:
        assert len({os.getsid(0), os.getsid(psutil.Process(process.pid).ppid()), os.getsid(process.pid)}) == 3
        assert os.sched_getaffinity(process.pid) == {cpu}


def test_an_unknown_session_is_empty() -> None:
    assert list_session(2**22 + 1) == []
    kill_session(2**22 + 1, Leftovers())
    assert read_command_line(2**22 + 1) == []


def test_only_abandoned_directories_are_removed(tmp_path: Path) -> None:
    held, abandoned, foreign = (tmp_path / f"{PREFIX}held", tmp_path / f"{PREFIX}left", tmp_path / "other")
    for path in (held, abandoned, foreign):
        path.mkdir()
        (path / "file").touch()
    keeper = create_private_directory()
    remove_abandoned(tmp_path, older_than_s=3600)
    assert abandoned.exists(), "too young to be judged"
    descriptor = os.open(held, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        remove_abandoned(tmp_path, older_than_s=-1)
    finally:
        os.close(descriptor)
    assert (held.exists(), abandoned.exists(), foreign.exists()) == (True, False, True)
    assert keeper.path.exists()
    keeper.remove()
    assert not keeper.path.exists()
