"""``slimsched gateway`` before real Tritons: clients that leave, a drain, a killed server."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc as grpcclient
import tritonclient.grpc.aio as grpcaio

from orchestrator.config import PeerSettings
from orchestrator.embedded.server import EmbeddedOptions, EmbeddedServer
from orchestrator.triton.messages import SERVICE
from tests.gateway.running import (
    Addresses,
    Process,
    call,
    fetch,
    launch_gateway,
    raw_request,
    start_gateway,
    stop_gateway,
    tensors,
    wait_ended,
    write_repository,
)
from tests.ports import choose_free_ports
from tests.tritons import Tritons

pytestmark = [pytest.mark.integration, pytest.mark.long]


async def test_clients_that_leave_are_never_felt_by_triton(gateway: Addresses, direct: Addresses) -> None:
    """A cancel that reached Triton 2.51 could crash it (server#7368)."""
    plus = raw_request("plus", name="x", shape=(1, 4), raw=bytes(16)).SerializeToString()
    pixels = raw_request("fashion", shape=(8, 1, 28, 28)).SerializeToString()

    async def failures() -> int:
        async with grpcaio.InferenceServerClient(direct.grpc) as client:
            found = (await client.get_inference_statistics("plus")).model_stats[0].inference_stats
            return int(found.fail.count)

    before = await failures()
    channel: Any
    async with grpc.aio.insecure_channel(gateway.grpc) as channel:
        for turn in range(25):
            calls = [channel.unary_unary(f"/{SERVICE}/ModelInfer")(m, timeout=0.001 * turn) for m in (plus, pixels) * 8]
            stream = channel.stream_stream(f"/{SERVICE}/ModelStreamInfer")()
            for _ in range(turn):
                await stream.write(plus)
                await stream.write(pixels)
            stream.cancel()
            for call_ in calls[::2]:
                call_.cancel()
            await asyncio.gather(*calls, return_exceptions=True)
        for message in (plus, pixels):
            assert await channel.unary_unary(f"/{SERVICE}/ModelInfer")(message, timeout=20)
    assert await failures() == before, "Triton counts a cancelled request as failed"


class Load:
    """Eight threads that ask over one channel of grpcio until told to end; counts the ends.

    Like every channel without a retry policy, it repeats only what it has not written, or GOAWAY says was not served.
    """

    def __init__(self, target: str) -> None:
        options = [
            ("grpc.lb_policy_name", "round_robin"),
            ("grpc.initial_reconnect_backoff_ms", 100),
            ("grpc.max_reconnect_backoff_ms", 200),
        ]
        self.ends: list[str] = []
        self._channel: Any = grpc.insecure_channel(target, options)
        self._is_over = threading.Event()
        self._threads = [threading.Thread(target=self._ask) for _ in range(8)]

    def _ask(self) -> None:
        message = raw_request("fashion").SerializeToString()
        infer = self._channel.unary_unary(f"/{SERVICE}/ModelInfer")
        while not self._is_over.is_set():
            try:
                infer(message, timeout=20)
                self.ends.append("ok")
            except grpc.RpcError as exc:
                error: Any = exc
                self.ends.append(f"{error.code().name}: {error.details()}")

    def wait_for(self, more: int) -> None:
        until = len(self.ends) + more
        while len(self.ends) < until:
            time.sleep(0.01)

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._is_over.set()
        for thread in self._threads:
            thread.join()
        self._channel.close()


def answered(process: Process) -> bool:
    """Return whether a gateway has answered a request."""
    with urllib.request.urlopen(f"http://{process.addresses.metrics}/metrics", timeout=20) as page:
        return 'slim_gateway_requests_total{model="fashion",outcome="ok"' in page.read().decode()


@pytest.mark.parametrize("workers", [1, 2])
def test_gateways_that_are_restarted_in_turn_lose_no_request(
    servers: list[EmbeddedServer], tmp_path: Path, workers: int
) -> None:
    running = [start_gateway(tmp_path, servers, workers=workers) for _ in range(2)]
    with Load("ipv4:" + ",".join(process.addresses.grpc for process in running)) as load:
        for turn in (0, 1, 0):
            load.wait_for(300)
            old = running[turn]
            assert stop_gateway(old) == 0, old.lines
            # It ended because all was answered, not because ``drain_s`` was over.
            assert any("the gateway has ended" in line for line in old.lines), old.lines
            assert not any("not answered after drain_s" in line for line in old.lines), old.lines
            running[turn] = launch_gateway(old.addresses, old.path)
            while not answered(running[turn]):
                time.sleep(0.05)
        load.wait_for(300)
    for process in running:
        assert stop_gateway(process) == 0, process.lines
    assert len(load.ends) > 1200
    assert set(load.ends) == {"ok"}


class NewConnections(Load):
    """The same over HTTP, with a connection for each request."""

    def __init__(self, addresses: Addresses) -> None:
        super().__init__("ipv4:" + addresses.grpc)
        self._addresses = addresses

    def _ask(self) -> None:
        tensor = {"name": "pixels", "shape": [1, 1, 28, 28], "datatype": "FP32", "data": [0.0] * 784}
        body = json.dumps({"inputs": [tensor]}).encode()
        while not self._is_over.is_set():
            try:
                status, _, _ = fetch(self._addresses, "/v2/models/fashion/infer", body)
                self.ends.append("ok" if status == 200 else str(status))
            except OSError as exc:
                self.ends.append(repr(exc))


@pytest.mark.parametrize(("workers", "has_peers"), [(1, False), (2, False), (2, True)])
def test_a_gateway_that_is_replaced_loses_no_request(
    servers: list[EmbeddedServer], tmp_path: Path, workers: int, has_peers: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    listen = f"127.0.0.1:{choose_free_ports(2)[0]}"  # and the port above, for the other worker
    peers = PeerSettings(listen=listen, addresses=(listen,), name="gateway") if has_peers else None
    with tempfile.TemporaryDirectory() as directory:  # a short name: that of a Unix socket is bounded
        monkeypatch.setenv("XDG_RUNTIME_DIR", directory)
        process = start_gateway(tmp_path, servers, workers=workers, peers=peers)
        second = subprocess.run(
            [sys.executable, "-c", "from orchestrator.cli import main; main()", "gateway", "--fleet", process.path],
            capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip
        assert "can't listen on" in second.stderr, "without --replace the address is in use"
        with Load("ipv4:" + process.addresses.grpc) as load, NewConnections(process.addresses) as connecting:
            for _ in range(2):
                load.wait_for(300)
                connecting.wait_for(100)
                old, process = process, launch_gateway(process.addresses, process.path, "--replace")
                assert wait_ended(old) == 0, old.lines
                assert any("another gateway has taken over" in line for line in old.lines), old.lines
            load.wait_for(300)
            connecting.wait_for(100)
        assert stop_gateway(process) == 0, process.lines
        assert not list(Path(directory).rglob("*.sock*")), "nothing is left behind"
    assert set(load.ends) == {"ok"}
    assert set(connecting.ends) == {"ok"}


HANGING_CONFIG = """
backend: "python"
max_batch_size: 0
input { name: "x" data_type: TYPE_FP32 dims: [1, 4] }
output { name: "x" data_type: TYPE_FP32 dims: [1, 4] }
"""
HANGING_MODEL = """
import os, time
import triton_python_backend_utils as pb

class TritonPythonModel:
    def initialize(self, arguments):
        self.mark = os.path.join(arguments["model_repository"], "hangs")

    def execute(self, requests):
        while os.path.exists(self.mark):
            time.sleep(0.01)
        return [pb.InferenceResponse([pb.get_input_tensor_by_name(each, "x")]) for each in requests]
"""


def test_a_model_that_hangs_is_refused_by_name_and_costs_others_nothing(tmp_path: Path, tritons: Tritons) -> None:
    repository = tmp_path / "repository"
    (repository / "hanging" / "1").mkdir(parents=True)
    write_repository(repository)
    (repository / "hanging" / "config.pbtxt").write_text(HANGING_CONFIG)
    (repository / "hanging" / "1" / "model.py").write_text(HANGING_MODEL)
    mark = repository / "hanging" / "hangs"
    message = raw_request("hanging", name="x", shape=(1, 4)).SerializeToString()
    other = raw_request("fashion_w025", shape=(1, 1, 28, 28)).SerializeToString()
    options = EmbeddedOptions(models=("hanging", "fashion_w025"), exit_timeout_s=2)
    with tritons.running(repository, options) as server:
        models = [{"name": "hanging", "timeout_s": 1, "max_calls": 4}]
        process = start_gateway(tmp_path, [server], pass_on_models=models)

        def ask(message: bytes) -> tuple[str, bytes]:
            return call(process.addresses.grpc, "ModelInfer", message)

        assert ask(message)[0] == "OK"
        mark.touch()
        with ThreadPoolExecutor(8) as pool:
            ends = Counter(status for status, _ in pool.map(ask, [message] * 8))
        assert ends == {"DEADLINE_EXCEEDED": 4, "RESOURCE_EXHAUSTED": 4}
        status, reason = ask(message)
        assert status == "RESOURCE_EXHAUSTED"
        assert reason.startswith(b"model 'hanging' has 4 calls under way, ")
        assert {ask(other)[0] for _ in range(20)} == {"OK"}
        mark.unlink()
        while (end := ask(message))[0] == "RESOURCE_EXHAUSTED":
            time.sleep(0.05)
        assert end[0] == "OK"
        assert stop_gateway(process) == 0


def test_a_killed_server_costs_other_models_no_new_request(tmp_path: Path, tritons: Tritons) -> None:
    repository = tmp_path / "repository"
    repository.mkdir()
    write_repository(repository)
    models = ("plus", "fashion_w025")
    options = EmbeddedOptions(models=models, exit_timeout_s=2)
    with tritons.running(repository, options) as killed, tritons.running(repository, options) as other:
        process = start_gateway(tmp_path, [killed, other])
        with grpcclient.InferenceServerClient(process.addresses.grpc) as client:
            inputs = tensors(grpcclient, x=np.zeros((1, 4), np.float32))
            for _ in range(10):
                client.infer("plus", inputs)
            os.kill(killed.pid, signal.SIGKILL)
            time.sleep(0.2)  # a request under way may be lost with it; later ones may not
            for _ in range(40):
                assert client.infer("plus", inputs).as_numpy("y")[0, 0] == 1
            assert client.is_server_ready()
        assert stop_gateway(process) == 0
