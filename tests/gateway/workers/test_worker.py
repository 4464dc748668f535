"""One run of a worker, played by a small program that speaks the channel's lines."""

from __future__ import annotations

import os
import sys

import pytest

from orchestrator.errors import ServerUnavailableError
from orchestrator.gateway.workers.socket_handoff import ConnectionDistributor
from orchestrator.gateway.workers.worker import WorkerLaunch, WorkerRun

PROGRAM = """
import json, signal, socket, sys, time

channel = socket.socket(fileno=int(sys.argv[1]))
lines = channel.makefile("r")

def notify(what, body=None):
    channel.sendall(json.dumps({"what": what, "number": None, "body": body}).encode() + b"\\n")

def leave(*_):
    notify("metrics", [["slim_gateway_requests", [[["a"], [7.0]]]]])
    sys.exit(0)

signal.signal(signal.SIGTERM, leave)
init = json.loads(lines.readline())["body"]
"""
COMES_UP = """
notify("served", [init["family"]])
notify("up")
lines.readline()
while True:
    time.sleep(0.01)
"""
"""Not ``signal.pause``: it sleeps over a signal that comes between Python's last look at signals and the call."""


class Runs:
    """Makes runs of a program, and notes what they report."""

    def __init__(self) -> None:
        self.changes: list[tuple[bool, frozenset[str]]] = []

    def make(self, script: str) -> WorkerRun:
        launch = WorkerLaunch(
            command=lambda channel, handoff: (
                sys.executable, "-I", "-S", "-c", PROGRAM + script, str(channel), str(handoff),
            ),
            environment=os.environ,
            init_message=lambda number: {"family": f"family {number}"},
        )  # fmt: skip
        return WorkerRun(3, launch, stop_s=20, answers={}, distributor=ConnectionDistributor(), on_change=self._note)

    def _note(self, run: WorkerRun) -> None:
        self.changes.append((run.is_up, run.served))


async def test_it_has_started_when_it_says_so_and_its_last_words_are_heard() -> None:
    runs = Runs()
    run = runs.make(COMES_UP)
    assert run.pid is None
    await run.start()
    assert (run.is_up, run.served) == (True, {"family 3"})
    run.notify_served(["family 3"])
    await run.stop()
    await run.stop()
    assert await run.wait_exited() == f"(process {run.pid}) exited with status 0"
    assert run.metrics.values == {"slim_gateway_requests": {("a",): [7.0]}}
    assert runs.changes == [(False, {"family 3"}), (True, {"family 3"}), (False, {"family 3"})]


async def test_one_that_can_not_start_tells_why() -> None:
    run = Runs().make("notify('failed', 'the key file is not there'); sys.exit(1)")
    with pytest.raises(ServerUnavailableError, match=r"^the key file is not there$"):
        await run.start()
    await run.stop()


async def test_one_that_dies_while_it_starts_is_described() -> None:
    run = Runs().make("signal.raise_signal(signal.SIGKILL)")
    with pytest.raises(ServerUnavailableError, match=r"^worker 3 was killed by SIGKILL while it started$"):
        await run.start()
    assert not run.is_up
