"""``slimsched gateway`` before real Tritons, as processes, and raw calls to either."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from tritonclient.utils import np_to_triton_dtype

from orchestrator.config import FleetSettings, GatewaySettings, ServerSettings, render_fleet
from orchestrator.embedded.server import EmbeddedServer
from orchestrator.gateway.protocol.messages import pb, set_value
from orchestrator.triton.messages import SERVICE
from tests.ports import choose_free_ports
from tests.triton import onnx_models

ROOT = Path(__file__).parents[2]
IMAGE = np.load(ROOT / "examples" / "fashion-mnist" / "test_1000.npz")
STARTED_S = 60.0


@dataclass(frozen=True)
class Addresses:
    """Where a gateway or a Triton listens."""

    grpc: str
    http: str
    metrics: str = ""


@dataclass
class Process:
    """A gateway that runs as a process of its own."""

    addresses: Addresses
    path: Path
    popen: subprocess.Popen[str]
    lines: list[str]


def start_gateway(directory: Path, servers: list[EmbeddedServer], **more: Any) -> Process:
    """Start a gateway, with more settings of its section."""
    ports = choose_free_ports(3)
    addresses = [f"127.0.0.1:{port}" for port in ports]
    settings = FleetSettings(
        servers=tuple(ServerSettings(name=f"s{n}", grpc=server.grpc_address) for n, server in enumerate(servers)),
        gateway=GatewaySettings(grpc=addresses[0], http=addresses[1], metrics=addresses[2], **more),
    )
    path = directory / f"fleet-{ports[0]}.yaml"
    path.write_text(render_fleet(settings))
    return launch_gateway(Addresses(*addresses), path)


def launch_gateway(addresses: Addresses, path: Path, *more: str, before: Sequence[str] = ()) -> Process:
    """Start a gateway by its fleet file, with more arguments, and words before its command."""
    command = [sys.executable, "-c", "from orchestrator.cli import main; main()", "gateway", "--fleet", str(path)]
    popen = subprocess.Popen(
        [*before, *command, *more],
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
    return Process(addresses, path, popen, lines)


def stop_gateway(process: Process) -> int:
    process.popen.send_signal(signal.SIGTERM)
    return wait_ended(process)


def wait_ended(process: Process) -> int:
    code = process.popen.wait(40)
    assert process.popen.stderr is not None
    process.popen.stderr.close()
    return code


def write_repository(repository: Path) -> None:
    for model in sorted((ROOT / "model_repository").glob("fashion_*")):
        shutil.copytree(model, repository / model.name)
    types = onnx_models.TensorProto
    onnx_models.write_model(repository, "words", onnx_models.identity(types.STRING, ("batch", "n")))
    onnx_models.write_model(repository, "plus", onnx_models.plus_one())
    onnx_models.write_model(repository, "two", onnx_models.add_and_subtract())
    for name, kind in (("text", types.STRING), ("half", types.FLOAT16), ("bool", types.BOOL), ("int64", types.INT64)):
        onnx_models.write_model(repository, name, onnx_models.identity(kind))


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


def fetch(
    addresses: Addresses, path: str, body: bytes | None = None, **headers: str
) -> tuple[int, dict[str, str], bytes]:
    names = {key.replace("_", "-"): value for key, value in headers.items()}
    request = urllib.request.Request(f"http://{addresses.http}{path}", data=body, headers=names)
    try:
        with urllib.request.urlopen(request, timeout=20) as response:
            return response.status, dict(response.headers), response.read()
    except urllib.error.HTTPError as exc:
        with exc:
            return exc.code, dict(exc.headers), exc.read()
