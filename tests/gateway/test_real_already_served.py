"""The commands of docs/tutorials/already-served.md, run as they stand there on a real Triton.

The family's small model runs in the onnxruntime backend and its large one in Triton's python backend.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.embedded.server import EmbeddedOptions, EmbeddedServer
from orchestrator.profile.document import read_profile
from tests.gateway.documented import blocks, examples, run
from tests.gateway.running import ROOT, Addresses, launch_gateway, stop_gateway
from tests.gateway.test_real_described import times
from tests.ports import choose_free_ports
from tests.triton.onnx_models import render_config, write_model
from tests.tritons import Tritons

pytestmark = pytest.mark.integration

PYTHON_CONFIG = """
backend: "python"
max_batch_size: 8
input [ { name: "numbers" data_type: TYPE_FP32 dims: [3] }, { name: "text" data_type: TYPE_STRING dims: [1] } ]
output [ { name: "scaled" data_type: TYPE_FP32 dims: [3] }, { name: "same" data_type: TYPE_STRING dims: [1] } ]
dynamic_batching { }
instance_group [ { kind: KIND_CPU count: 1 } ]
"""
PYTHON_MODEL = """
import triton_python_backend_utils as pb

class TritonPythonModel:
    def execute(self, requests):
        return [self.answer(request) for request in requests]

    def answer(self, request):
        numbers, text = (pb.get_input_tensor_by_name(request, name).as_numpy() for name in ("numbers", "text"))
        return pb.InferenceResponse([pb.Tensor("scaled", numbers * 3), pb.Tensor("same", text)])
"""
PAGE = "tutorials/already-served.md"


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    repository = tmp_path_factory.mktemp("served")
    write_model(repository, "plates_s", times(2.0, ["batch", 3]))
    large = repository / "plates_l"
    (large / "1").mkdir(parents=True)
    (large / "config.pbtxt").write_text(PYTHON_CONFIG)
    (large / "1" / "model.py").write_text(PYTHON_MODEL)
    medium = times(2.5, ["batch", 3])
    said = {"slim.family": "plates", "slim.width": "medium", "slim.accuracy": "0.7"}
    write_model(repository, "plates_m", medium, render_config(medium, parameters=said))
    return repository


@pytest.fixture(scope="module")
def server(tritons: Tritons, repository: Path) -> Iterator[EmbeddedServer]:
    with tritons.running(repository, EmbeddedOptions(exit_timeout_s=2)) as running:
        yield running


def test_every_command_of_the_page_does_what_the_page_says(
    server: EmbeddedServer, repository: Path, tmp_path: Path
) -> None:
    addresses = Addresses(*(f"127.0.0.1:{port}" for port in choose_free_ports(3)))
    places = {
        "127.0.0.1:8001": server.grpc_address,
        "127.0.0.1:8090": addresses.grpc,
        "127.0.0.1:8080": addresses.http,
        "127.0.0.1:8082": addresses.metrics,
    }
    slimsched = f"PYTHONPATH={ROOT} python -c 'from orchestrator.cli import main; main()'"
    (fleet,) = blocks(PAGE, "## Describe them", "yaml")
    for address, there in places.items():
        fleet = fleet.replace(address, there)
    (tmp_path / "fleet.yaml").write_text(fleet)
    (script,) = blocks(PAGE, "## Ask", "python")
    (tmp_path / "make.py").write_text(script)
    run("python make.py", tmp_path, {})
    infer, metadata, ask = examples(PAGE, "## Ask")
    for width, scaled in ((30, [2, 4, 6]), (100, [3, 6, 9])):
        asked = infer.command.replace("--width 100", f"--width {width}").replace("slimsched", slimsched, 1)
        said = json.loads(run(asked, tmp_path, {}))
        assert (said["width"], said["outputs"]) == (width, {"scaled": scaled, "same": ["B-AB 123"]})
    gateway = launch_gateway(addresses, tmp_path / "fleet.yaml")
    try:
        described = json.loads(run(metadata.command, tmp_path, places))
        assert [tensor["name"] for tensor in described["inputs"]] == ["numbers", "text"]
        (output,) = json.loads(run(ask.command, tmp_path, places))["outputs"]
        assert output["name"] == "scaled"
        assert output["data"] in ([2, 4, 6], [3, 6, 9])
        (alone,) = json.loads(run(ask.command.replace("models/plates", "models/plates_m"), tmp_path, places))["outputs"]
        assert alone["data"] == [2.5, 5, 7.5], "a misfit is served by its own name"
    finally:
        stop_gateway(gateway)
    (measure,) = examples(PAGE, "## Measure")
    run(measure.command.replace("slimsched", slimsched, 1), tmp_path, {})
    (profiled,) = read_profile(tmp_path / "profile.json").servers
    assert sorted((model.width, model.accuracy, model.sha256) for model in profiled.models) == [
        (30, 0.61, None),
        (100, 0.78, None),
    ]
    (tmp_path / "models").symlink_to(repository)
    for wrong in examples(PAGE, "## What may go wrong"):
        said = run(wrong.command.replace("slimsched", f"COLUMNS=400 {slimsched}", 1) + " 2>&1", tmp_path, {})
        assert " ".join(wrong.output.split()) in " ".join(said.split())
        assert said.endswith(wrong.command.split('"')[1]), "it ends with another status than 0"
    reason = wrong.output.partition("plates_m: ")[2]
    assert "".join(gateway.lines).count(reason) == 1, "it is told once in the log"
