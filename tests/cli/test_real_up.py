"""``slimsched up`` as a newcomer runs it: real Tritons, controllers and the gateway, and nothing left behind."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as grpcclient
from rich.console import Console

from orchestrator.background import end_tasks
from orchestrator.cli.serving import up as up_command
from orchestrator.config import (
    ControllerSettings,
    FleetSettings,
    GatewaySettings,
    ServerSettings,
    load_fleet,
    render_fleet,
)
from orchestrator.embedded.server import EmbeddedOptions, EmbeddedServer
from orchestrator.errors import SlimError
from orchestrator.triton.client import TritonClient
from tests.cli.test_real_commands import MARK, marked_processes
from tests.embedded.slow_models import write_slow_model
from tests.export.importing.networks import save, shifted_lookup, slimsched_import
from tests.ports import choose_free_ports, with_ports

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]
WAIT_S = 60.0
SCRIPT = "from orchestrator.cli import main; main()"


class Up:
    """The command in the background, all of whose processes carry a mark."""

    def __init__(self, directory: Path, *, workers: int = 1, repository: Path = ROOT / "model_repository") -> None:
        self.mark = uuid.uuid4().hex
        self.log = directory / "up.log"
        self.state = directory / "state"
        self.grpc, self.http, self.metrics, triton = (f"127.0.0.1:{port}" for port in choose_free_ports(4))
        self.path = directory / "fleet.yaml"
        server = ServerSettings(name="one", grpc=triton, repository=repository)
        gateway = GatewaySettings(grpc=self.grpc, http=self.http, metrics=self.metrics, workers=workers)
        controller = ControllerSettings(period_s=0.5)
        self.path.write_text(render_fleet(FleetSettings(servers=(server,), gateway=gateway, controller=controller)))

    @property
    def arguments(self) -> list[str]:
        return ["-c", SCRIPT, "up", "--fleet", str(self.path), "--state-dir", str(self.state)]

    @contextmanager
    def running(self, *, until: str = "Ctrl-C ends all of it") -> Iterator[subprocess.Popen[bytes]]:
        with self.log.open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, *self.arguments], cwd=ROOT, env={**os.environ, MARK: self.mark}, stderr=log
            )
        try:
            self.wait_said(until)
            yield process
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
                process.wait(WAIT_S)

    def said(self) -> str:
        return self.log.read_text()

    def wait_said(self, what: str) -> None:
        wait(lambda: what in self.said(), self.said)

    def wait_gone(self) -> None:
        wait(lambda: not marked_processes(self.mark), lambda: [self.said(), marked_processes(self.mark)])

    def find(self, *words: str) -> int:
        """Return the process of ours that has all these words in its command line."""
        for pid in marked_processes(self.mark):
            command = Path(f"/proc/{pid}/cmdline").read_text()
            if all(word in command for word in words):
                return pid
        raise AssertionError(f"none has {words}")


def wait(is_so: Callable[[], bool], describe: Callable[[], object], *, for_s: float = WAIT_S) -> None:
    deadline_s = time.monotonic() + for_s
    while not is_so():
        assert time.monotonic() < deadline_s, describe()
        time.sleep(0.05)


def ask_over_grpc(address: str) -> int:
    width: int = answer_over_grpc(address)["slim_width"].int64_param
    return width


def server_over_grpc(address: str) -> str:
    server: str = answer_over_grpc(address)["slim_server"].string_param
    return server


def answer_over_grpc(address: str) -> Any:
    pixels = grpcclient.InferInput("pixels", [1, 1, 28, 28], "FP32")
    pixels.set_data_from_numpy(np.zeros((1, 1, 28, 28), np.float32))
    with grpcclient.InferenceServerClient(address) as client:
        return client.infer("fashion", [pixels]).get_response().parameters


def pasted_answer(up: Up) -> Any:
    """Return what the line that it says to try answers, run by a shell."""
    up.wait_said("try it:")
    up.wait_said("| curl -s")
    (pasted,) = (line for line in up.said().splitlines() if "| curl -s" in line)
    return json.loads(subprocess.run(["bash", "-c", pasted], capture_output=True, timeout=WAIT_S, check=True).stdout)


def test_the_line_to_try_runs_a_network_that_takes_no_zeros(tmp_path: Path) -> None:
    file, repository = save(shifted_lookup(), tmp_path / "lookup.onnx"), tmp_path / "models"
    given = ("--family", "a", "--variant", f"30={file}", "--quality", "30=1", "--fill", "x=25")
    result = slimsched_import(*given, "--repository", repository)
    assert result.exit_code == 0, result.output
    up = Up(tmp_path, repository=repository)
    with up.running():
        assert [(output["name"], output["data"]) for output in pasted_answer(up)["outputs"]] == [("y", [5])]
    up.wait_gone()


def test_it_answers_restarts_what_dies_and_ends_without_a_trace(tmp_path: Path) -> None:
    up = Up(tmp_path)
    with up.running() as process:
        answer = pasted_answer(up)
        assert answer["outputs"][0]["shape"] == [1, 1], answer
        assert ask_over_grpc(up.grpc) in (25, 50, 75, 100)

        os.kill(up.find(SCRIPT, "\0gateway\0"), signal.SIGKILL)
        up.wait_said("gateway was killed by SIGKILL; started again")
        up.wait_said("gateway runs again")
        os.kill(up.find("bin/tritonserver"), signal.SIGKILL)
        up.wait_said("one was killed by SIGKILL")
        up.wait_said("one runs again")
        os.kill(up.find(SCRIPT, "\0controller\0"), signal.SIGKILL)
        up.wait_said("controller one was killed by SIGKILL; started again")
        up.wait_said("controller one runs again")

        def is_answered() -> bool:
            try:
                return ask_over_grpc(up.grpc) > 0
            except grpcclient.InferenceServerException:
                return False

        wait(is_answered, up.said)
        again = subprocess.run([sys.executable, *up.arguments], cwd=ROOT, capture_output=True, text=True, check=False)
        assert (again.returncode, again.stderr.count("\n")) == (1, 1), again.stderr
        assert "another 'slimsched up', or a fleet of 'slimsched local up', runs in" in again.stderr
        process.send_signal(signal.SIGINT)
        assert process.wait(WAIT_S) == 0, up.said()
    assert up.said().rstrip().endswith("all is down")
    up.wait_gone()


def test_a_model_that_loads_for_long_is_named_and_waited_for_and_a_bad_one_beside_it_is_told(tmp_path: Path) -> None:
    repository = tmp_path / "models"
    slow = {"slim.family": "slow", "slim.width": "100", "slim.accuracy": "0.9"}
    loading = write_slow_model(repository, "slow", slow)
    broken = write_slow_model(repository, "broken", slow | {"slim.width": "50"})
    for name in ("go", "fail"):
        (broken / name).touch()
    up = Up(tmp_path, repository=repository)
    with up.running(until="tritonserver loads slow, for"):
        assert "Ctrl-C ends all of it" not in up.said()
        (loading / "go").touch()
        up.wait_said("try it:")
        assert "model broken of " in up.said() and "is not served: " in up.said()
        assert "no weights here" in up.said()
    up.wait_gone()


async def test_while_nothing_is_served_it_is_said_what_the_tritons_load_or_why_they_do_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(up_command, "_TELL_WAITING_S", 0.2)
    loading = write_slow_model(tmp_path, "slow")
    options = with_ports(EmbeddedOptions(models=(), exit_timeout_s=1))
    nobody, gateway = (f"127.0.0.1:{port}" for port in choose_free_ports(2))
    console = Console(file=StringIO(), width=400)

    async def wait_told(what: str) -> None:
        async with asyncio.timeout(WAIT_S):
            while what not in console.file.getvalue():  # type: ignore[attr-defined]
                await asyncio.sleep(0.05)

    async with EmbeddedServer(tmp_path, options) as server:
        here = server.grpc_address
        fleet = FleetSettings(
            servers=(ServerSettings(name="one", grpc=here), ServerSettings(name="two", grpc=nobody)),
            gateway=GatewaySettings(http=gateway),
        )
        telling = asyncio.create_task(up_command._tell_first_request(fleet, console))
        await wait_told("nothing is served after ")
        await wait_told(" s: one loads nothing, two does not answer (")
        async with TritonClient(here) as triton:
            asked = asyncio.create_task(triton.load_model("slow"))
            await wait_told(": one loads slow, two does not answer (")
            for name in ("fail", "go"):
                (loading / name).touch()
            with pytest.raises(SlimError, match="no weights here"):
                await asked
        await wait_told(": one slow failed (")
        assert not telling.done()
        await end_tasks(telling)
    assert "no weights here" in console.file.getvalue()  # type: ignore[attr-defined]


def test_it_follows_its_fleet_file(tmp_path: Path) -> None:
    up = Up(tmp_path)
    with up.running():
        first = up.path.read_text()
        fleet = load_fleet(up.path)
        two = fleet.servers[0].model_copy(update={"name": "two", "grpc": f"127.0.0.1:{choose_free_ports(1)[0]}"})
        up.path.write_text(render_fleet(fleet.model_copy(update={"servers": (two,)})))

        def answers() -> str:
            try:
                return server_over_grpc(up.grpc)
            except grpcclient.InferenceServerException:
                return ""

        wait(lambda: answers() == "two", up.said)
        up.wait_said("ending one")
        assert answers() == "two"
        up.path.write_text("servers: 1")
        up.wait_said("the fleet file: kept as before")
        up.path.write_text(first)
        wait(lambda: answers() == "one", up.said)
        up.wait_said("ending two")
    assert up.said().rstrip().endswith("all is down")
    up.wait_gone()


def test_nothing_survives_its_kill(tmp_path: Path) -> None:
    up = Up(tmp_path, workers=2)
    with up.running() as process:
        assert len(marked_processes(up.mark)) > 6, "up, guardian, Triton, stubs, controller, supervisor, two workers"
        process.kill()
        process.wait(WAIT_S)
        up.wait_gone()


def test_a_part_that_can_not_start_ends_all_with_its_reason(tmp_path: Path) -> None:
    up = Up(tmp_path)
    up.path.write_text(up.path.read_text().replace(up.http, "192.0.2.1:80"))  # an address of nobody
    done = subprocess.run(
        [sys.executable, *up.arguments],
        cwd=ROOT, env={**os.environ, MARK: up.mark}, capture_output=True, text=True, timeout=WAIT_S, check=False,
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    assert "Error: can't listen on gateway.http = 192.0.2.1:80" in done.stderr.splitlines()[-1]
    up.wait_gone()
