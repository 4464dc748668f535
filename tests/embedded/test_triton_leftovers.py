"""What a killed tritonserver leaves behind, here left behind by ordinary programs."""

from __future__ import annotations

import asyncio
import mmap
import os
import signal
import subprocess
import sys
import uuid
from pathlib import Path

import psutil
import pytest

from orchestrator.embedded import triton_leftovers
from orchestrator.embedded.triton_leftovers import Leftovers, list_stubs
from orchestrator.processes.guarded import GuardedProcess, create_private_directory
from orchestrator.processes.guardian import Task, load_leftovers
from orchestrator.processes.process_table import list_session

SHARED_MEMORY = Path("/dev/shm")


def new_region() -> Path:
    return SHARED_MEMORY / f"triton_python_backend_shm_region_{uuid.uuid4()}"


def test_regions_that_were_named_or_mapped_are_removed_and_no_others() -> None:
    named, mapped, _ = regions = [new_region() for _ in range(3)]
    try:
        for region in regions:
            region.write_bytes(bytes(mmap.PAGESIZE))
        script = f"""
import mmap, sys
with open({str(mapped)!r}, "r+b") as file:
    held = mmap.mmap(file.fileno(), 0)
print("up", flush=True)
sys.stdin.read()
"""
        with subprocess.Popen(
            [sys.executable, "-c", script, named.name], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as process:
            assert process.stdout is not None
            process.stdout.readline()
            leftovers = load_leftovers(triton_leftovers.__name__)
            assert isinstance(leftovers, Leftovers)
            leftovers.note(process.pid)
            assert list_stubs(process.pid) == []
            process.communicate()
        leftovers.note(process.pid)  # gone meanwhile
        leftovers.remove()
        assert [region.exists() for region in regions] == [False, False, True]
    finally:
        for region in regions:
            region.unlink(missing_ok=True)


def test_regions_that_a_server_lets_go_of_are_removed_while_it_runs_unless_a_child_has_them() -> None:
    released, kept, of_child, foreign = regions = [new_region() for _ in range(4)]
    script = f"""
import mmap, os, sys, time
files = [open(path, "r+b") for path in {list(map(str, regions[:3]))!r}]
held = [mmap.mmap(file.fileno(), 0) for file in files]
child = os.fork()
if child == 0:
    held[0].close(), held[1].close()
    print("up", flush=True)
    time.sleep(600)
sys.stdin.readline()
held[0].close(), held[2].close()
print("let go", flush=True)
sys.stdin.read()
os.kill(child, 9)
os.wait()
"""
    leftovers = Leftovers()
    try:
        for region in regions:
            region.write_bytes(bytes(mmap.PAGESIZE))
        with subprocess.Popen(
            [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
        ) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            assert process.stdout.readline() == b"up\n"
            leftovers.sweep(process.pid)
            assert all(region.exists() for region in regions)
            process.stdin.write(b"\n")
            process.stdin.flush()
            process.stdout.readline()
            leftovers.sweep(process.pid)
            assert [region.exists() for region in regions] == [False, True, True, True]
            process.stdin.close()
            process.wait()
        leftovers.remove()
        assert [region.exists() for region in regions] == [False, False, False, True]
    finally:
        for region in (released, kept, of_child, foreign):
            region.unlink(missing_ok=True)


@pytest.mark.parametrize("victim", ["nobody", "program", "guardian"])
async def test_a_guarded_program_leaves_no_region_whoever_is_killed(victim: str) -> None:
    region, directory = new_region(), create_private_directory()
    region.write_bytes(bytes(mmap.PAGESIZE))
    task = Task(
        command=(sys.executable, "-c", "import os, time; os.fork(); time.sleep(600)", region.name),
        environment=dict(os.environ),
        log_path=str(directory.path / "log"),
        cpus=None,
        directory=str(directory.path),
        grace_s=5.0,
        leftovers=triton_leftovers.__name__,
    )
    process = GuardedProcess(task, directory)
    try:
        await process.start()
        async with asyncio.timeout(20):
            while len(list_session(process.pid)) < 2:
                await asyncio.sleep(0.01)
        pid = {"nobody": None, "program": process.pid, "guardian": psutil.Process(process.pid).ppid()}[victim]
        if pid is not None:
            os.kill(pid, signal.SIGKILL)
            await process.wait_exited()
    finally:
        await process.stop()
        left = region.exists()
        region.unlink(missing_ok=True)
    assert not left
