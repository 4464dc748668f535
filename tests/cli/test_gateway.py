"""``slimsched gateway`` before it takes requests."""

from __future__ import annotations

import asyncio
import os
import select
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
import yaml

from orchestrator.cli.serving.gateway import _is_compiled
from orchestrator.policies import preparation
from orchestrator.router.dispatch import compilation
from tests.ports import choose_free_ports


async def test_who_stops_it_does_not_wait_for_the_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (preparation, compilation):
        monkeypatch.setattr(module, "CACHE_DIR", tmp_path)
    monkeypatch.setattr(compilation, "_SCRIPT", f"open({str(tmp_path / 'began')!r}, 'w'); import time; time.sleep(600)")
    stop = asyncio.Event()
    starting = asyncio.create_task(_is_compiled(stop))
    while not (tmp_path / "began").exists():
        await asyncio.sleep(0.01)
    stop.set()
    assert not await starting


@pytest.mark.parametrize(
    ("is_mounted", "remedy"),
    [
        (False, "nor a folder {folder}; mount the secret there, or correct the path"),
        (True, "its folder is there; if that is a secret's, give the secret the key tokens.yaml"),
    ],
    ids=["no secret", "a secret without the key"],
)
@pytest.mark.parametrize("workers", [1, 2])
def test_without_its_tokens_it_ends_with_one_line_that_says_what_is_missing_and_what_to_do(
    tmp_path: Path, is_mounted: bool, remedy: str, workers: int
) -> None:
    folder = tmp_path / "secret"
    if is_mounted:
        folder.mkdir()
        (folder / "token.yaml").write_text("tenants: []")  # under another name
    grpc, http, metrics = (f"127.0.0.1:{port}" for port in choose_free_ports(3))
    addresses = {"grpc": grpc, "http": http, "metrics": metrics}
    auth = {"tokens_file": str(folder / "tokens.yaml")}
    path = tmp_path / "fleet.yaml"
    path.write_text(
        yaml.safe_dump(
            {
                "servers": [{"name": "a", "grpc": "127.0.0.1:1"}],
                "gateway": {**addresses, "auth": auth, "workers": workers},
            }
        )
    )
    command = [sys.executable, "-c", "from orchestrator.cli import main; main()", "gateway", "--fleet", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    said = f"there is no tokens file {folder / 'tokens.yaml'}, {remedy.format(folder=folder)}"
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.splitlines()[-1] == (
        f"Error: gateway.auth.tokens_file: {said}; 'slimsched token new TENANT' prints what belongs into it"
    )
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("workers", [1, 2])
def test_who_answers_has_the_niceness_of_the_settings(tmp_path: Path, workers: int) -> None:
    if os.getpriority(os.PRIO_PROCESS, 0):
        pytest.skip("this was started with a niceness of its own, which a gateway would keep")
    grpc, http, metrics = (f"127.0.0.1:{port}" for port in choose_free_ports(3))
    addresses = {"grpc": grpc, "http": http, "metrics": metrics}
    path = tmp_path / "fleet.yaml"
    path.write_text(
        yaml.safe_dump(
            {
                "servers": [{"name": "a", "grpc": "127.0.0.1:1"}],
                "gateway": {**addresses, "nice": 7, "workers": workers},  # as much as anybody may
            }
        )
    )
    command = [sys.executable, "-c", "from orchestrator.cli import main; main()", "gateway", "--fleet", str(path)]
    with subprocess.Popen([*command, "--until-stdin-ends"], stdin=subprocess.PIPE, stderr=subprocess.PIPE) as running:
        assert running.stdin is not None
        assert running.stderr is not None
        for line in running.stderr:
            if b"metrics on" in line:
                break
        children = Path(f"/proc/{running.pid}/task/{running.pid}/children").read_text().split()
        answering = [running.pid] if workers == 1 else [int(pid) for pid in children]
        found = [os.getpriority(os.PRIO_PROCESS, pid) for pid in answering]
        running.stdin.close()
        running.stderr.read()
    assert found == [7] * workers


async def test_it_goes_on_when_all_is_compiled() -> None:
    assert await _is_compiled(asyncio.Event())


def test_a_second_signal_while_workers_start_leaves_none_of_them(tmp_path: Path) -> None:
    grpc, http, metrics = (f"127.0.0.1:{port}" for port in choose_free_ports(3))
    gateway = {"grpc": grpc, "http": http, "metrics": metrics, "workers": 2}
    path = tmp_path / "fleet.yaml"
    path.write_text(yaml.safe_dump({"servers": [{"name": "a", "grpc": "127.0.0.1:1"}], "gateway": gateway}))
    command = [sys.executable, "-c", "from orchestrator.cli import main; main()", "gateway", "--fleet", str(path)]
    with subprocess.Popen(command, stderr=subprocess.PIPE) as process:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        while len(workers := children.read_text().split()) < 2:
            time.sleep(0.01)
        ends = [os.pidfd_open(int(worker)) for worker in workers]
        for _ in range(2):
            process.terminate()
            time.sleep(0.1)  # two that come at once count as one
        process.wait()
    assert all(select.select([end], [], [], 5)[0] for end in ends)  # they would drain for twice as long
    for end in ends:
        os.close(end)


_COMPILES_UNTIL_TOLD = """
import asyncio, sys
from orchestrator.cli.serving import gateway

async def compile_ahead():
    print("compiling", flush=True)
    await asyncio.to_thread(sys.stdin.readline)

gateway.compile_ahead = compile_ahead
from orchestrator.cli import main
main()
"""


@pytest.mark.parametrize("workers", [1, 2])
def test_a_sighup_during_the_start_is_kept_until_it_can_be_acted_on(tmp_path: Path, workers: int) -> None:
    grpc, http, metrics = (f"127.0.0.1:{port}" for port in choose_free_ports(3))
    gateway = {"grpc": grpc, "http": http, "metrics": metrics, "workers": workers}
    path, log = tmp_path / "fleet.yaml", tmp_path / "log"
    path.write_text(yaml.safe_dump({"servers": [{"name": "a", "grpc": "127.0.0.1:1"}], "gateway": gateway}))
    command = [sys.executable, "-c", _COMPILES_UNTIL_TOLD, "gateway", "--fleet", str(path)]
    with (
        log.open("wb") as errors,
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors) as process,
    ):
        assert process.stdin is not None and process.stdout is not None
        try:
            assert process.stdout.readline() == b"compiling\n"
            process.send_signal(signal.SIGHUP)
            process.send_signal(signal.SIGHUP)
            process.stdin.write(b"\n")
            process.stdin.flush()
            while "read again" not in log.read_text():
                assert process.poll() is None, log.read_text()
                time.sleep(0.05)
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait()
    assert process.returncode == 0, log.read_text()


def test_started_without_standard_streams_it_ends_well(tmp_path: Path) -> None:
    """As by ``slimsched gateway <&- >&- 2>&- &``: libuv aborts when it is to close a descriptor below 3."""
    grpc, http, metrics = (f"127.0.0.1:{port}" for port in choose_free_ports(3))
    gateway = {"grpc": grpc, "http": http, "metrics": metrics}
    path = tmp_path / "fleet.yaml"
    path.write_text(yaml.safe_dump({"servers": [{"name": "a", "grpc": "127.0.0.1:1"}], "gateway": gateway}))
    command = [sys.executable, "-c", "from orchestrator.cli import main; main()", "gateway", "--fleet", str(path)]
    with subprocess.Popen(command, preexec_fn=lambda: os.closerange(0, 3)) as process:
        while process.poll() is None:
            try:
                urllib.request.urlopen(f"http://{metrics}/readyz")
            except urllib.error.HTTPError as exc:
                if b"starts" not in exc.read():
                    break
            except OSError:
                pass
            time.sleep(0.05)
        process.terminate()
    assert process.returncode == 0
