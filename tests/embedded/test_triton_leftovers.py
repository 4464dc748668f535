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
from orchestrator.embedded.triton_leftovers import STUB_NAME, Leftovers, list_stubs
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


class Waiting:
    """A program one of whose threads waits for the end of a child, a stub or another, that sleeps."""

    SCRIPT = """
import os, sys, threading
child = os.fork()
if child == 0:
    os.execv(sys.executable, [sys.argv[1], "-c", "import time; print('up', flush=True); time.sleep(600)"])
threading.Thread(target=os.waitpid, args=(child, 0)).start()
sys.stdin.read()
try:
    os.kill(child, 9)
except ProcessLookupError:
    pass
"""

    def __init__(self, child: str) -> None:
        command = [sys.executable, "-c", self.SCRIPT, child]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, start_new_session=True, text=True)
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "up\n"

    def waits(self) -> bool:
        """Return whether a thread is in wait4, whose number is 61, and 260 on ARM."""
        calls = [path.read_text().split()[0] for path in Path(f"/proc/{self.process.pid}/task").glob("*/syscall")]
        return bool({"61", "260"}.intersection(calls))

    def end(self) -> None:
        self.process.communicate()

    def children(self) -> list[int]:
        return [child.pid for child in psutil.Process(self.process.pid).children()]


@pytest.mark.skipif(not Path("/proc/self/syscall").exists(), reason="this kernel does not show what a thread waits for")
@pytest.mark.parametrize(
    ("child", "is_ended"), [(f"/tmp/{STUB_NAME}", True), ("/bin/other", False)], ids=["a stub", "another child"]
)
def test_a_stub_that_a_server_waits_for_in_vain_is_ended_and_no_other_child(
    child: str, is_ended: bool, capfd: pytest.CaptureFixture[str]
) -> None:
    looks_s = iter((100.0, 105.0, 105.1, 109.9, 113.0))
    leftovers, waiting = Leftovers(lambda: next(looks_s)), Waiting(child)
    pid = waiting.process.pid
    try:
        while not waiting.waits():
            pass
        for _ in range(4):
            leftovers.sweep(pid)
            assert len(waiting.children()) == 1
        leftovers.sweep(pid)
        if is_ended:
            psutil.wait_procs(psutil.Process(pid).children(), timeout=20)
        assert len(waiting.children()) == (0 if is_ended else 1)
    finally:
        waiting.end()
    assert ("as tritonserver had waited for its end for 13 s" in capfd.readouterr().err) == is_ended


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
