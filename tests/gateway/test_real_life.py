"""``slimsched gateway`` before real Tritons: clients that leave, a drain, a killed server."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc as grpcclient
import tritonclient.grpc.aio as grpcaio
from tritonclient.utils import InferenceServerException

from orchestrator.embedded.server import EmbeddedOptions, EmbeddedServer
from orchestrator.triton.messages import SERVICE
from tests.gateway.running import Place, images, raw_request, start_gateway, stop_gateway, tensors, write_repository
from tests.tritons import Tritons

pytestmark = pytest.mark.integration


async def test_clients_that_leave_are_never_felt_by_triton(gateway: Place, direct: Place) -> None:
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


def test_a_terminated_gateway_answers_what_is_in_and_ends_well(servers: list[EmbeddedServer], tmp_path: Path) -> None:
    process = start_gateway(tmp_path, servers)
    outcomes: list[str] = []
    is_over = threading.Event()

    def load() -> None:
        with grpcclient.InferenceServerClient(process.place.grpc) as client:
            inputs = tensors(grpcclient, pixels=images(1))
            while not is_over.is_set():
                try:
                    client.infer("fashion", inputs)
                    outcomes.append("ok")
                except InferenceServerException as exc:
                    outcomes.append(str(exc.status()))
                    return

    threads = [threading.Thread(target=load) for _ in range(8)]
    for thread in threads:
        thread.start()
    time.sleep(1.0)
    code = stop_gateway(process)
    is_over.set()
    for thread in threads:
        thread.join()
    assert code == 0, process.lines
    # It ended because all was answered, not because ``drain_s`` was over.
    assert any("the gateway has ended" in line for line in process.lines), process.lines
    assert not any("not answered after drain_s" in line for line in process.lines), process.lines
    assert outcomes.count("ok") > 20
    assert set(outcomes) <= {"ok", "StatusCode.UNAVAILABLE"}, "refused, never broken off with anything else"


def test_a_killed_server_costs_other_models_no_new_request(tmp_path: Path, tritons: Tritons) -> None:
    repository = tmp_path / "repository"
    repository.mkdir()
    write_repository(repository)
    models = ("plus", "fashion_w025")
    options = EmbeddedOptions(models=models, exit_timeout_s=2)
    with tritons.running(repository, options) as killed, tritons.running(repository, options) as other:
        process = start_gateway(tmp_path, [killed, other])
        with grpcclient.InferenceServerClient(process.place.grpc) as client:
            inputs = tensors(grpcclient, x=np.zeros((1, 4), np.float32))
            for _ in range(10):
                client.infer("plus", inputs)
            os.kill(killed.pid, signal.SIGKILL)
            time.sleep(0.2)  # a request under way may be lost with it; later ones may not
            for _ in range(40):
                assert client.infer("plus", inputs).as_numpy("y")[0, 0] == 1
            assert client.is_server_ready()
        assert stop_gateway(process) == 0
