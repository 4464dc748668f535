"""Every call of the ``kserve`` package's clients at one endpoint, as JSON on standard output.

It stands alone: what runs it is an environment that has kserve and not this project. Methods are found by
introspection, and one without a case here is reported, so that a newer kserve can't bring a call that nobody tries.
"""

from __future__ import annotations

import asyncio
import json
import logging
import ssl
import sys
from collections.abc import Awaitable, Callable
from importlib.metadata import version
from typing import Any

import grpc
import httpx
import kserve
import numpy as np
from kserve.protocol.infer_type import InferInput, InferRequest

PIXELS = np.linspace(0, 1, 2 * 784, dtype=np.float32).reshape(2, 1, 28, 28)
Steps = dict[str, tuple[str, Callable[[], Awaitable[Any]]]]


def request(model: str, *, name: str = "pixels", is_binary: bool = True, **more: Any) -> InferRequest:
    """Return an inference of two items."""
    tensor = InferInput(name, list(PIXELS.shape), "FP32")
    tensor.set_data_from_numpy(PIXELS, binary_data=is_binary)
    # With an id, because the client makes one up otherwise, another one every time.
    return InferRequest(model_name=model, infer_inputs=[tensor], request_id="7", **more)


def grpc_steps(client: Any, endpoint: dict[str, Any]) -> Steps:
    """Return what is asked over gRPC: a name, the method, the call."""
    headers = tuple(endpoint["headers"].items())
    family, pinned = endpoint["family"], endpoint["parameters"]

    def infer(*args: Any, **more: Any) -> Callable[[], Awaitable[Any]]:
        return lambda: client.infer(request(*args, **more), headers=headers)

    return {
        "is_server_live": ("is_server_live", lambda: client.is_server_live(headers=headers)),
        "is_server_ready": ("is_server_ready", lambda: client.is_server_ready(headers=headers)),
        "is_model_ready": ("is_model_ready", lambda: client.is_model_ready("fashion_w050", headers=headers)),
        "is_model_ready, no such": ("is_model_ready", lambda: client.is_model_ready("nope", headers=headers)),
        "infer": ("infer", infer("fashion_w050")),
        "infer, the family": ("infer", infer(family, parameters=pinned)),
        "infer, no such model": ("infer", infer("nope")),
        "infer, no such input": ("infer", infer("fashion_w050", name="foo")),
        "close": ("close", client.close),
    }


def rest_steps(client: Any, endpoint: dict[str, Any]) -> Steps:
    """Return what is asked over HTTP."""
    base, headers = endpoint["http"], endpoint["headers"]
    family, pinned = endpoint["family"], endpoint["parameters"]

    def infer(model: str, **more: Any) -> Callable[[], Awaitable[Any]]:
        return lambda: client.infer(base, request(model, **more), model_name=model, headers=dict(headers))

    return {
        "is_server_live": ("is_server_live", lambda: client.is_server_live(base, headers=headers)),
        "is_server_ready": ("is_server_ready", lambda: client.is_server_ready(base, headers=headers)),
        "is_model_ready": ("is_model_ready", lambda: client.is_model_ready(base, "fashion_w050", headers=headers)),
        "is_model_ready, no such": ("is_model_ready", lambda: client.is_model_ready(base, "nope", headers=headers)),
        "infer, binary": ("infer", infer("fashion_w050")),
        "infer, JSON": ("infer", infer("fashion_w050", is_binary=False)),
        "infer, the family": ("infer", infer(family, parameters=pinned)),
        "infer, the family, JSON": ("infer", infer(family, is_binary=False, parameters=pinned)),
        "infer, no such model": ("infer", infer("nope")),
        "infer, no such input": ("infer", infer("fashion_w050", name="foo")),
        "explain, which v2 lacks": ("explain", lambda: client.explain(base, family, {}, headers=headers)),
        "close": ("close", client.close),
    }


def plain(found: Any) -> Any:
    """Return an answer as plain values, without what only the gateway adds."""
    if not isinstance(found, kserve.InferResponse):
        return found
    parameters = {k: str(v) for k, v in (found.parameters or {}).items() if not k.startswith("slim_")}
    outputs = [
        [output.name, output.datatype, list(output.shape), output.as_numpy().round(3).tolist()]
        for output in found.outputs
    ]
    return {"id": found.id, "parameters": parameters, "outputs": outputs}


async def ask(steps: Steps) -> dict[str, Any]:
    """Return what each step gives, or what it fails with."""
    answers = {}
    for name, (_, call) in steps.items():
        try:
            answers[name] = plain(await call())
        except grpc.RpcError as exc:
            answers[name] = f"{exc.code().name}: {exc.details()}"
        except httpx.HTTPStatusError as exc:
            answers[name] = f"{exc.response.status_code}: {exc.response.text}"
        except Exception as exc:  # what a client makes of an answer is what is asked here
            answers[name] = f"{type(exc).__name__}: {exc}"
    return answers


def left_out(client: Any, steps: Steps) -> list[str]:
    """Return the client's public methods that no step calls."""
    public = {name for name in dir(client) if not name.startswith("_")}
    return sorted(public - {method for method, _ in steps.values()})


async def main(endpoint: dict[str, Any]) -> dict[str, Any]:
    """Return all answers of a endpoint by client, and the methods without a case."""
    authority = endpoint["authority"]
    over_grpc = kserve.InferenceGRPCClient(
        endpoint["grpc"], use_ssl=authority is not None, root_certificates=authority, retries=0, timeout=20
    )
    verify = True if authority is None else ssl.create_default_context(cafile=authority)
    over_http = kserve.InferenceRESTClient(kserve.RESTConfig(protocol="v2", verify=verify, timeout=20))
    grpc_asked, rest_asked = grpc_steps(over_grpc, endpoint), rest_steps(over_http, endpoint)
    missing = left_out(over_grpc, grpc_asked) + left_out(over_http, rest_asked)
    answers = {"gRPC": await ask(grpc_asked), "REST": await ask(rest_asked)}
    return {"version": version("kserve"), "left_out": missing, "answers": answers}


if __name__ == "__main__":
    logging.disable(logging.CRITICAL)
    json.dump(asyncio.run(main(json.loads(sys.argv[1]))), sys.stdout)
