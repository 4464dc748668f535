"""Processes that look like Triton and its stubs to the operating system: Python under their names, as links.

The server takes what to do by lines; whoever loses its parent reads the end of its input and goes.
"""

import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Self

SERVER_PROGRAM = """
import socket, subprocess, sys
stub_path, port = sys.argv[1], int(sys.argv[2])
listener = socket.create_server(("127.0.0.1", port))
print(listener.getsockname()[1], flush=True)
stubs = {}
for line in sys.stdin:
    verb, *arguments = line.split()
    if verb == "spawn":
        child = subprocess.Popen([stub_path, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        child.stdout.readline()
        stubs[child.pid] = child
        print(child.pid, flush=True)
    elif verb == "reap":
        stubs.pop(int(arguments[0])).communicate()
        print("reaped", flush=True)
"""
# SIGUSR1: take 64 MiB. SIGUSR2: compute for 0.35 s.
STUB_PROGRAM = """
import signal, sys, time
kept = []
def allocate(*_):
    kept.append(bytearray(b"x") * (64 << 20))
    print("allocated", flush=True)
def compute(*_):
    end_s = time.process_time() + 0.35
    while time.process_time() < end_s:
        pass
signal.signal(signal.SIGUSR1, allocate)
signal.signal(signal.SIGUSR2, compute)
print("ready", flush=True)
sys.stdin.read()
"""


def write_programs(directory: Path) -> Path:
    """Write the two programs and their names; return the directory."""
    (directory / "server.py").write_text(SERVER_PROGRAM)
    (directory / "model.onnx").write_text(STUB_PROGRAM)  # a stub's first argument is its model: there Python finds it
    for name in ("tritonserver", "triton_python_backend_stub", "docker-proxy"):
        (directory / name).symlink_to(Path(sys.executable).resolve())
    return directory


class FakeTriton:
    """A process that listens on a port and starts stubs on demand."""

    def __init__(self, programs: Path, *, port: int = 0, name: str = "tritonserver") -> None:
        self._programs = programs
        stub = programs / "triton_python_backend_stub"
        self._process = subprocess.Popen(
            [programs / name, "-IS", programs / "server.py", stub, str(port)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.pid = self._process.pid
        self.port = int(self._read_line())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.kill()

    def spawn(self, instance: str) -> int:
        """Start a stub with the arguments of a real one; return its process id."""
        return self.spawn_with("shm_region", "1048576", "1048576", "3008", "backends/python", "336", instance, "onnx")

    def spawn_with(self, *arguments: str) -> int:
        """Start a stub with these arguments after its model's path; return its process id."""
        return int(self._send(" ".join(["spawn", str(self._programs / "model.onnx"), *arguments])))

    def reap(self, pid: int) -> None:
        """Wait for a stub that has been killed."""
        self._send(f"reap {pid}")

    def kill(self, *, is_reaped: bool = True) -> None:
        """Kill the server; its stubs follow."""
        self._process.kill()
        if is_reaped:
            self._process.communicate()

    def _send(self, line: str) -> str:
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()
        return self._read_line()

    def _read_line(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()
