"""Signals to stop, sent to a process of its own."""

from __future__ import annotations

import signal
import subprocess
import sys
from functools import partial

import pytest

PROGRAM = """
import asyncio, signal
from orchestrator.cli.signals import watch_for_stop

async def run(is_stopping):
    watch_for_stop(lambda: print("stopped", flush=True), then=lambda: print("killed", flush=True),
                   is_stopping=lambda: is_stopping)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.raise_signal(number)
        await asyncio.sleep(0.05)
        print("alive", flush=True)

asyncio.run(run({is_stopping}))
"""


@pytest.mark.parametrize(
    ("is_stopping", "said"), [(False, ["stopped", "alive", "killed"]), (True, ["killed"])], ids=["runs", "is stopping"]
)
def test_a_signal_kills_what_is_already_told_to_stop(is_stopping: bool, said: list[str]) -> None:
    program = PROGRAM.format(is_stopping=is_stopping)
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert ended.stdout.split() == said, ended.stderr
    assert ended.returncode != 0


COMMAND = """
import asyncio, time
import click
from orchestrator.cli import RootGroup

async def wait():
    try:
        print("waits", flush=True)
        await asyncio.sleep(60)
    finally:
        await asyncio.sleep(0.01)
        print("puts away", flush=True)

def wait_here():
    try:
        print("waits", flush=True)
        time.sleep(60)
    finally:
        print("puts away", flush=True)

class Root(RootGroup):
    def get_command(self, ctx, name):
        return click.Command(name, callback={"wait": lambda: asyncio.run(wait()), "wait-here": wait_here}[name])

Root()()
"""


@pytest.mark.parametrize("command", ["wait", "wait-here"])
@pytest.mark.parametrize("sigint", [signal.SIG_DFL, signal.SIG_IGN], ids=["SIGINT kills", "SIGINT is ignored"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP], ids=["SIGTERM", "SIGHUP"])
def test_another_signal_interrupts_a_command_as_ctrl_c_does(
    command: str, sigint: signal.Handlers, number: signal.Signals
) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", COMMAND, command],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=partial(signal.signal, signal.SIGINT, sigint),
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "waits\n"
        process.send_signal(number)
        said, complained = process.communicate(timeout=60)
    assert (said, complained, process.returncode) == ("puts away\n", "interrupted\n", 130)
