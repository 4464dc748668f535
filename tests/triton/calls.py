"""What the integration tests ask of a tritonserver, through the plain synchronous client."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import tritonclient.grpc as grpcclient
from tritonclient.utils import np_to_triton_dtype

from orchestrator.triton.client import TritonClient
from orchestrator.triton.messages import pb

Answer = TypeVar("Answer")


def infer(
    client: grpcclient.InferenceServerClient, model: str, *outputs: str, **inputs: np.ndarray
) -> grpcclient.InferResult:
    """Send one request; with `outputs` only those are asked for."""
    tensors = []
    for name, array in inputs.items():
        tensor = grpcclient.InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype))
        tensor.set_data_from_numpy(array)
        tensors.append(tensor)
    requested = [grpcclient.InferRequestedOutput(name) for name in outputs] or None
    return client.infer(model, tensors, outputs=requested)


def at_once(calls: list[Callable[[], Answer]]) -> list[Answer | Exception]:
    """Run calls in a thread each and return, in order, what they returned or raised."""

    def attempt(call: Callable[[], Answer]) -> Answer | Exception:
        try:
            return call()
        except Exception as exc:
            return exc

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(attempt, calls))


def statistics(client: grpcclient.InferenceServerClient, model: str) -> Any:
    """Return a model's statistics message."""
    return client.get_inference_statistics(model).model_stats[0]


async def read_statistics(client: TritonClient, model: str) -> Any:
    """Return a model's statistics message, read by our own client."""
    answer = await client.call("ModelStatistics", pb.ModelStatisticsRequest(name=model).SerializeToString())
    return pb.ModelStatisticsResponse.FromString(answer).model_stats[0]


def index(client: grpcclient.InferenceServerClient) -> dict[str, tuple[str, str]]:
    """Return state and reason of every model in the repository index."""
    return {entry.name: (entry.state, entry.reason) for entry in client.get_model_repository_index().models}


def process_status(pid: int) -> dict[str, str]:
    """Return the fields of /proc/PID/status."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return dict(line.split(":\t", 1) for line in lines if ":\t" in line)
