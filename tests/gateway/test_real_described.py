"""Families that only the fleet file knows, of several inputs and outputs, on a real Triton.

The small variant of ``plates`` doubles its numbers and the large one takes them three times; both give the text back
and count nothing. The numbers of an item are as many as its caller likes, so not all requests can share a batch.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import TensorProto, helper
from tritonclient.grpc.aio import InferenceServerClient, InferInput, InferRequestedOutput
from tritonclient.utils import InferenceServerException

from orchestrator.cli import main
from orchestrator.config import FleetSettings, GatewaySettings, RouterSettings, ServerSettings, render_fleet
from orchestrator.config.families import FamilySettings
from orchestrator.embedded.server import EmbeddedOptions, EmbeddedServer
from orchestrator.gateway.workers.fleet_updates import open_gateway
from orchestrator.router import Router
from orchestrator.snapshot import Width
from tests.ports import choose_free_ports
from tests.triton.onnx_models import build_model, plus_one, render_config, write_model
from tests.tritons import Tritons

pytestmark = pytest.mark.integration


def times(factor: float, row: list[int | str]) -> onnx.ModelProto:
    """scaled = numbers · factor and same = text."""
    texts: list[int | str] = ["batch", 1] if row[0] == "batch" else [1]
    nodes = [
        helper.make_node("Mul", ["numbers", "factor"], ["scaled"]),
        helper.make_node("Identity", ["text"], ["same"]),
    ]
    return build_model(
        nodes,
        [("numbers", TensorProto.FLOAT, row), ("text", TensorProto.STRING, texts)],
        [("scaled", TensorProto.FLOAT, row), ("same", TensorProto.STRING, texts)],
        {"factor": np.array([factor], np.float32)},
    )


def family(name: str, **models: tuple[int, float]) -> FamilySettings:
    variants = [{"model": model, "width": width, "quality": quality} for model, (width, quality) in models.items()]
    return FamilySettings.model_validate({"name": name, "variants": variants, "labels": ["none", "some"]})


@pytest.fixture(scope="module")
def server(tritons: Tritons, tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedServer]:
    repository = tmp_path_factory.mktemp("served")
    for name, factor in (("plates_s", 2.0), ("plates_l", 3.0)):
        write_model(repository, name, times(factor, ["batch", "n"]))
        alone = times(factor, [2])
        write_model(repository, f"one_{name}", alone, render_config(alone, max_batch_size=0))
    write_model(repository, "odd", plus_one())
    bad = {"slim.family": "plates", "slim.width": "half", "slim.accuracy": "0.5"}
    write_model(repository, "bad", plus_one(), render_config(plus_one(), parameters=bad))
    with tritons.running(repository, EmbeddedOptions(exit_timeout_s=2)) as running:
        yield running


@pytest.fixture
def fleet(server: EmbeddedServer) -> FleetSettings:
    grpc, http = (f"127.0.0.1:{port}" for port in choose_free_ports(2))
    return FleetSettings(
        servers=(ServerSettings(name="s", grpc=server.grpc_address),),
        router=RouterSettings(deadline_ms=10_000),
        gateway=GatewaySettings(grpc=grpc, http=http, metrics=None),
        families=(
            family("plates", plates_s=(30, 0.61), plates_l=(100, 0.7), odd=(60, 0.65), missing=(90, 0.69)),
            family("alone", one_plates_s=(30, 0.61), one_plates_l=(100, 0.7)),
        ),
    )


def items(count: int, sides: int = 3) -> dict[str, Any]:
    numbers = np.arange(count * sides, dtype=np.float32).reshape(count, sides)
    return {"numbers": numbers, "text": np.array([[f"é{n}".encode()] for n in range(count)], object)}


async def test_a_router_groups_what_can_be_grouped_and_each_gets_its_own(fleet: FleetSettings) -> None:
    async with Router.from_fleet(fleet) as router:
        assert [model.name for model in router.models("plates")] == ["plates_s", "plates_l"]
        wanted = [items(1 + n % 3, sides=2 + n % 2) for n in range(60)]
        answers = await asyncio.gather(*(router.infer(each, family="plates", width=Width(30)) for each in wanted))
        for each, answer in zip(wanted, answers, strict=True):
            assert np.array_equal(answer.outputs["scaled"], each["numbers"] * 2)
            assert np.array_equal(answer.outputs["same"], each["text"])
        assert max(answer.batch for answer in answers) > 3, "requests of equal shapes went together"
        one = await router.infer({"numbers": np.ones(5, np.float32), "text": np.array([b"x"], object)}, family="plates")
        assert one.outputs["scaled"].tolist() in ([2.0] * 5, [3.0] * 5)
        assert one.outputs["same"].tolist() == [b"x"]


async def test_models_without_a_batch_dimension_are_served_one_by_one(fleet: FleetSettings) -> None:
    async with Router.from_fleet(fleet) as router:
        item = {"numbers": np.array([1, 2], np.float32), "text": np.array([b"a"], object)}
        answers = await asyncio.gather(*(router.infer(item, family="alone", width=Width(100)) for _ in range(5)))
        assert {tuple(answer.outputs["scaled"].tolist()) for answer in answers} == {(3.0, 6.0)}
        assert {answer.batch for answer in answers} == {1}


def test_status_tells_who_is_of_no_family_where_no_controller_runs(fleet: FleetSettings, tmp_path: Path) -> None:
    path = tmp_path / "fleet.yaml"
    path.write_text(render_fleet(fleet))
    shown = CliRunner().invoke(main, ["status", "--fleet", str(path)])
    assert shown.exit_code == 0, shown.output
    text = " ".join(shown.output.split())
    assert "s controller the fleet file names none" in text
    assert "left out bad: slim.width 'half' is no whole percentage from 1 to 100; correct its config.pbtxt" in text
    assert (
        "odd: it takes x FP32 [4] and gives y FP32, with a batch dimension, while family plates takes numbers" in text
    )
    assert text.count("odd: ") == 1, "it is shown and not logged as well"
    (server,) = json.loads(CliRunner().invoke(main, ["status", "--fleet", str(path), "--json"]).output)["servers"]
    assert sorted(server["misfits"]) == ["bad", "odd"]


def tensors(inputs: dict[str, Any]) -> list[Any]:
    found = []
    for name, array in inputs.items():
        found.append(InferInput(name, array.shape, "BYTES" if array.dtype == object else "FP32"))
        found[-1].set_data_from_numpy(array)
    return found


async def test_callers_of_the_gateway_ask_for_the_outputs_that_they_want(
    fleet: FleetSettings, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "fleet.yaml"
    path.write_text(render_fleet(fleet))
    async with open_gateway(fleet, path) as gateway, InferenceServerClient(str(fleet.gateway.grpc)) as client:
        assert gateway.served == {"plates", "alone"}
        sent = items(4)
        answer = await client.infer("plates", tensors(sent), parameters={"slim_width": 100})
        assert np.array_equal(answer.as_numpy("scaled"), sent["numbers"] * 3)
        assert np.array_equal(answer.as_numpy("same"), sent["text"])
        only = await client.infer("plates", tensors(sent), outputs=[InferRequestedOutput("same")])
        assert [output.name for output in only.get_response().outputs] == ["same"]
        best = await client.infer("plates", tensors(sent), outputs=[InferRequestedOutput("scaled", class_count=1)])
        assert [text.split(b":")[1] for text in best.as_numpy("scaled").ravel()] == [b"2"] * 4
        alone = {"numbers": np.array([1, 2], np.float32), "text": np.array([b"a"], object)}
        answer = await client.infer("alone", tensors(alone), parameters={"slim_width": 30})
        assert answer.as_numpy("scaled").tolist() == [2, 4]
        assert (await client.get_model_config("alone", as_json=True))["config"].get("max_batch_size", 0) == 0
        for damaged, problem in (
            ({"numbers": sent["numbers"]}, "expected 2 inputs but got 1"),
            ({**sent, "text": sent["text"][:3]}, "have 3, 4 items"),
        ):
            with pytest.raises(InferenceServerException, match=problem):
                await client.infer("plates", tensors(damaged))
        answer = await client.infer("odd", [tensors({"x": np.ones((1, 4), np.float32)})[0]])
        assert answer.as_numpy("y").tolist() == [[2.0] * 4], "a misfit is served like any other model"
    warnings = [record.message for record in caplog.records if record.levelname == "WARNING"]
    for reason in (
        "model odd on s is of no family: it takes x FP32",
        "model bad on s is of no family: slim.width 'half'",
        "no server has model missing, which the fleet file describes as a width of plates",
    ):
        assert len([line for line in warnings if reason in line]) == 1, "it is told once"
