"""A Triton that takes a stub for dead while it loads a model, because the stub got no processor: no model is lost.

Nor is one where Triton waits for a stub that never ends.
"""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest
import tritonclient.grpc as grpcclient

from orchestrator.embedded.server import EmbeddedOptions, EmbeddedServer
from tests.embedded.slow_models import write_slow_model
from tests.ports import with_ports

pytestmark = pytest.mark.integration


@pytest.mark.parametrize("models", [None, ("slow",)], ids=["whole repository", "named"])
async def test_a_stub_that_stalls_while_its_model_loads_costs_no_model(
    models: tuple[str, ...] | None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = write_slow_model(tmp_path, "slow", warms_up=True)
    (folder / "go").touch()
    (folder / "holds").touch()
    server = EmbeddedServer(tmp_path, with_ports(EmbeddedOptions(models=models)))
    starting = asyncio.create_task(server.start())
    try:
        while not (folder / "waits for go on").exists():
            assert not starting.done()
            await asyncio.sleep(0.01)
        for pid in server.stub_pids():
            os.kill(pid, signal.SIGSTOP)
        (folder / "go on").touch()
        await starting
        with grpcclient.InferenceServerClient(server.grpc_address) as client:
            assert client.is_model_ready("slow")
    finally:
        await server.stop()
    # Triton kills the stub and goes on without the model, or exits, or crashes: it is a race inside of it.
    assert "it is loaded once more" in caplog.text or "it is started anew" in caplog.text


async def test_a_stub_that_triton_waits_for_in_vain_is_ended_and_its_model_can_be_loaded_again(tmp_path: Path) -> None:
    folder = write_slow_model(tmp_path, "slow")
    (folder / "go").touch()
    (folder / "stays").touch()
    async with EmbeddedServer(tmp_path, with_ports(EmbeddedOptions(models=("slow",)))) as server:
        with grpcclient.InferenceServerClient(server.grpc_address) as client:
            (stub,) = server.stub_pids()
            client.unload_model("slow")
            async with asyncio.timeout(120):
                while server.stub_pids():
                    await asyncio.sleep(0.1)
            assert f"ended stub {stub}, as tritonserver had waited for its end" in server.log_path.read_text()
            client.load_model("slow")
            assert client.is_model_ready("slow")
            (folder / "go away").touch()
