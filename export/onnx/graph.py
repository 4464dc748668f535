"""A cut network as ONNX: canonical bytes, and a check of what the graph is made of.

PyTorch's exporters leave in the file what must not be there: stack traces with paths of the machine, the
exporter's version, value infos, names that change from release to release. So the graph is rebuilt from its
operators alone: nodes and tensors are named by operator and position, constants become initialisers in order of
first use, attributes are sorted, and the bytes are serialised deterministically. The same network then gives the
same bytes, and Triton, which compares file times, sees no change where there is none. The producer is written
without a version for the same reason.

The graph stays at opset 18 and IR 10, which every ONNX Runtime since 1.18 reads; the runtime in older Triton
images stops at IR 10.
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

import onnx
import torch
from onnx import numpy_helper
from torch import nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from export.errors import ParityError, one_line
from export.network.protocol import SlimmableNetwork
from export.repository.model_config import INPUT_NAME, OUTPUT_NAME
from export.width import Width, render_ratio

OPSET = 18
IR_VERSION = 10
PRODUCER = "slim-scheduler"
_FORBIDDEN = frozenset({"If", "Loop", "Scan"})
_WEIGHTED = frozenset({"Conv", "Gemm", "MatMul"})
_SLOTS = {
    "Conv": ("x", "weight", "bias"),
    "Gemm": ("x", "weight", "bias"),
    "Sub": ("x", "mean"),
    "Div": ("x", "std"),
    "ReduceMean": ("x", "axes"),
}
"""What the inputs of an operator are called when they are initialisers; others are numbered."""


def export_onnx(subnet: nn.Module, shape: tuple[int, int, int]) -> bytes:
    """Return a module, in evaluation mode, as a serialised ONNX model, the same bytes for the same weights.

    Its input ``pixels`` is float32 [batch, c, h, w], c, h and w from the shape, its output ``logits`` float32
    [batch, classes], for any batch. Raises ParityError when the exporter made a graph that is not valid ONNX.
    """
    with _quiet():
        model = canonicalise(_trace(subnet, shape), shape, name=type(subnet).__name__.lower())
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as exc:
        raise ParityError(f"the exported graph is not valid ONNX: {one_line(exc)}; try another torch release") from exc
    return model.SerializeToString(deterministic=True)


def _trace(subnet: nn.Module, shape: tuple[int, int, int]) -> onnx.ModelProto:
    """Run PyTorch's exporter."""
    program = torch.onnx.export(
        subnet,
        (torch.zeros(2, *shape),),  # a batch of 1 would be taken for a constant
        dynamo=True,
        dynamic_shapes=({0: torch.export.Dim("batch", min=1)},),
        verbose=False,
        input_names=[INPUT_NAME],
        output_names=[OUTPUT_NAME],
        opset_version=OPSET,
    )
    assert program is not None
    return program.model_proto


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporter: its deprecation warnings, prints and log lines are about itself, not about the model."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


class _Renaming:
    """The new graph while it is being written: tensors already named, initialisers already used."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.constants = {tensor.name: tensor for tensor in model.graph.initializer}
        self.names = {"": "", model.graph.input[0].name: INPUT_NAME}
        self.initializers: list[onnx.TensorProto] = []
        self.counts: Counter[str] = Counter()

    def input_name(self, old: str, node: str, op_type: str, slot: int) -> str:
        """Return the new name of a node's input, moving the constant behind it into the graph at first use."""
        if old not in self.names:
            slots = _SLOTS.get(op_type, ())
            self.names[old] = f"{node}.{slots[slot] if slot < len(slots) else slot}"
            values = numpy_helper.to_array(self.constants[old])
            self.initializers.append(numpy_helper.from_array(values, self.names[old]))
        return self.names[old]

    def add(self, node: onnx.NodeProto, *, final: str) -> onnx.NodeProto:
        """Return ``node`` under its new names; the tensor called ``final`` becomes the graph's output."""
        op = node.op_type.lower()
        name = f"{op}_{self.counts[op]:02d}"
        self.counts[op] += 1
        inputs = [self.input_name(old, name, node.op_type, slot) for slot, old in enumerate(node.input)]
        for index, old in enumerate(node.output):
            own = name if len(node.output) == 1 else f"{name}.{index}"
            self.names[old] = OUTPUT_NAME if old == final else own
        renamed = onnx.helper.make_node(
            node.op_type, inputs, [self.names[old] for old in node.output], name=name, domain=node.domain
        )
        for attribute in sorted(node.attribute, key=lambda a: a.name):
            copy = renamed.attribute.add()
            copy.CopyFrom(attribute)
            copy.ClearField("doc_string")
        return renamed


def canonicalise(model: onnx.ModelProto, shape: tuple[int, int, int], *, name: str) -> onnx.ModelProto:
    """Return the same computation as ``model`` with nothing in it but what ONNX Runtime needs.

    It has one input, of a shape c, h, w an image, one output and no functions. Raises ParityError when the graph holds
    operators that are not ONNX's own.
    """
    foreign = sorted({node.domain for node in model.graph.node if node.domain} | {f.name for f in model.functions})
    if foreign:
        raise ParityError(f"the exporter used operators of {', '.join(foreign)}; try another torch release")
    renaming = _Renaming(model)
    for node in model.graph.node:
        if node.op_type == "Constant":
            renaming.constants[node.output[0]] = onnx.helper.get_attribute_value(node.attribute[0])
    final = model.graph.output[0].name
    nodes = [renaming.add(node, final=final) for node in model.graph.node if node.op_type != "Constant"]
    classes = model.graph.output[0].type.tensor_type.shape.dim[1].dim_value
    float32 = onnx.TensorProto.FLOAT
    graph = onnx.helper.make_graph(
        nodes,
        name,
        [onnx.helper.make_tensor_value_info(INPUT_NAME, float32, ["batch", *shape])],
        [onnx.helper.make_tensor_value_info(OUTPUT_NAME, float32, ["batch", classes])],
        renaming.initializers,
    )
    opset = onnx.helper.make_opsetid("", OPSET)
    return onnx.helper.make_model(graph, opset_imports=[opset], ir_version=IR_VERSION, producer_name=PRODUCER)


def check_graph(network: SlimmableNetwork, width: Width, model: bytes, shape: tuple[int, int, int]) -> None:
    """Raise ParityError unless ``model`` is made of the active slices of ``network`` and of plain operators.

    The expected shapes come from running the slimmable network, not from the cut one, so that a wrong cut is found too.
    """
    proto = onnx.load_model_from_string(model)
    label = f"width {render_ratio(width)}"
    constants = {tensor.name: tuple(tensor.dims) for tensor in proto.graph.initializer}
    forbidden = {node.op_type for node in proto.graph.node} & _FORBIDDEN
    forbidden |= {node.op_type for node in proto.graph.node if node.input and set(node.input) <= constants.keys()}
    if forbidden:
        raise ParityError(f"{label}: the graph holds {', '.join(sorted(forbidden))}, which cutting should have removed")
    opset = max(entry.version for entry in proto.opset_import)
    if proto.ir_version > IR_VERSION or opset > OPSET:
        raise ParityError(
            f"{label}: IR {proto.ir_version} and opset {opset} are above {IR_VERSION} and {OPSET}, "
            "which old Triton images can't read"
        )
    weights = {n.input[1] for n in proto.graph.node if n.op_type in _WEIGHTED and n.input[1] in constants}
    found = Counter(_sorted_shape(constants[name]) for name in weights)
    missing = used_weights(network, width, shape) - found
    if missing:
        raise ParityError(
            f"{label}: weights of {sorted(missing.elements())} are not in the graph, which has "
            f"{sorted((found - used_weights(network, width, shape)).elements())} in their place"
        )


class _WeightShapes(TorchFunctionMode):
    """Notes the weights of convolutions and linear layers as they are used, once each."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: dict[tuple[int, tuple[int, ...]], tuple[int, ...]] = {}

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func in (functional.conv1d, functional.conv2d, functional.linear):
            weight = args[1] if len(args) > 1 else (kwargs or {})["weight"]
            self.shapes[weight.data_ptr(), tuple(weight.shape)] = _sorted_shape(weight.shape)
        return func(*args, **(kwargs or {}))


def used_weights(network: SlimmableNetwork, width: Width, shape: tuple[int, int, int]) -> Counter[tuple[int, ...]]:
    """Return the shapes of the weights of convolutions and linear layers used at ``width``, with how often each occurs.

    A matrix may lie either way in a graph, so the sides of each shape are sorted.
    """
    with _WeightShapes() as noted, torch.inference_mode():
        network(torch.zeros(2, *shape), width)
    return Counter(noted.shapes.values())


def _sorted_shape(shape: Iterable[int]) -> tuple[int, ...]:
    return tuple(sorted(shape))
