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
import inspect
import io
import logging
import warnings
from collections import Counter
from collections.abc import Iterator
from typing import Any

import onnx
import torch
from onnx import numpy_helper
from torch import nn

from export.errors import ParityError, one_line
from export.network.layers import SlimConvNorm
from export.network.resnet import SlimResNet
from export.repository.model_config import INPUT_NAME, OUTPUT_NAME
from export.width import Width, render_ratio

OPSET = 18
IR_VERSION = 10
PRODUCER = "slim-scheduler"
_FORBIDDEN = frozenset({"Slice", "BatchNormalization", "If", "Loop", "Scan"})
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
        model = canonicalise(_trace(subnet, shape), shape)
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as exc:
        raise ParityError(f"the exported graph is not valid ONNX: {one_line(exc)}; try another torch release") from exc
    return model.SerializeToString(deterministic=True)


def _trace(subnet: nn.Module, shape: tuple[int, int, int]) -> onnx.ModelProto:
    """Run PyTorch's exporter: the torch.export-based one where the release has it, else the tracing one."""
    example = (torch.zeros(2, *shape),)  # a batch of 1 would be taken for a constant
    common: dict[str, Any] = {
        "input_names": [INPUT_NAME],
        "output_names": [OUTPUT_NAME],
        "opset_version": OPSET,
    }
    if "dynamic_shapes" in inspect.signature(torch.onnx.export).parameters:
        batch = torch.export.Dim("batch", min=1)
        program = torch.onnx.export(subnet, example, dynamo=True, dynamic_shapes=({0: batch},), verbose=False, **common)
        assert program is not None
        return program.model_proto
    sink = io.BytesIO()
    axes = {INPUT_NAME: {0: "batch"}, OUTPUT_NAME: {0: "batch"}}
    torch.onnx.export(subnet, example, sink, dynamic_axes=axes, **common)  # type: ignore[arg-type]
    return onnx.load_model_from_string(sink.getvalue())


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


def canonicalise(model: onnx.ModelProto, shape: tuple[int, int, int]) -> onnx.ModelProto:
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
        "slimresnet",
        [onnx.helper.make_tensor_value_info(INPUT_NAME, float32, ["batch", *shape])],
        [onnx.helper.make_tensor_value_info(OUTPUT_NAME, float32, ["batch", classes])],
        renaming.initializers,
    )
    opset = onnx.helper.make_opsetid("", OPSET)
    return onnx.helper.make_model(graph, opset_imports=[opset], ir_version=IR_VERSION, producer_name=PRODUCER)


def check_graph(network: SlimResNet, width: Width, model: bytes) -> None:
    """Raise ParityError unless ``model`` is made of exactly the active slices of ``network`` and of plain operators.

    The expected shapes come from the slimmable layers, not from the cut network, so that a wrong cut is found too.
    """
    proto = onnx.load_model_from_string(model)
    label = f"width {render_ratio(width)}"
    forbidden = sorted({node.op_type for node in proto.graph.node} & _FORBIDDEN)
    if forbidden:
        raise ParityError(f"{label}: the graph holds {', '.join(forbidden)}, which cutting should have removed")
    opset = max(entry.version for entry in proto.opset_import)
    if proto.ir_version > IR_VERSION or opset > OPSET:
        raise ParityError(
            f"{label}: IR {proto.ir_version} and opset {opset} are above {IR_VERSION} and {OPSET}, "
            "which old Triton images can't read"
        )
    found = Counter(
        tuple(tensor.dims) for tensor in proto.graph.initializer if tensor.data_type == onnx.TensorProto.FLOAT
    )
    wanted = sliced_shapes(network, width)
    if found != wanted:
        raise ParityError(
            f"{label}: initialisers {sorted((found - wanted).elements())} are in the graph "
            f"in place of {sorted((wanted - found).elements())}"
        )


def sliced_shapes(network: SlimResNet, width: Width) -> Counter[tuple[int, ...]]:
    """Return the shapes of all float tensors a graph of ``width`` must hold, with how often each occurs."""
    shapes: Counter[tuple[int, ...]] = Counter({tuple(network.mean.shape): 2})  # mean and std
    for unit in network.modules():
        if isinstance(unit, SlimConvNorm):
            weight = tuple(unit.active_weight(width).shape)
            shapes.update([weight, weight[:1]])
    classifier = network.classifier
    shapes.update([tuple(classifier.active_weight(width).shape), tuple(classifier.bias.shape)])
    return shapes
