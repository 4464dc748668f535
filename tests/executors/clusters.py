"""A Dask cluster of processes on this machine, of which one can be killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
WAIT_S = 60.0


class Cluster:
    """A scheduler and its workers; one without a nanny, as here, stays dead when it is killed."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._file = folder / "scheduler.json"
        self._scheduler = self._start("scheduler", "--port", "0", "--host", "127.0.0.1")
        self.workers: list[subprocess.Popen[bytes]] = []
        wait_until(lambda: self._file.exists() and bool(self._file.read_text()), "the scheduler's file")
        self.address = str(json.loads(self._file.read_text())["address"])

    def add_worker(self) -> None:
        """Start one more worker, of one thread."""
        self.workers.append(self._start("worker", "--no-nanny", "--nthreads", "1", "--host", "127.0.0.1"))

    def kill_worker(self) -> None:
        """Kill the first worker by its process id, without a word to anybody."""
        os.kill(self.workers[0].pid, signal.SIGKILL)

    def kill_scheduler(self) -> None:
        """Kill the scheduler likewise."""
        self._scheduler.kill()

    def stop(self) -> None:
        """End all of it."""
        for process in (*self.workers, self._scheduler):
            if process.poll() is None:
                process.kill()
            process.wait()

    def _start(self, what: str, *arguments: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", f"distributed.cli.dask_{what}", "--scheduler-file", str(self._file)]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        with (self._folder / f"{what}.log").open("ab") as log:
            return subprocess.Popen(
                [*command, "--no-dashboard", *arguments], cwd=self._folder, env=environment, stdout=log, stderr=log
            )


@contextmanager
def open_cluster(folder: Path, workers: int = 2) -> Iterator[Cluster]:
    """Run a cluster; where Dask is not installed the test is skipped."""
    pytest.importorskip("distributed", reason="needs Dask: pip install 'slim-scheduler[cluster]'")
    cluster = Cluster(folder)
    try:
        for _ in range(workers):
            cluster.add_worker()
        yield cluster
    finally:
        cluster.stop()


def wait_until(is_so: object, what: str) -> None:
    """Wait for what comes in a moment."""
    assert callable(is_so)
    end_s = time.monotonic() + WAIT_S
    while not is_so():
        assert time.monotonic() < end_s, f"{what} did not come"
        time.sleep(0.05)
