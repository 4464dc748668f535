"""What TritonControl is built on, and what it promises beyond the contract, on the real tritonserver."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytest_asyncio

from orchestrator.embedded.server import EmbeddedOptions, EmbeddedServer
from orchestrator.errors import (
    ConfigError,
    DeadlineError,
    PermanentError,
    ServerUnavailableError,
    SlimError,
    TransientError,
)
from orchestrator.planner.host import Batching, LoadedModel, ModelStatus
from orchestrator.snapshot import ModelName
from orchestrator.triton.client import TritonClient
from orchestrator.triton.control import TritonControl, check_control
from orchestrator.triton.protocol_key import read_protocol_key
from orchestrator.triton.repository import build_override
from tests.triton import onnx_models
from tests.triton.calls import read_statistics
from tests.tritons import Tritons

pytestmark = pytest.mark.integration
SHIPPED = Path(__file__).parents[2] / "model_repository"
W025 = ModelName("fashion_w025")
RESTRICTED = "--grpc-restricted-protocol=model-repository,model-config,statistics:slim=secret"


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    shutil.copytree(SHIPPED, tmp_path / "repository")
    return tmp_path / "repository"


@pytest.fixture
def server(repository: Path, options: EmbeddedOptions, tritons: Tritons) -> Iterator[EmbeddedServer]:
    """A server that has loaded one model from its file, by itself."""
    with tritons.running(repository, replace(options, models=(W025,))) as running:
        yield running


@pytest_asyncio.fixture
async def control(server: EmbeddedServer) -> AsyncIterator[TritonControl]:
    opened = TritonControl(server.grpc_address, server.metrics_url, server.repository)
    yield opened
    await opened.close()


async def look(control: TritonControl) -> LoadedModel:
    return (await control.loaded_models())[0]


async def apply(control: TritonControl, instances: int, *, delay_us: int = 0, nonce: str = "") -> LoadedModel:
    await control.apply(W025, instances=instances, batching=Batching((), delay_us), nonce=nonce)
    return await look(control)


async def send(control: TritonControl, count: int = 1) -> list[str]:
    """Send requests one after another and return what those that failed said."""
    problems = []
    for _ in range(count):
        try:
            await control.client.infer(W025, {"pixels": np.zeros((1, 1, 28, 28), np.float32)}, ["logits"])
        except SlimError as exc:
            problems.append(str(exc))
    return problems


def edit(repository: Path, old: str, new: str) -> None:
    path = repository / W025 / "config.pbtxt"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


async def test_the_first_override_of_what_the_server_loaded_itself_is_in_place(
    server: EmbeddedServer, control: TritonControl
) -> None:
    own = set(server.stub_pids())
    assert await look(control) == LoadedModel(
        W025, ModelStatus.READY, "", 1, Batching(), "", is_canonical=True, is_python_based=True
    )
    await apply(control, 2)
    both = set(server.stub_pids())
    assert own < both, "the server's own stub has stayed"
    await apply(control, 3)
    assert both < set(server.stub_pids()), "canonical after canonical is in place too"


async def test_a_smaller_count_takes_the_oldest_away(server: EmbeddedServer, control: TritonControl) -> None:
    (oldest,) = server.stub_pids()
    await apply(control, 3)
    newer = set(server.stub_pids()) - {oldest}
    await apply(control, 2)
    assert set(server.stub_pids()) == newer


async def test_a_dead_stub_is_kept_in_place_and_repaired_by_a_nonce(
    server: EmbeddedServer, control: TritonControl
) -> None:
    before = set(server.stub_pids())
    await apply(control, 2)
    (newest,) = set(server.stub_pids()) - before
    region = Path("/dev/shm", Path(f"/proc/{newest}/cmdline").read_text().split("\0")[2])
    os.kill(newest, signal.SIGKILL)
    loaded = await apply(control, 3)
    assert (loaded.status, loaded.instances) == (ModelStatus.READY, 3)
    assert len(server.stub_pids()) == 2, "it is counted as an instance and isn't there"
    assert any("is not healthy" in problem for problem in await send(control, 30))
    async with asyncio.timeout(5):  # they are counted a moment after the answer
        while not (await control.counters())[W025].failures:
            await asyncio.sleep(0.02)
    await apply(control, 1)
    assert (await look(control)).status is ModelStatus.READY
    loaded = await apply(control, 2, nonce="repair")
    assert (loaded.nonce, loaded.is_canonical) == ("repair", True)
    assert await send(control, 10) == []
    async with asyncio.timeout(10):  # Triton leaves it, and the guardian removes it
        while region.exists():
            await asyncio.sleep(0.1)


async def test_a_file_that_has_changed_is_drift_until_it_is_applied(
    server: EmbeddedServer, control: TritonControl, repository: Path
) -> None:
    before = set(server.stub_pids())
    edit(repository, '"0.9', '"0.1')
    assert (await look(control)).is_canonical is False
    assert (await apply(control, 1)).is_canonical is True
    assert not set(server.stub_pids()) <= before, "a full reload"


async def test_a_repair_loads_no_other_weights_than_the_digest_names(
    server: EmbeddedServer, control: TritonControl, repository: Path
) -> None:
    shutil.copy(repository / "fashion_w050/1/model.onnx", repository / "fashion_w025/1/model.onnx")
    for instances in (1, 2):
        with pytest.raises(ConfigError, match=r"fashion_w025 is not loaded: .*model\.onnx has sha256"):
            await control.apply(W025, instances=instances, batching=Batching(), nonce="repair")
    found = (await control.loaded_models())[0]
    assert (found.status, found.nonce, found.instances) == (ModelStatus.READY, "", 1), "what it has goes on"
    shutil.copy(SHIPPED / "fashion_w025/1/model.onnx", repository / "fashion_w025/1/model.onnx")
    await control.apply(W025, instances=1, batching=Batching(), nonce="repair")
    assert (await control.loaded_models())[0].nonce == "repair"


async def test_weights_that_change_while_they_are_loaded_are_unloaded_again(
    control: TritonControl, repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = control.client.load_model

    async def swap_and_load(name: str, *, config: dict[str, Any]) -> None:
        shutil.copy(repository / "fashion_w050/1/model.onnx", repository / "fashion_w025/1/model.onnx")
        await load(name, config=config)

    monkeypatch.setattr(control.client, "load_model", swap_and_load)
    with pytest.raises(PermanentError, match="is unloaded, its weights changed while it was loaded"):
        await control.apply(W025, instances=1, batching=Batching(), nonce="repair")
    assert (await control.loaded_models())[0].status is ModelStatus.ABSENT


@pytest.mark.parametrize("change", ["parameter", "no batching"])
async def test_a_config_from_elsewhere_is_drift(control: TritonControl, change: str) -> None:
    config = build_override(control.repository.entries()[0], instances=1, batching=Batching(), nonce="")
    if change == "parameter":
        config["parameters"]["someone"] = {"string_value": "else"}
    else:
        del config["dynamic_batching"]
    await control.client.load_model(W025, config=config)
    assert (await look(control)).is_canonical is False
    assert (await apply(control, 1)).is_canonical is True


async def test_a_config_that_triton_can_not_read_points_at_its_log(
    server: EmbeddedServer, control: TritonControl, repository: Path
) -> None:
    edit(repository, "dynamic_batching {", "dynamic_batching { priority_levels: 2 default_priority_level: 5")
    with pytest.raises(TransientError, match=r"failed to poll .*; the reason is in Triton's log"):
        await apply(control, 1)
    assert "Poll failed" in server.log_path.read_text()
    assert await send(control) == []


async def test_a_load_whose_caller_has_gone_goes_on(server: EmbeddedServer, control: TritonControl) -> None:
    (own,) = server.stub_pids()
    call = asyncio.create_task(apply(control, 2, nonce="left"))
    while server.stub_pids() == (own,):  # until Triton has begun, which takes an instance or two a while
        await asyncio.sleep(0.001)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    while (await look(control)).nonce != "left":
        await asyncio.sleep(0.05)
    assert server.is_running
    assert await send(control) == []


async def test_an_unload_that_takes_too_long_is_reported_and_ends_by_itself(server: EmbeddedServer) -> None:
    control = TritonControl(server.grpc_address, server.metrics_url, server.repository, unload_timeout_s=0)
    with pytest.raises(DeadlineError, match="is still UNLOADING 0 s after its unload"):
        await control.unload(W025)
    assert (await look(control)).status is ModelStatus.UNLOADING
    async with asyncio.timeout(15):
        while (await look(control)).status is not ModelStatus.ABSENT:
            await asyncio.sleep(0.05)
    assert server.stub_pids() == ()
    await control.close()


async def test_warm_up_counts_for_every_new_instance(control: TritonControl, repository: Path) -> None:
    config = control.repository.entries()[0].config
    requests = sum(w["batch_size"] * w.get("count", 1) for w in config.get("model_warmup", ()))
    assert (await control.counters())[W025].requests == requests
    await apply(control, 3)
    assert (await control.counters())[W025].requests == 3 * requests
    await apply(control, 2)
    assert (await control.counters())[W025].requests == 3 * requests
    await apply(control, 1, delay_us=100)
    counters = (await control.counters())[W025]
    assert counters.requests == 4 * requests
    assert counters.executions == 4 * sum(w.get("count", 1) for w in config.get("model_warmup", ()))


async def test_a_server_that_can_be_controlled_passes_and_is_left_as_it_was(control: TritonControl) -> None:
    index = await control.client.index()
    await check_control(control)
    assert await control.client.index() == index


async def test_another_repository_than_triton_serves_is_found_out(server: EmbeddedServer, tmp_path: Path) -> None:
    model = onnx_models.plus_one()
    parameters = {"slim.family": "toy", "slim.width": "50", "slim.accuracy": "0.5"}
    config = onnx_models.render_config(model, parameters=parameters)
    onnx_models.write_model(tmp_path / "other", "toy_w050", model, config)
    control = TritonControl(server.grpc_address, server.metrics_url, tmp_path / "other")
    with pytest.raises(ConfigError, match=r"knows no model toy_w050 of .*other; set the server's 'repository'"):
        await check_control(control)
    await control.close()


@pytest.mark.parametrize("mode", ["none", "poll"])
async def test_a_server_that_is_not_in_explicit_mode_is_named(
    repository: Path, options: EmbeddedOptions, tritons: Tritons, mode: str
) -> None:
    options = replace(options, models=(), extra_flags=(f"--model-control-mode={mode}",))
    with tritons.running(repository, options) as server:
        control = TritonControl(server.grpc_address, server.metrics_url, repository)
        with pytest.raises(ConfigError, match=r"start it with --model-control-mode=explicit$"):
            await check_control(control)
        with pytest.raises(PermanentError, match="not allowed"):
            await control.unload(W025)
        await control.close()


async def test_restricted_protocols_open_with_the_right_key_only(
    repository: Path, options: EmbeddedOptions, tritons: Tritons, tmp_path: Path
) -> None:
    options = replace(options, models=(W025,), extra_flags=(RESTRICTED,))
    with tritons.running(repository, options) as server:
        for key, problem in (
            (None, "no key was given"),
            (("slam", "secret"), "the key given is 'slam'"),
            (("slim", "other"), "the value given for 'slim' is not Triton's"),
        ):
            control = TritonControl(server.grpc_address, server.metrics_url, repository, protocol_key=key)
            with pytest.raises(ConfigError) as caught:
                await check_control(control)
            assert f"to the key 'slim', and {problem}; set the server's protocol_key_file" in str(caught.value)
            assert "secret" not in str(caught.value)
            with pytest.raises(PermanentError, match="restricted"):
                await control.loaded_models()
            await control.close()
        control = TritonControl(server.grpc_address, server.metrics_url, repository, protocol_key=("slim", "secret"))
        await check_control(control)
        assert (await apply(control, 2)).instances == 2
        assert (await read_statistics(control.client, W025)).inference_count >= 0
        assert await send(control) == []
        key_file = tmp_path / "key"
        key_file.write_text("slim=secret\n")
        router_side = TritonClient(server.grpc_address, timeout_s=5, protocol_key=read_protocol_key(key_file))
        assert [model.name for model in await router_side.served_models()] == [W025]
        await router_side.close()
        await control.unload(W025)
        await control.close()


async def test_a_server_that_is_not_there_may_be_starting() -> None:
    control = TritonControl("127.0.0.1:9", "http://127.0.0.1:9/metrics", SHIPPED, timeout_s=1)
    with pytest.raises(ServerUnavailableError, match=r"127\.0\.0\.1:9"):
        await check_control(control)
    await control.close()
