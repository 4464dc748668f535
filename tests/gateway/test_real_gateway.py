"""``slimsched gateway`` before two real Tritons, used by clients that nobody here wrote."""

from __future__ import annotations

import asyncio
import json
import os
import queue
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc as grpcclient
import tritonclient.grpc.aio as grpcaio
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from orchestrator.config import FleetSettings, GatewaySettings, ServerSettings, render_fleet
from orchestrator.gateway.messages import pb, set_value
from orchestrator.triton.embedded import EmbeddedOptions, EmbeddedServer, choose_free_ports
from orchestrator.triton.passthrough import SERVICE
from tests.triton import onnx_models

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]
PERF_ANALYZER = Path(sys.executable).parent / "perf_analyzer"
IMAGE = np.load(ROOT / "examples" / "fashion-mnist" / "test_1000.npz")
STARTED_S = 60.0


@dataclass(frozen=True)
class Place:
    """Where a gateway or a Triton listens."""

    grpc: str
    http: str


@dataclass
class Process:
    """A gateway that runs as a process of its own."""

    place: Place
    popen: subprocess.Popen[str]
    lines: list[str]


def start_gateway(directory: Path, servers: list[EmbeddedServer]) -> Process:
    ports = choose_free_ports(3)
    addresses = [f"127.0.0.1:{port}" for port in ports]
    settings = FleetSettings(
        servers=tuple(ServerSettings(name=f"s{n}", grpc=server.grpc_address) for n, server in enumerate(servers)),
        gateway=GatewaySettings(grpc=addresses[0], http=addresses[1], metrics=addresses[2]),
    )
    path = directory / f"fleet-{ports[0]}.yaml"
    path.write_text(render_fleet(settings))
    popen = subprocess.Popen(
        [sys.executable, "-c", "from orchestrator.cli import main; main()", "gateway", "--fleet", str(path)],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
    )
    lines: list[str] = []
    is_up = threading.Event()

    def read() -> None:
        assert popen.stderr is not None
        for line in popen.stderr:
            lines.append(line)
            if "metrics on" in line:
                is_up.set()
        is_up.set()

    threading.Thread(target=read, daemon=True).start()
    assert is_up.wait(STARTED_S), lines
    assert popen.poll() is None, lines
    return Process(Place(addresses[0], addresses[1]), popen, lines)


def stop_gateway(process: Process) -> int:
    process.popen.send_signal(signal.SIGTERM)
    code = process.popen.wait(40)
    assert process.popen.stderr is not None
    process.popen.stderr.close()
    return code


def write_repository(repository: Path) -> None:
    for model in sorted((ROOT / "model_repository").glob("fashion_*")):
        shutil.copytree(model, repository / model.name)
    types = onnx_models.TensorProto
    onnx_models.write_model(repository, "plus", onnx_models.plus_one())
    onnx_models.write_model(repository, "two", onnx_models.add_and_subtract())
    for name, kind in (("text", types.STRING), ("half", types.FLOAT16), ("bool", types.BOOL), ("int64", types.INT64)):
        onnx_models.write_model(repository, name, onnx_models.identity(kind))


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[EmbeddedServer]]:
    repository = tmp_path_factory.mktemp("repository")
    write_repository(repository)
    with asyncio.Runner() as runner:
        started = [EmbeddedServer(repository, EmbeddedOptions(exit_timeout_s=2)) for _ in range(2)]
        try:
            for server in started:
                runner.run(server.__aenter__())
            yield started
        finally:
            for server in started:
                runner.run(server.stop())


@pytest.fixture(scope="module")
def gateway(servers: list[EmbeddedServer], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    process = start_gateway(tmp_path_factory.mktemp("fleet"), servers)
    yield process.place
    assert stop_gateway(process) == 0, process.lines


@pytest.fixture
def direct(servers: list[EmbeddedServer]) -> Place:
    return Place(servers[0].grpc_address, servers[0].http_address)


def images(count: int) -> np.ndarray:
    found: np.ndarray = IMAGE["images"][:count].astype(np.float32)
    return found.reshape(count, 1, 28, 28) / (255 if found.max() > 1 else 1)


def tensors(module: Any, **arrays: np.ndarray) -> list[Any]:
    found = []
    for name, array in arrays.items():
        tensor = module.InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype))
        tensor.set_data_from_numpy(array)
        found.append(tensor)
    return found


def raw_request(
    model: str, *, shape: tuple[int, ...] = (1, 1, 28, 28), name: str = "pixels", datatype: str = "FP32", **more: Any
) -> Any:
    request = pb.ModelInferRequest(model_name=model, model_version=more.pop("version", ""), id=more.pop("id", ""))
    request.inputs.add(name=name, datatype=datatype, shape=shape)
    size = 4 * max(0, int(np.prod(shape)))
    request.raw_input_contents.append(more.pop("raw", bytes(size) if size < 10**6 else b""))
    for output, classes in more.pop("outputs", {}).items():
        wanted = request.outputs.add(name=output)
        if classes is not None:
            wanted.parameters["classification"].int64_param = classes
    for key, value in more.items():
        set_value(request.parameters, key, value)
    return request


def call(address: str, method: str, message: bytes) -> tuple[str, bytes]:
    """Return status and answer, or status and message, of a call of raw bytes."""
    channel: Any
    with grpc.insecure_channel(address) as channel:
        try:
            return "OK", channel.unary_unary(f"/{SERVICE}/{method}")(message, timeout=20)
        except grpc.RpcError as exc:
            error: Any = exc
            return error.code().name, error.details().encode()


def fetch(place: Place, path: str, body: bytes | None = None, **headers: str) -> tuple[int, dict[str, str], bytes]:
    names = {key.replace("_", "-"): value for key, value in headers.items()}
    request = urllib.request.Request(f"http://{place.http}{path}", data=body, headers=names)
    try:
        with urllib.request.urlopen(request, timeout=20) as response:
            return response.status, dict(response.headers), response.read()
    except urllib.error.HTTPError as exc:
        with exc:
            return exc.code, dict(exc.headers), exc.read()


# --- the same as from Triton ---


@pytest.mark.parametrize("width", [25, 100])
def test_a_pinned_width_answers_what_the_width_itself_does(gateway: Place, direct: Place, width: int) -> None:
    for outputs in ({}, {"logits": None}, {"logits": 3}, {"logits": 99}):
        name = f"fashion_w{width:03d}"
        pixels = {"shape": (5, 1, 28, 28), "raw": images(5).tobytes(), "outputs": outputs}
        _, answer = call(
            gateway.grpc, "ModelInfer", raw_request("fashion", slim_width=width, **pixels).SerializeToString()
        )
        _, expected = call(direct.grpc, "ModelInfer", raw_request(name, **pixels).SerializeToString())
        ours, theirs = (pb.ModelInferResponse.FromString(message) for message in (answer, expected))
        assert ours.outputs == theirs.outputs
        if outputs in ({}, {"logits": None}):
            found, wanted = (np.frombuffer(m.raw_output_contents[0], np.float32) for m in (ours, theirs))
            np.testing.assert_allclose(found, wanted, atol=1e-4)
        else:
            assert ours.raw_output_contents == theirs.raw_output_contents
        assert ours.parameters["slim_width"].int64_param == width


BAD = [
    raw_request("M", name="foo"),
    raw_request("M", shape=(1, 1, 28, 27)),
    raw_request("M", shape=(1, 28, 28)),
    raw_request("M", shape=(65, 1, 28, 28)),
    raw_request("M", shape=(0, 1, 28, 28)),
    raw_request("M", shape=(-1, 1, 28, 28), raw=b""),
    raw_request("M", shape=(2**50, 1, 28, 28), raw=b""),
    raw_request("M", datatype="FP64"),
    raw_request("M", datatype="FOO"),
    raw_request("M", raw=b"1234"),
    raw_request("M", outputs={"foo": None}),
    raw_request("M", outputs={"logits": 0}),
    raw_request("M", outputs={"logits": -1}),
    raw_request("M", version="9"),
    raw_request("M", version="x"),
    raw_request("nope"),
    raw_request(""),
    raw_request("M", triton_foo=1),
    raw_request("M", priority="x"),
    raw_request("M", priority=-1),
    raw_request("M", timeout="x"),
]


@pytest.mark.parametrize("number", range(len(BAD)))
def test_bad_requests_get_the_status_that_triton_gives(gateway: Place, direct: Place, number: int) -> None:
    codes = []
    for place, model in ((gateway, "fashion"), (direct, "fashion_w025")):
        request = pb.ModelInferRequest()
        request.CopyFrom(BAD[number])
        if request.model_name == "M":
            request.model_name = model
        codes.append(call(place.grpc, "ModelInfer", request.SerializeToString()))
    (ours, our_detail), (theirs, their_detail) = codes
    assert ours == theirs != "OK", (our_detail, their_detail)


@pytest.mark.parametrize("message", [b"\xff\xff\xff", b"\x0a\x02\xff\xfe", b"\x0a\x07fashion\x2a\x01\xff"])
def test_bytes_that_are_no_message_get_the_status_that_triton_gives(
    gateway: Place, direct: Place, message: bytes
) -> None:
    assert call(gateway.grpc, "ModelInfer", message) == call(direct.grpc, "ModelInfer", message)


FOREIGN = {
    "plus": ("FP32", (2, 4), np.arange(8, dtype=np.float32).tobytes()),
    "half": ("FP16", (1, 2), b"\x00\x7e\x01\xfc"),  # a NaN and an infinity with their very bits
    "bool": ("BOOL", (1, 2), b"\x01\x00"),
    "int64": ("INT64", (1, 2), np.array([2**62, -1]).tobytes()),
    "text": ("BYTES", (1, 2), b"\x02\0\0\0\xc3\xa9\0\0\0\0"),
}


@pytest.mark.parametrize("model", FOREIGN)
def test_other_models_answer_byte_for_byte_over_grpc(gateway: Place, direct: Place, model: str) -> None:
    datatype, shape, raw = FOREIGN[model]
    request = raw_request(model, name="x", datatype=datatype, shape=shape, raw=raw, id="7", custom="c", sequence_id=5)
    message = request.SerializeToString()
    ours, theirs = call(gateway.grpc, "ModelInfer", message), call(direct.grpc, "ModelInfer", message)
    assert ours == theirs
    assert ours[0] == "OK"
    for method, kind in (("ModelMetadata", pb.ModelMetadataRequest), ("ModelConfig", pb.ModelConfigRequest)):
        asked = kind(name=model).SerializeToString()
        status, answer = call(gateway.grpc, method, asked)
        assert (status, len(answer)) == ("OK", len(call(direct.grpc, method, asked)[1]))
    wrong = raw_request(model, name="x", datatype=datatype, shape=(1, 9), raw=raw).SerializeToString()
    assert call(gateway.grpc, "ModelInfer", wrong) == call(direct.grpc, "ModelInfer", wrong)


@pytest.mark.parametrize("model", FOREIGN)
@pytest.mark.parametrize("is_binary", [True, False])
def test_other_models_answer_byte_for_byte_over_http(
    gateway: Place, direct: Place, model: str, is_binary: bool
) -> None:
    datatype, shape, raw = FOREIGN[model]
    tensor = {"name": "x", "datatype": datatype, "shape": shape, "parameters": {"binary_data_size": len(raw)}}
    content = {"id": "7", "inputs": [tensor], "outputs": [{"name": "y", "parameters": {"binary_data": is_binary}}]}
    text = json.dumps(content).encode()
    path, length = f"/v2/models/{model}/infer", str(len(text))
    ours, theirs = (
        fetch(place, path, text + raw, Inference_Header_Content_Length=length) for place in (gateway, direct)
    )
    assert ours[0] == theirs[0]
    if theirs[0] == 200:
        assert ours[2] == theirs[2]
        assert ours[1].get("Inference-Header-Content-Length") == theirs[1].get("Inference-Header-Content-Length")
    else:
        assert (model, is_binary) == ("half", False), "only FP16 has no form in JSON"
        assert all(b"sending FP16 data via JSON is not supported" in answer[2] for answer in (ours, theirs))


def test_json_is_what_triton_writes(gateway: Place, direct: Place) -> None:
    text = {"name": "x", "shape": [1, 2], "datatype": "BYTES", "data": ["a", "é"]}
    two = [{"name": name, "shape": [1, 3], "datatype": "FP32", "data": [1, 2, 3]} for name in "ab"]
    for path, content in (
        ("/v2/models/plus", None),
        ("/v2/models/plus/generate", {"x": [1, 2, 3, 4], "id": "q"}),
        ("/v2/models/plus/generate_stream", {"x": [1, 2, 3, 4], "id": "q"}),
        ("/v2/models/plus/generate", {"x": [1, 2, 3]}),
        ("/v2/models/text/infer", {"inputs": [text]}),
        ("/v2/models/two/infer", {"inputs": two}),
        ("/v2/models/nope/infer", {"inputs": []}),
    ):
        body = None if content is None else json.dumps(content).encode()
        ours, theirs = fetch(gateway, path, body), fetch(direct, path, body)
        assert (ours[0], ours[2]) == (theirs[0], theirs[2]), path
    ours, theirs = (json.loads(fetch(place, "/v2/models/plus/config")[2]) for place in (gateway, direct))
    assert {k: v for k, v in theirs.items() if k not in ("metric_tags",)}.items() >= {
        k: v for k, v in ours.items() if k in ("name", "max_batch_size", "input", "output", "parameters")
    }.items()


# --- clients ---


def test_tritonclient_grpc_with_every_call_it_has(gateway: Place) -> None:
    with grpcclient.InferenceServerClient(gateway.grpc) as client:
        assert client.is_server_live()
        assert client.is_server_ready()
        assert client.is_model_ready("fashion")
        assert client.is_model_ready("fashion", "1")
        assert not client.is_model_ready("fashion", "2")
        assert client.is_model_ready("fashion_w050")
        assert client.get_server_metadata().name == "slim-scheduler"
        assert client.get_model_metadata("fashion").inputs[0].name == "pixels"
        assert client.get_model_config("fashion").config.max_batch_size == 64
        index = [entry.name for entry in client.get_model_repository_index().models]
        assert index == ["fashion", "bool", "half", "int64", "plus", "text", "two"]
        check_closed(client)
        assert client.get_system_shared_memory_status().regions == {}
        assert client.get_cuda_shared_memory_status().regions == {}
        client.unregister_system_shared_memory()
        client.unregister_cuda_shared_memory()
        assert client.get_trace_settings().settings == {}
        assert client.get_log_settings().settings == {}
        before = client.get_inference_statistics("fashion").model_stats[0].inference_count
        pixels = tensors(grpcclient, pixels=images(8))
        wanted = [grpcclient.InferRequestedOutput("logits", class_count=1)]
        result = client.infer("fashion", pixels, outputs=wanted, request_id="r", compression_algorithm="gzip")
        assert result.get_response().id == "r"
        assert result.as_numpy("logits").shape == (8, 1)
        answers: queue.Queue[Any] = queue.Queue()
        client.async_infer("fashion", pixels, callback=lambda result, error: answers.put(error or result))
        assert answers.get(timeout=20).as_numpy("logits").shape == (8, 10)
        client.start_stream(callback=lambda result, error: answers.put(error or result))
        for model, inputs in (("fashion", pixels), ("plus", tensors(grpcclient, x=np.zeros((1, 4), np.float32)))):
            client.async_stream_infer(model, inputs, request_id=model)
        streamed = {a.get_response().id for a in (answers.get(timeout=20), answers.get(timeout=20))}
        client.stop_stream()
        assert streamed == {"fashion", "plus"}
        after = client.get_inference_statistics("fashion").model_stats[0].inference_count
        assert after - before >= 24


def check_closed(client: Any) -> None:
    """Every call that reaches into a server must be refused, whatever the transport."""
    for attempt in (
        lambda: client.load_model("plus"),
        lambda: client.unload_model("plus"),
        lambda: client.register_system_shared_memory("r", "/r", 8),
        lambda: client.register_cuda_shared_memory("r", b"", 0, 8),
        lambda: client.unregister_system_shared_memory("r"),
        lambda: client.unregister_cuda_shared_memory("r"),
        lambda: client.update_trace_settings(settings={"trace_rate": "1"}),
        lambda: client.update_log_settings({"log_info": True}),
    ):
        with pytest.raises(InferenceServerException, match="closed; see docs"):
            attempt()


async def test_tritonclient_grpc_aio(gateway: Place) -> None:
    async with grpcaio.InferenceServerClient(gateway.grpc) as client:
        assert await client.is_server_live()
        assert await client.is_server_ready()
        assert await client.is_model_ready("fashion")
        assert (await client.get_model_metadata("plus")).name == "plus"
        assert (await client.get_inference_statistics()).model_stats
        results = await asyncio.gather(
            *(
                client.infer(
                    "fashion",
                    tensors(grpcaio, pixels=images(1)),
                    parameters={"slim_deadline_ms": 500, "slim_min_accuracy": 0.93},
                )
                for _ in range(40)
            )
        )
        found = {result.get_response().parameters["slim_width"].int64_param for result in results}
        assert found <= {75, 100}
        assert {result.as_numpy("logits").argmax() for result in results} == {IMAGE["labels"][0]}

        async def requests() -> Any:
            for number in range(5):
                yield {"model_name": "fashion", "inputs": tensors(grpcaio, pixels=images(1)), "request_id": str(number)}

        ids = set()
        async for result, error in client.stream_infer(requests()):
            assert error is None
            ids.add(result.get_response().id)
        assert ids == set("01234")
        for name, value in (("slim_width", 33), ("slim_deadline_ms", -1), ("slim_typo", 1)):
            with pytest.raises(InferenceServerException, match=name.replace("slim_width", "width=33")) as caught:
                await client.infer("fashion", tensors(grpcaio, pixels=images(1)), parameters={name: value})
            assert caught.value.status() == "StatusCode.INVALID_ARGUMENT"


@pytest.mark.filterwarnings("default")  # gevent's and geventhttpclient's own
def test_tritonclient_http_with_every_call_it_has(gateway: Place) -> None:
    httpclient = pytest.importorskip("tritonclient.http", reason="needs tritonclient[http]")
    with httpclient.InferenceServerClient(gateway.http, concurrency=4) as client:
        assert client.is_server_live()
        assert client.is_server_ready()
        assert client.is_model_ready("fashion")
        assert not client.is_model_ready("fashion", "2")
        assert not client.is_model_ready("nope")
        assert client.get_server_metadata()["name"] == "slim-scheduler"
        assert client.get_model_metadata("fashion")["inputs"][0]["shape"] == [-1, 1, 28, 28]
        assert client.get_model_config("fashion")["max_batch_size"] == 64
        assert "fashion" in [entry["name"] for entry in client.get_model_repository_index()]
        check_closed(client)
        assert client.get_system_shared_memory_status() == client.get_cuda_shared_memory_status() == []
        client.unregister_system_shared_memory()
        client.unregister_cuda_shared_memory()
        assert client.get_trace_settings() == client.get_log_settings() == {}
        assert client.get_inference_statistics("fashion")["model_stats"][0]["name"] == "fashion"
        for encoding in (None, "gzip", "deflate"):
            for is_binary in (True, False):
                pixels = httpclient.InferInput("pixels", [4, 1, 28, 28], "FP32")
                pixels.set_data_from_numpy(images(4), binary_data=is_binary)
                wanted = httpclient.InferRequestedOutput("logits", binary_data=is_binary)
                result = client.infer(
                    "fashion",
                    [pixels],
                    outputs=[wanted],
                    request_id="r",
                    request_compression_algorithm=encoding,
                    response_compression_algorithm=encoding,
                    parameters={"slim_width": 100},
                )
                assert list(result.as_numpy("logits").argmax(axis=1)) == list(IMAGE["labels"][:4])
                assert result.get_response()["parameters"]["slim_width"] == 100
        text = httpclient.InferInput("x", [1, 2], "BYTES")
        text.set_data_from_numpy(np.array([["a", "é\0z"]], np.object_))
        assert [e.decode() for e in client.infer("text", [text]).as_numpy("y").flat] == ["a", "é\0z"]
        pending = [client.async_infer("fashion", [pixels]) for _ in range(8)]
        assert all(p.get_result().as_numpy("logits").shape == (4, 10) for p in pending)
        with pytest.raises(InferenceServerException, match="unexpected inference input"):
            client.infer("fashion", tensors(httpclient, foo=images(1)))


@pytest.mark.filterwarnings("default")
async def test_tritonclient_http_aio(gateway: Place) -> None:
    httpaio = pytest.importorskip("tritonclient.http.aio", reason="needs tritonclient[http]")
    async with httpaio.InferenceServerClient(gateway.http) as client:
        assert await client.is_server_ready()
        assert (await client.get_model_config("fashion"))["name"] == "fashion"
        results = await asyncio.gather(
            *(client.infer("fashion", tensors(httpaio, pixels=images(2))) for _ in range(20))
        )
        assert {result.as_numpy("logits").shape for result in results} == {(2, 10)}


ANALYSES = {
    "grpc": ["-i", "grpc"],
    "grpc async": ["-i", "grpc", "--async"],
    "grpc streaming": ["-i", "grpc", "--async", "--streaming"],
    "grpc batch 8": ["-i", "grpc", "-b", "8"],
    "grpc request rate": ["-i", "grpc", "--request-rate-range", "50"],
    "grpc pinned": ["-i", "grpc", "--request-parameter", "slim_width:25:int"],
    "http": ["-i", "http"],
    "http async": ["-i", "http", "--async"],
    "http batch 8": ["-i", "http", "-b", "8"],
    "grpc other model": ["-i", "grpc", "-m", "plus"],
    "http other model": ["-i", "http", "-m", "plus"],
    "grpc one width": ["-i", "grpc", "-m", "fashion_w050"],
}


@pytest.mark.parametrize("how", ANALYSES)
def test_perf_analyzer(gateway: Place, how: str) -> None:
    if not PERF_ANALYZER.exists():
        pytest.skip("no perf_analyzer beside this python; install the wheel perf-analyzer")
    arguments = ANALYSES[how]
    address = gateway.grpc if "grpc" in arguments else gateway.http
    load = [] if "--request-rate-range" in arguments else ["--concurrency-range", "4"]
    model = [] if "-m" in arguments else ["-m", "fashion"]
    done = subprocess.run(
        [PERF_ANALYZER, "-u", address, *model, *arguments, *load, "-p", "400", "-r", "3", "-s", "999"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    output = done.stdout + done.stderr
    assert done.returncode == 0, output
    assert "Request count" in output, output
    assert "failed" not in output.lower(), output


# --- life ---


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
    began_s = time.monotonic()
    code = stop_gateway(process)
    is_over.set()
    for thread in threads:
        thread.join()
    assert code == 0, process.lines
    assert time.monotonic() - began_s < 15
    assert outcomes.count("ok") > 20
    assert set(outcomes) <= {"ok", "StatusCode.UNAVAILABLE"}, "refused, never broken off with anything else"


def test_a_killed_server_costs_other_models_no_new_request(tmp_path: Path) -> None:
    repository = tmp_path / "repository"
    repository.mkdir()
    write_repository(repository)
    models = ("plus", "fashion_w025")
    options = EmbeddedOptions(models=models, exit_timeout_s=2)
    with asyncio.Runner() as runner:
        pair = [EmbeddedServer(repository, options) for _ in range(2)]
        try:
            for server in pair:
                runner.run(server.__aenter__())
            process = start_gateway(tmp_path, pair)
            with grpcclient.InferenceServerClient(process.place.grpc) as client:
                inputs = tensors(grpcclient, x=np.zeros((1, 4), np.float32))
                for _ in range(10):
                    client.infer("plus", inputs)
                os.kill(pair[0].pid, signal.SIGKILL)
                time.sleep(0.2)  # a request under way may be lost with it; later ones may not
                for _ in range(40):
                    assert client.infer("plus", inputs).as_numpy("y")[0, 0] == 1
                assert client.is_server_ready()
            assert stop_gateway(process) == 0
        finally:
            for server in pair:
                runner.run(server.stop())
