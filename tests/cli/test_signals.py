"""A first and a second signal to stop, sent to a process of its own."""

from __future__ import annotations

import subprocess
import sys

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
