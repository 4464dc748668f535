"""Every public call of tritonclient's four clients, and how its answer compares with a real Triton's.

The calls are the same for all of them; what a signature calls otherwise is translated by ``arguments``. ``EVERY`` is
held against the clients' public methods, so a call that a newer tritonclient brings must be added here.
"""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from tritonclient.utils import InferenceServerException

from tests.gateway.running import images, tensors

FAMILY, WIDTH = "fashion", "fashion_w100"


@dataclass(frozen=True)
class Call:
    """One call of a client.

    Attributes:
        method: of the client.
        args: given as they are.
        kwargs: likewise.
        check: what the two answers, ours first, must have in common; None: they are equal.
        is_closed: refused by us, and never asked of Triton because it would change it.
    """

    method: str
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    check: Callable[[Any, Any], bool] | None = None
    is_closed: bool = False

    def __str__(self) -> str:
        given = [*map(repr, self.args), *(f"{key}={value}" for key, value in self.kwargs.items())]
        return f"{self.method}({', '.join(given)})"


@dataclass(frozen=True)
class Inference:
    """One request, in the words that all clients share.

    Attributes:
        model: asked for.
        inputs: by name.
        theirs: the model that answers the same at Triton; None: the same one.
        outputs: by name, with how many classes are wanted; 0: the tensor.
        more: arguments of ``infer``.
        compression: of request and answer.
        is_json: whether tensors go as JSON over HTTP.
    """

    model: str
    inputs: Mapping[str, np.ndarray]
    theirs: str | None = None
    outputs: Mapping[str, int] = field(default_factory=dict)
    more: Mapping[str, Any] = field(default_factory=dict)
    compression: str | None = None
    is_json: bool = False

    def arguments(self, module: types.ModuleType, *, is_ours: bool) -> dict[str, Any]:
        """Return the arguments of ``infer`` of a module's client."""
        is_http = ".http" in module.__name__
        inputs = tensors(module, **self.inputs)
        outputs = []
        for name, classes in self.outputs.items():
            outputs.append(module.InferRequestedOutput(name, class_count=classes))
        found = {"inputs": inputs, **self.more}
        if is_http and self.is_json:
            for tensor, array in zip(inputs, self.inputs.values(), strict=True):
                tensor.set_data_from_numpy(array, binary_data=False)
            outputs = [module.InferRequestedOutput(name, binary_data=False) for name in self.outputs]
        if outputs:
            found["outputs"] = outputs
        if self.compression is not None:
            names = ("request_compression_algorithm", "response_compression_algorithm")
            found.update(dict.fromkeys(names if is_http else ("compression_algorithm",), self.compression))
        if not is_ours and self.theirs is not None:
            found["parameters"] = None  # ours; Triton would keep them from nobody, and we are asked for a width by name
        return {"model_name": self.model if is_ours or self.theirs is None else self.theirs, **found}


F32 = np.arange(8, dtype=np.float32).reshape(2, 4)
WORDS = np.array([["a", "é\0z"]], np.object_)
PINNED = {"slim_width": 100}
INFERENCES = {
    "two items": Inference("plus", {"x": F32}),
    "id, priority, timeout, own parameters": Inference(
        "plus",
        {"x": F32},
        more={"request_id": "7", "priority": 1, "timeout": 10**6, "parameters": {"own": "x", "n": 3}},
    ),
    "a version": Inference("plus", {"x": F32}, more={"model_version": "1"}),
    "a sequence": Inference("plus", {"x": F32}, more={"sequence_id": 9, "sequence_start": True, "sequence_end": True}),
    "gzip": Inference("plus", {"x": F32}, compression="gzip"),
    "deflate": Inference("plus", {"x": F32}, compression="deflate"),
    "JSON": Inference("plus", {"x": F32}, outputs={"y": 0}, is_json=True),
    "classes": Inference("plus", {"x": F32}, outputs={"y": 2}),
    "BYTES": Inference("text", {"x": WORDS}),
    "BYTES as JSON": Inference("text", {"x": np.array([["a", "é"]], np.object_)}, outputs={"y": 0}, is_json=True),
    "FP16": Inference("half", {"x": np.array([[1.5, -0.0]], np.float16)}),
    "BOOL": Inference("bool", {"x": np.array([[True, False]])}),
    "INT64": Inference("int64", {"x": np.array([[2**62, -1]])}),
    "two inputs": Inference("two", {name: np.ones((1, 3), np.float32) for name in "ab"}),
    "one width by name": Inference("fashion_w050", {"pixels": images(3)}),
    "a width of the family": Inference(FAMILY, {"pixels": images(8)}, theirs=WIDTH, more={"parameters": PINNED}),
    "classes of the family": Inference(
        FAMILY, {"pixels": images(8)}, theirs=WIDTH, outputs={"logits": 3}, more={"parameters": PINNED}
    ),
    "the family, gzip": Inference(
        FAMILY, {"pixels": images(8)}, theirs=WIDTH, compression="gzip", more={"parameters": PINNED}
    ),
    "the family, JSON": Inference(
        FAMILY, {"pixels": images(2)}, theirs=WIDTH, outputs={"logits": 0}, is_json=True, more={"parameters": PINNED}
    ),
    "no such model": Inference("nope", {"x": F32}),
    "no such version": Inference("plus", {"x": F32}, more={"model_version": "7"}),
    "no such input": Inference("plus", {"z": F32}),
    "a wrong shape": Inference("plus", {"x": np.ones((1, 9), np.float32)}),
    "a wrong type": Inference("plus", {"x": np.ones((1, 4), np.int32)}),
    "no such output": Inference("plus", {"x": F32}, outputs={"z": 0}),
}


def _names(index: Any) -> set[str]:
    entries = index["models"] if isinstance(index, dict) else index
    return {entry["name"] for entry in entries}


def _has_same_fields(ours: Any, theirs: Any) -> bool:
    (mine,), (other,) = ours["model_stats"], theirs["model_stats"]
    return (mine["name"], mine["version"]) == (other["name"], other["version"]) and bool(mine["inference_stats"])


def _is_family_of(ours: Any, theirs: Any) -> bool:
    mine, other = (found.get("config", found) for found in (ours, theirs))
    same = ("max_batch_size", "platform", "backend")
    return all(mine.get(key) == other.get(key) for key in same) and "slim.widths" in mine["parameters"]


def _is_family_with_tensors_of(ours: Any, theirs: Any) -> bool:
    return all(ours[key] == theirs[key] for key in ("inputs", "outputs", "versions"))


ASKED = (
    Call("is_server_live"),
    Call("is_server_ready"),
    *(Call("is_model_ready", args) for args in (("plus",), ("plus", "1"), ("plus", "2"), ("nope",), (WIDTH,))),
    *(Call("get_model_metadata", args) for args in (("plus",), ("two", "1"), (WIDTH,), ("nope",), ("plus", "2"))),
    *(Call("get_model_config", args) for args in (("plus",), (WIDTH,), ("nope",))),
    Call("get_server_metadata", check=lambda ours, theirs: set(ours["extensions"]) <= set(theirs["extensions"])),
    Call(
        "get_model_repository_index",
        check=lambda ours, theirs: (
            _names(theirs) - _names(ours) == {f"fashion_w{w:03d}" for w in (25, 50, 75, 100)}
            and _names(ours) - _names(theirs) == {FAMILY}
        ),
    ),
    Call("get_inference_statistics", ("plus",), check=_has_same_fields),
    Call("get_system_shared_memory_status"),
    Call("get_cuda_shared_memory_status"),
    Call("unregister_system_shared_memory"),
    Call("unregister_cuda_shared_memory"),
    Call("get_trace_settings", check=lambda ours, theirs: not ours.get("settings", ours) and bool(theirs)),
    Call("get_log_settings", check=lambda ours, theirs: not ours.get("settings", ours) and bool(theirs)),
    Call("load_model", ("plus",), is_closed=True),
    Call("load_model", (WIDTH,), {"config": "{}"}, is_closed=True),
    Call("unload_model", ("plus",), is_closed=True),
    Call("register_system_shared_memory", ("r", "/r", 8), is_closed=True),
    Call("register_cuda_shared_memory", ("r", b"", 0, 8), is_closed=True),
    Call("unregister_system_shared_memory", ("r",), is_closed=True),
    Call("unregister_cuda_shared_memory", ("r",), is_closed=True),
    Call("update_trace_settings", ("plus",), {"settings": {"trace_rate": "1"}}, is_closed=True),
    Call("update_log_settings", ({"log_info": True},), is_closed=True),
)
"""Calls that are asked and answered; a family has no namesake at Triton, so ``OF_FAMILY`` compares it with a width."""
OF_FAMILY = {
    "get_model_metadata": _is_family_with_tensors_of,
    "get_model_config": _is_family_of,
    "get_inference_statistics": lambda ours, theirs: ours["model_stats"][0]["name"] == FAMILY,
}
ELSEWHERE = {
    "infer",
    "async_infer",
    "start_stream",
    "async_stream_infer",
    "stop_stream",
    "stream_infer",
    "generate_request_body",
    "parse_response_body",
    "close",
    "plugin",
    "register_plugin",
    "unregister_plugin",
}
"""Calls with tests of their own."""
EVERY = {call.method for call in ASKED} | ELSEWHERE
VOLATILE = ("model_name", "slim_decision_id", "slim_queue_us")


async def answer(client: Any, call: Call, *, is_json: bool) -> Any:
    """Return what a call gives, as plain values; or what it fails with."""
    kwargs = dict(call.kwargs)
    method = getattr(client, call.method)
    if is_json and "as_json" in inspect.signature(method).parameters:
        kwargs["as_json"] = True
    try:
        found = method(*call.args, **kwargs)
        return await found if inspect.isawaitable(found) else found
    except InferenceServerException as exc:
        return ("failed", exc.status(), exc.message())


def plain(result: Any) -> Any:
    """Return an inference's result without what must differ: names of models, and what only we add."""
    if isinstance(result, tuple):
        return result
    response = result.get_response()
    if not isinstance(response, dict):
        response = result.get_response(as_json=True)
    response = {key: value for key, value in response.items() if key not in VOLATILE}
    for key in ("raw_output_contents", "outputs"):  # compared as arrays
        response.pop(key, None)
    parameters = {k: v for k, v in response.pop("parameters", {}).items() if not k.startswith("slim_")}
    arrays = {}
    for output in result.get_response()["outputs"] if isinstance(result.get_response(), dict) else _outputs(result):
        found = result.as_numpy(output["name"])
        arrays[output["name"]] = (output["datatype"], found.shape, _rounded(found).tolist())
    return response, parameters, arrays


def _outputs(result: Any) -> list[dict[str, str]]:
    return [{"name": found.name, "datatype": found.datatype} for found in result.get_response().outputs]


def _rounded(array: np.ndarray) -> np.ndarray:
    """Return floats to the digits that a batch's neighbours can't change."""
    if array.dtype.kind == "f":
        return array.astype(np.float64).round(3) + 0.0
    if array.dtype.kind == "O":
        texts = [text.decode() if isinstance(text, bytes) else text for text in array.flat]
        return np.array([_round_class(text) for text in texts], np.object_).reshape(array.shape)
    return array


def _round_class(text: str) -> str:
    value, colon, rest = text.partition(":")
    return f"{float(value):.3f}:{rest}" if colon else text
