"""A decoupled model: the generate extension answers what Triton's own HTTP endpoint answers, and streams end none."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Iterator
from typing import Any

import grpc
import pytest

from orchestrator.embedded.server import EmbeddedOptions
from orchestrator.gateway.protocol.messages import pb
from orchestrator.triton.messages import SERVICE
from tests.gateway.running import ROOT, Addresses, fetch, raw_request, start_gateway, stop_gateway
from tests.triton import onnx_models
from tests.tritons import Tritons

pytestmark = pytest.mark.integration

CONFIG = """
backend: "python"
input [ { name: "script" data_type: TYPE_STRING dims: [1] } ]
output [ { name: "said" data_type: TYPE_STRING dims: [1] } ]
model_transaction_policy { decoupled: true }
instance_group [ { kind: KIND_CPU count: 1 } ]
"""
MODEL = """
import numpy as np
import triton_python_backend_utils as pb

class TritonPythonModel:
    def execute(self, requests):
        for request in requests:
            sender = request.get_response_sender()
            for number, step in enumerate(pb.get_input_tensor_by_name(request, "script").as_numpy()[0].decode()):
                if step == "r":
                    said = pb.Tensor("said", np.array([str(number).encode()], dtype=object))
                    sender.send(pb.InferenceResponse([said]))
                else:
                    sender.send(pb.InferenceResponse(error=pb.TritonError("broke off")))
            sender.send(flags=pb.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
"""
SCRIPTS = ["r", "", "e", "rrr", "rer", "er", "ee"]


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory, tritons: Tritons) -> Iterator[tuple[Addresses, Addresses]]:
    """Return where a gateway and the Triton behind it listen."""
    repository = tmp_path_factory.mktemp("repository")
    shutil.copytree(ROOT / "model_repository" / "fashion_w025", repository / "fashion_w025")  # a gateway has a family
    onnx_models.write_model(repository, "plus", onnx_models.plus_one())
    (repository / "talk" / "1").mkdir(parents=True)
    (repository / "talk" / "config.pbtxt").write_text(CONFIG)
    (repository / "talk" / "1" / "model.py").write_text(MODEL)
    with tritons.running(repository, EmbeddedOptions(exit_timeout_s=2)) as server:
        process = start_gateway(tmp_path_factory.mktemp("fleet"), [server])
        yield process.addresses, Addresses(server.grpc_address, server.http_address)
        assert stop_gateway(process) == 0, process.lines


def generate(both: tuple[Addresses, Addresses], method: str, content: object) -> list[tuple[int, str, bytes]]:
    """Return status, content type and body from the gateway and from Triton."""
    body = json.dumps(content).encode()
    answers = [fetch(addresses, f"/v2/models/talk/{method}", body) for addresses in both]
    return [(status, headers["Content-Type"], text) for status, headers, text in answers]


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_stream_is_the_same_events(both: tuple[Addresses, Addresses], script: str) -> None:
    ours, theirs = generate(both, "generate_stream", {"script": script, "id": "7"})
    assert ours == theirs
    assert ours[2].count(b"data: ") == len(script)


@pytest.mark.parametrize("script", SCRIPTS)
def test_one_response_is_given_and_nothing_else_is(both: tuple[Addresses, Addresses], script: str) -> None:
    ours, theirs = generate(both, "generate", {"script": script, "id": "7"})
    assert ours[1:] == theirs[1:]
    # Where there isn't one response, Triton has begun its answer with the status of the first.
    assert ours[0] == (theirs[0] if len(script) == 1 else 500)


@pytest.mark.parametrize("content", [{}, {"script": ["r", "r"]}, {"script": "r", "more": None}])
@pytest.mark.parametrize("method", ["generate", "generate_stream"])
def test_what_is_refused_before_it_runs_is_no_event(
    both: tuple[Addresses, Addresses], method: str, content: object
) -> None:
    ours, theirs = generate(both, method, content)
    assert ours == theirs
    assert ours[0] == 400


@pytest.mark.parametrize("other", ["another model", "a version that is not there"])
def test_a_stream_of_a_decoupled_model_and_another_leaves_triton_alive(
    both: tuple[Addresses, Addresses], other: str
) -> None:
    """At Triton 2.51 itself it ends the server, after some hundred answers."""
    gateway, _ = both
    talk, missing = (pb.ModelInferRequest(model_name="talk", model_version=version) for version in ("", "2"))
    for request in (talk, missing):
        script = request.inputs.add(name="script", datatype="BYTES", shape=[1])
        script.contents.bytes_contents.append(b"r" * 20)
    plus = raw_request("plus", name="x", shape=(1, 4), raw=bytes(16))
    second = {"another model": plus, "a version that is not there": missing}[other]
    messages = [request.SerializeToString() for request in (talk, second)] * 100
    channel: Any
    with grpc.insecure_channel(gateway.grpc) as channel:
        method = channel.stream_stream(f"/{SERVICE}/ModelStreamInfer")
        calls = [method(iter(messages), timeout=60) for _ in range(4)]
        answers = [pb.ModelStreamInferResponse.FromString(message) for call in calls for message in call]
    found = Counter(answer.error_message or answer.infer_response.model_name for answer in answers)
    assert found.pop("talk") >= 400 * 20  # Triton may add an empty last one to each
    error = "Request for unknown model: 'talk' version 2 is not found"
    assert found == {"plus" if second is plus else error: 400}
