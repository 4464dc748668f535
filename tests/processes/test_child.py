"""One run of a program of ours: how it starts, ends, and what it leaves in its log."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from orchestrator.errors import ServerUnavailableError
from orchestrator.processes.child import ChildProcess, describe_exit_code, is_listening
from orchestrator.processes.process_table import read_identity

WAITS = "import sys; print('up', flush=True); sys.stdin.read()"
IGNORES = """
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("up", flush=True)
time.sleep(600)
"""


def child(script: str, log_path: Path, **more: Any) -> ChildProcess:
    options = {"stop_s": 20.0, "has_lifeline": True, **more}
    return ChildProcess("it", (sys.executable, "-I", "-S", "-c", script), log_path=log_path, **options)


async def wait_for_log(path: Path) -> None:
    async with asyncio.timeout(20):
        while not path.read_text().endswith("\n"):
            await asyncio.sleep(0.01)


async def test_it_gets_the_signal_to_end_and_only_once(tmp_path: Path) -> None:
    process = child(WAITS, tmp_path / "log")
    assert (process.pid, process.is_running) == (None, False)
    await process.stop()
    await process.start()
    await wait_for_log(tmp_path / "log")
    assert process.is_running
    assert os.getsid(process.pid or 0) == process.pid, "Ctrl-C in our terminal does not reach it"
    await process.stop()
    await process.stop()
    assert (await process.wait_exited(), process.is_running) == ("was killed by SIGTERM", False)


async def test_its_log_is_for_its_owner_only_whatever_the_folder_is(tmp_path: Path) -> None:
    process = child(WAITS, tmp_path / "log")
    await process.start()
    await process.stop()
    assert (tmp_path / "log").stat().st_mode & 0o777 == 0o600


async def test_who_ignores_sigterm_is_killed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    process = child(IGNORES, tmp_path / "log", stop_s=0.1)
    await process.start()
    await wait_for_log(tmp_path / "log")
    await process.stop()
    assert await process.wait_exited() == "was killed by SIGKILL"
    assert "it did not end within 0.1 s and is killed" in caplog.messages


async def test_an_exit_is_reported_with_the_last_line_of_this_run(tmp_path: Path) -> None:
    log_path = tmp_path / "log"
    log_path.write_text("of an earlier run\n")
    process = child("import sys; print('first', flush=True); sys.exit('Error: no such model')", log_path)
    await process.start()
    assert await process.wait_exited() == "exited with status 1: no such model"
    silent = child("import sys; sys.exit(3)", log_path)
    await silent.start()
    assert await silent.wait_exited() == "exited with status 3"
    assert log_path.read_text().startswith("of an earlier run\n")


async def test_an_exit_is_reported_when_its_log_was_rotated_away(tmp_path: Path) -> None:
    process = child("import sys; sys.exit('Error: no such model')", tmp_path / "log")
    await process.start()
    (tmp_path / "log").unlink()
    assert await process.wait_exited() == "exited with status 1"


async def test_it_has_started_when_it_is_ready_and_not_when_it_ends_before(tmp_path: Path) -> None:
    answers = iter([False, False, True])

    async def is_ready() -> bool:
        return next(answers, False)

    process = child(WAITS, tmp_path / "log", is_ready=is_ready)
    await process.start()
    assert next(answers, None) is None
    await process.stop()
    with pytest.raises(ServerUnavailableError, match="port in use"):
        await child("import sys; sys.exit('port in use')", tmp_path / "log", is_ready=is_ready).start()


async def test_signals_reach_it_and_none_reaches_one_that_has_ended(tmp_path: Path) -> None:
    process = child(WAITS, tmp_path / "log")
    process.signal(signal.SIGHUP)
    await process.start()
    process.signal(signal.SIGHUP)
    assert await process.wait_exited() == "was killed by SIGHUP"
    process.signal(signal.SIGHUP)
    process.signal(signal.SIGKILL)


PARENT = """
import asyncio, sys
from pathlib import Path
from orchestrator.processes.child import ChildProcess

async def main():
    command, log_path = (sys.executable, "-c", sys.argv[1]), Path(sys.argv[2])
    child = ChildProcess("it", command, stop_s=5, log_path=log_path, has_lifeline=True)
    await child.start()
    print(child.pid, flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


def test_its_standard_input_ends_with_its_parent_however_that_dies(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PARENT, WAITS, str(tmp_path / "log")], stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        identity = read_identity(int(parent.stdout.readline()))
        assert identity is not None
        parent.kill()
    assert identity.wait_gone(20.0)


async def test_who_listens_is_seen() -> None:
    server = await asyncio.start_server(lambda reader, writer: writer.close(), "127.0.0.1", 0)
    address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    assert await is_listening(address)
    server.close()
    await server.wait_closed()
    assert not await is_listening(address)


@pytest.mark.parametrize(
    ("code", "text"),
    [(1, "exited with status 1"), (-9, "was killed by SIGKILL"), (None, "lost its guardian process and was stopped")],
)
def test_exits_are_described(code: int | None, text: str) -> None:
    assert describe_exit_code(code) == text
