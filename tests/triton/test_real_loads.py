"""What the real tritonserver refuses to load, and how much of a config it honours."""

import os
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median

import numpy as np
import pytest
import tritonclient.grpc as grpcclient
from numpy.typing import NDArray
from tritonclient.utils import InferenceServerException

from orchestrator.embedded.server import EmbeddedOptions, EmbeddedServer
from tests.triton import onnx_models
from tests.triton.calls import index, infer, process_status, statistics
from tests.triton.onnx_models import render_config
from tests.tritons import Tritons

pytestmark = pytest.mark.integration
MODEL = onnx_models.plus_one()
GOOD = render_config(MODEL)
INPUT, OUTPUT = '"x" data_type: TYPE_FP32 dims: [4]', '"y" data_type: TYPE_FP32 dims: [4]'
SECOND_INPUT = 'input [{ name: "w" data_type: TYPE_FP32 dims: [4] }]'

# Name: config, and what the refusal must say.
REFUSED: dict[str, tuple[str, str]] = {
    "input_name": (GOOD.replace('"x"', '"image"'), "unexpected input 'image', the model's inputs are: x"),
    "output_name": (GOOD.replace('"y"', '"z"'), "unexpected output 'z', the model's outputs are: y"),
    "input_dtype": (
        GOOD.replace(INPUT, INPUT.replace("FP32", "FP16")),
        "expects datatype TYPE_FP16 for input 'x', model provides TYPE_FP32",
    ),
    "output_dtype": (
        GOOD.replace(OUTPUT, OUTPUT.replace("FP32", "INT64")),
        "expects datatype TYPE_INT64 for output 'y', model provides TYPE_FP32",
    ),
    "input_dims": (GOOD.replace(INPUT, INPUT.replace("[4]", "[5]")), "input 'x' has shape [-1, 4]"),
    "output_dims": (GOOD.replace(OUTPUT, OUTPUT.replace("[4]", "[-1]")), "output 'y' has shape [-1, 4]"),
    "extra_input": (GOOD + SECOND_INPUT, "configuration expects 2 inputs, model provides 1: x"),
    "no_output": (GOOD.replace("output [{ name: " + OUTPUT + "  }]", ""), "declares no output"),
    "no_file": (GOOD + 'default_model_filename: "other.onnx"', "unable to find '"),
    "threads": (
        render_config(MODEL, parameters={"intra_op_thread_count": "many"}),
        "parameter intra_op_thread_count: 'many' is not an integer",
    ),
    "mode": (render_config(MODEL, parameters={"execution_mode": "7"}), "execution_mode: expected 0"),
    "gpu": (GOOD.replace("KIND_CPU", "KIND_GPU"), "no GPUs are available"),
}
HONOURED = {"one_thread": "1", "four_threads": "4"}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, tritons: Tritons) -> Iterator[EmbeddedServer]:
    """A server that has loaded nothing yet."""
    repository = tmp_path_factory.mktemp("repository")
    for name, (config, _) in REFUSED.items():
        onnx_models.write_model(repository, name, MODEL, config)
    onnx_models.write_model(repository, "unknown_field", MODEL, GOOD + "\nnonsense: 3")
    for name, count in HONOURED.items():
        config = render_config(MODEL, parameters={"intra_op_thread_count": count})
        onnx_models.write_model(repository, name, MODEL, config)
    two = onnx_models.add_and_subtract()
    difference = onnx_models.render_io("output", "difference", onnx_models.TensorProto.FLOAT, [3])
    onnx_models.write_model(repository, "fewer_outputs", two, render_config(two).replace(difference, ""))
    vector = onnx_models.identity(onnx_models.TensorProto.FLOAT, ("batch",))
    reshaped = render_config(vector).replace("dims: [] ", "dims: [1] reshape { shape: [] }")
    onnx_models.write_model(repository, "reshaped", vector, reshaped)
    with tritons.running(repository, EmbeddedOptions(models=())) as running:
        yield running


@pytest.mark.parametrize("name", REFUSED)
def test_what_the_cpp_backend_refuses_is_refused_with_its_reason(
    server: EmbeddedServer, client: grpcclient.InferenceServerClient, name: str
) -> None:
    problem = REFUSED[name][1]
    with pytest.raises(InferenceServerException) as caught:
        client.load_model(name)
    assert problem in caught.value.message()
    state, reason = index(client)[name]
    assert state == "UNAVAILABLE"
    assert problem in reason
    assert problem in server.log_path.read_text()


def test_an_unreadable_config_is_explained_in_the_log_only(
    server: EmbeddedServer, client: grpcclient.InferenceServerClient
) -> None:
    with pytest.raises(InferenceServerException, match="failed to poll from model repository"):
        client.load_model("unknown_field")
    assert 'has no field named "nonsense"' in server.log_path.read_text()


def test_a_model_may_offer_more_outputs_than_are_declared(client: grpcclient.InferenceServerClient) -> None:
    client.load_model("fewer_outputs")
    one = np.ones((1, 3), np.float32)
    assert infer(client, "fewer_outputs", a=one, b=one).as_numpy("sum")[0, 0] == 2


def test_reshape_is_honoured(client: grpcclient.InferenceServerClient) -> None:
    client.load_model("reshaped")
    x = np.array([[3], [4]], np.float32)
    np.testing.assert_array_equal(infer(client, "reshaped", x=x).as_numpy("y"), x)


def test_intra_op_thread_count_is_honoured(server: EmbeddedServer, client: grpcclient.InferenceServerClient) -> None:
    threads = {}
    for name in HONOURED:
        known = set(server.stub_pids())
        client.load_model(name)
        (stub,) = set(server.stub_pids()) - known
        threads[name] = int(process_status(stub)["Threads"])
    assert threads["four_threads"] - threads["one_thread"] == 3


def test_cpus_and_slowdown_make_an_unlike_machine(tmp_path: Path, tritons: Tritons) -> None:
    heavy = onnx_models.heavy()
    # Long runs and a large factor, so that the fixed cost of a call, which is not slowed down, can't hide it.
    onnx_models.write_model(tmp_path, "heavy", heavy, render_config(heavy, max_batch_size=64))
    cpu = max(os.sched_getaffinity(0))
    slower = EmbeddedOptions(cpus=frozenset({cpu}), slowdown=20.0)
    with tritons.running(tmp_path, EmbeddedOptions()) as plain, tritons.running(tmp_path, slower) as slow:
        for pid in (slow.pid, *slow.stub_pids()):
            assert process_status(pid)["Cpus_allowed_list"] == str(cpu)
        assert process_status(plain.pid)["Cpus_allowed_list"] == process_status(os.getpid())["Cpus_allowed_list"]
        x = np.ones((64, 512), np.float32)
        with (
            grpcclient.InferenceServerClient(plain.grpc_address) as plain_client,
            grpcclient.InferenceServerClient(slow.grpc_address) as slow_client,
        ):
            # In turn, so that whatever else runs here slows both alike; the median, because it may hit one call hard.
            ratios = [_compute_ns(slow_client, x) / _compute_ns(plain_client, x) for _ in range(20)]
    assert 3 < median(ratios) < 40


def _compute_ns(client: grpcclient.InferenceServerClient, x: NDArray[np.float32]) -> int:
    """Return what one call took to compute, by Triton's counters, which come a moment after the answer."""
    before = statistics(client, "heavy").inference_stats.compute_infer
    infer(client, "heavy", x=x)
    while (after := statistics(client, "heavy").inference_stats.compute_infer).count == before.count:
        time.sleep(0.001)
    return int(after.ns - before.ns)
