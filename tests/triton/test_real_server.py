"""The backend on the real tritonserver: answers, batching, isolation of bad requests, and model control."""

import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc as grpcclient
from tritonclient.utils import InferenceServerException

from orchestrator.config import ServerSettings
from orchestrator.embedded.server import EmbeddedOptions, EmbeddedServer
from orchestrator.router import ResolvedNames
from tests.triton import onnx_models
from tests.triton.calls import at_once, index, infer, statistics
from tests.tritons import Tritons

pytestmark = pytest.mark.integration
Client = grpcclient.InferenceServerClient
X = np.zeros((1, 4), np.float32)


def lookup(client: Client, model: str, value: int) -> int:
    return int(infer(client, model, x=np.array([[value]], np.int64)).as_numpy("y").item())


def test_the_server_is_triton_with_its_models_ready(server: EmbeddedServer, client: Client) -> None:
    assert server.is_running
    assert client.get_server_metadata().version == "2.51.0"
    assert {name: state for name, (state, _) in index(client).items()} == dict.fromkeys(
        ["plus", "reloaded", "counted", "two", "text", "batched", "mixed"], "READY"
    )
    assert len(server.stub_pids()) == 7, "one stub for each instance"
    assert client.get_model_config("plus").config.parameters["intra_op_thread_count"].string_value == "1"


async def test_a_triton_that_is_called_by_its_node_tells_gateways_so(
    tmp_path: Path, tritons: Tritons, options: EmbeddedOptions
) -> None:
    onnx_models.write_model(tmp_path, "plus", onnx_models.plus_one())
    with tritons.running(tmp_path, replace(options, extra_flags=("--id=tritons-gpu-7.example.org",))) as running:
        _, _, port = running.grpc_address.rpartition(":")
        servers = [ServerSettings(name="tritons", grpc=f"tritons.svc:{port}")]
        names = ResolvedNames(resolve=lambda host: answered("127.0.0.1"), name_of=lambda ip: answered_text(""))
        await names.look_up(servers, lambda name: False)
        assert [server.name for server in names.expand(servers)] == ["tritons-gpu-7.example.org"]
        assert names.pause_s(servers, 5.0) == 5.0


async def answered(address: str) -> tuple[str, ...]:
    return (address,)


async def answered_text(text: str) -> str:
    return text


def test_an_answer_is_right_and_keeps_its_batch(client: Client) -> None:
    x = np.arange(12, dtype=np.float32).reshape(3, 4)
    np.testing.assert_array_equal(infer(client, "plus", x=x).as_numpy("y"), x + 1)


def test_two_inputs_and_only_the_outputs_asked_for(client: Client) -> None:
    a, b = np.full((2, 3), 5, np.float32), np.full((2, 3), 3, np.float32)
    both = infer(client, "two", a=a, b=b)
    assert (both.as_numpy("sum")[0, 0], both.as_numpy("difference")[0, 0]) == (8, 2)
    one = infer(client, "two", "difference", a=a, b=b)
    assert one.as_numpy("difference")[1, 2] == 2
    assert one.as_numpy("sum") is None


def test_strings_pass_through(client: Client) -> None:
    text = np.array([["a", "é\0z"], ["", "ж"]], np.object_)
    decoded = [element.decode() for element in infer(client, "text", x=text).as_numpy("y").flat]
    assert decoded == ["a", "é\0z", "", "ж"]


def test_concurrent_requests_run_as_one_batch(client: Client) -> None:
    answers = at_once([lambda value=value: lookup(client, "batched", value) for value in range(8)])
    assert answers == [value**2 for value in range(8)]
    for _ in range(500):
        if (counts := statistics(client, "batched")).inference_count == 8:  # Triton counts after it has answered
            break
        time.sleep(0.01)
    assert counts.inference_count == 8
    assert counts.execution_count < 8
    assert max(entry.batch_size for entry in counts.batch_stats) > 1


def test_a_bad_request_in_a_batch_fails_alone_and_the_model_lives_on(client: Client) -> None:
    values = [1, 99, 2, 3]
    answers = at_once([lambda value=value: lookup(client, "mixed", value) for value in values])
    assert [answer for answer in answers if isinstance(answer, int)] == [1, 4, 9]
    assert isinstance(answers[1], InferenceServerException)
    assert "onnx runtime error" in answers[1].message()
    assert "out of data bounds" in answers[1].message()
    assert statistics(client, "mixed").execution_count < len(values), "they did share a batch"
    assert lookup(client, "mixed", 4) == 16


@pytest.mark.parametrize(
    ("x", "problem"),
    [
        (np.zeros((1, 5), np.float32), "unexpected shape for input 'x'"),
        (np.zeros((1, 4), np.float64), "inference input 'x' data-type is 'FP64', but model 'plus' expects 'FP32'"),
        (np.zeros((9, 4), np.float32), "batch-size must be <= 8"),
    ],
)
def test_requests_against_the_config_are_refused(client: Client, x: np.ndarray, problem: str) -> None:
    with pytest.raises(InferenceServerException, match=problem):
        infer(client, "plus", x=x)
    assert infer(client, "plus", x=X).as_numpy("y") is not None


def test_bytes_that_are_no_text_are_the_requests_fault(client: Client) -> None:
    with pytest.raises(InferenceServerException, match="is not UTF-8 text") as caught:
        infer(client, "text", x=np.array([[b"\xff", b"a"]], np.object_))
    assert caught.value.status() == "StatusCode.INVALID_ARGUMENT"


def test_unload_and_load_through_the_control_api(client: Client) -> None:
    client.unload_model("reloaded")
    deadline_s = time.monotonic() + 20
    while index(client)["reloaded"] != ("UNAVAILABLE", "unloaded"):
        assert time.monotonic() < deadline_s
        time.sleep(0.05)
    with pytest.raises(InferenceServerException, match=r"unknown model|not ready"):
        infer(client, "reloaded", x=X)
    client.load_model("reloaded")
    assert infer(client, "reloaded", x=X).as_numpy("y")[0, 0] == 1


def test_an_instance_count_changes_in_place(server: EmbeddedServer, client: Client) -> None:
    infer(client, "counted", x=X)
    before = len(server.stub_pids())
    config = onnx_models.render_override(client.get_model_config("counted", as_json=True)["config"], count=3)
    client.load_model("counted", config=config)
    assert len(server.stub_pids()) == before + 2
    assert statistics(client, "counted").inference_count == 1, "a reload would have reset it"
    assert infer(client, "counted", x=X).as_numpy("y")[0, 0] == 1
