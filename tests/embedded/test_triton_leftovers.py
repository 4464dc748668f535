"""What a killed tritonserver leaves behind, here left behind by ordinary programs."""

from __future__ import annotations

import mmap
import subprocess
import sys
import uuid
from pathlib import Path

from orchestrator.embedded import triton_leftovers
from orchestrator.embedded.triton_leftovers import Leftovers, list_stubs
from orchestrator.processes.guardian import load_leftovers

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
