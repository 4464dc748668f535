"""Small ONNX models and the repositories that serve them, written with onnx.helper at IR 10 and opset 17."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

TRITON_TYPES = {
    TensorProto.FLOAT: "TYPE_FP32",
    TensorProto.INT64: "TYPE_INT64",
    TensorProto.STRING: "TYPE_STRING",
    TensorProto.BOOL: "TYPE_BOOL",
    TensorProto.FLOAT16: "TYPE_FP16",
    TensorProto.UINT8: "TYPE_UINT8",
}
Io = tuple[str, int, Sequence[int | str]]


def build_model(
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[Io],
    outputs: Sequence[Io],
    initializers: Mapping[str, np.ndarray] | None = None,
) -> onnx.ModelProto:
    graph = helper.make_graph(
        list(nodes),
        "test",
        [helper.make_tensor_value_info(*io) for io in inputs],
        [helper.make_tensor_value_info(*io) for io in outputs],
        [numpy_helper.from_array(array, name) for name, array in (initializers or {}).items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    onnx.checker.check_model(model)
    return model


def plus_one() -> onnx.ModelProto:
    """y = x + 1 over float32 [batch, 4]."""
    return build_model(
        [helper.make_node("Add", ["x", "one"], ["y"])],
        [("x", TensorProto.FLOAT, ["batch", 4])],
        [("y", TensorProto.FLOAT, ["batch", 4])],
        {"one": np.ones(1, np.float32)},
    )


def add_and_subtract() -> onnx.ModelProto:
    """Two inputs, two outputs: sum = a + b and difference = a - b over float32 [batch, 3]."""
    row = ["batch", 3]
    return build_model(
        [helper.make_node("Add", ["a", "b"], ["sum"]), helper.make_node("Sub", ["a", "b"], ["difference"])],
        [("a", TensorProto.FLOAT, row), ("b", TensorProto.FLOAT, row)],
        [("sum", TensorProto.FLOAT, row), ("difference", TensorProto.FLOAT, row)],
    )


def identity(onnx_type: int, shape: Sequence[int | str] = ("batch", 2)) -> onnx.ModelProto:
    """y = x for any element type."""
    return build_model(
        [helper.make_node("Identity", ["x"], ["y"])], [("x", onnx_type, shape)], [("y", onnx_type, shape)]
    )


def lookup() -> onnx.ModelProto:
    """y = ten squares[x] over int64 [batch, 1]; an index outside -10..9 makes the run fail."""
    return build_model(
        [helper.make_node("Gather", ["squares", "x"], ["y"])],
        [("x", TensorProto.INT64, ["batch", 1])],
        [("y", TensorProto.INT64, ["batch", 1])],
        {"squares": np.arange(10, dtype=np.int64) ** 2},
    )


def heavy(layers: int = 6, width: int = 512) -> onnx.ModelProto:
    """A chain of square matrix products over float32 [batch, width]; long enough for its time to be measured."""
    names = ["x", *(f"h{i}" for i in range(layers - 1)), "y"]
    weights = np.eye(width, dtype=np.float32)
    return build_model(
        [helper.make_node("MatMul", [names[i], f"w{i}"], [names[i + 1]]) for i in range(layers)],
        [("x", TensorProto.FLOAT, ["batch", width])],
        [("y", TensorProto.FLOAT, ["batch", width])],
        {f"w{i}": weights for i in range(layers)},
    )


def render_io(kind: str, name: str, onnx_type: int, dims: Sequence[int], extra: str = "") -> str:
    shape = ", ".join(str(d) for d in dims)
    return f'{kind} [{{ name: "{name}" data_type: {TRITON_TYPES[onnx_type]} dims: [{shape}] {extra} }}]'


def render_config(
    model: onnx.ModelProto,
    *,
    max_batch_size: int = 8,
    count: int = 1,
    batching: str = "dynamic_batching { }",
    parameters: Mapping[str, str] | None = None,
    extra: str = "",
) -> str:
    """Return a config.pbtxt that fits a model; `parameters` are merged over intra_op_thread_count 1."""
    ios = []
    for kind, values in (("input", model.graph.input), ("output", model.graph.output)):
        for value in values:
            tensor = value.type.tensor_type
            dims = [d.dim_value if d.HasField("dim_value") else -1 for d in tensor.shape.dim]
            ios.append(render_io(kind, value.name, tensor.elem_type, dims[1:] if max_batch_size else dims))
    merged = {"intra_op_thread_count": "1", **(parameters or {})}
    return "\n".join(
        [
            'backend: "onnxruntime"',
            f"max_batch_size: {max_batch_size}",
            *ios,
            f"instance_group [{{ kind: KIND_CPU count: {count} }}]",
            batching if max_batch_size else "",
            *(f'parameters {{ key: "{k}" value {{ string_value: {json.dumps(v)} }} }}' for k, v in merged.items()),
            extra,
        ]
    )


def write_model(repository: Path, name: str, model: onnx.ModelProto, config: str | None = None) -> None:
    """Add one model to a repository; without a config it gets the fitting one."""
    version = repository / name / "1"
    version.mkdir(parents=True)
    (version / "model.onnx").write_bytes(model.SerializeToString())
    (repository / name / "config.pbtxt").write_text(config or render_config(model))


def render_override(config: dict[str, Any], *, count: int) -> str:
    """Return a served model's config with another instance count, as the load API takes it.

    Without `runtime`: a Python-based backend reports it, and sent back it would make the change a full reload.
    """
    kept = {key: value for key, value in config.items() if key != "runtime"}
    group = {**kept["instance_group"][0], "count": count}
    return json.dumps({**kept, "instance_group": [group]})
