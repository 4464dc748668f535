from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper

from export.errors import ParityError
from export.family import ProvenModel
from export.network.subnet import cut_subnet
from export.onnx.graph import canonicalise, check_graph, export_onnx
from export.repository.model_files import MODEL_FILE
from export.training.checkpoint import Checkpoint
from export.width import Width
from tests.export.toys import SIDE

NARROW, FULL = Width(25), Width(100)
SHAPE = (1, SIDE, SIDE)


@pytest.fixture(scope="module")
def narrow(proven: list[ProvenModel]) -> bytes:
    return proven[0].files[MODEL_FILE]


def test_only_plain_operators_are_left(narrow: bytes) -> None:
    model = onnx.load_model_from_string(narrow)
    operators = {node.op_type for node in model.graph.node}
    assert operators == {"Sub", "Div", "Conv", "Relu", "Add", "ReduceMean", "Gemm"}
    assert model.ir_version <= 10
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 18)]


def test_inputs_and_outputs_are_named_and_take_any_batch(narrow: bytes) -> None:
    session = onnxruntime.InferenceSession(narrow, providers=["CPUExecutionProvider"])
    (pixels,), (logits,) = session.get_inputs(), session.get_outputs()
    assert (pixels.name, pixels.type, pixels.shape) == ("pixels", "tensor(float)", ["batch", 1, SIDE, SIDE])
    assert (logits.name, logits.type, logits.shape) == ("logits", "tensor(float)", ["batch", 3])
    for batch in (1, 2, 17):
        result = session.run(None, {"pixels": np.zeros((batch, 1, SIDE, SIDE), np.float32)})
        assert result[0].shape == (batch, 3)


def test_initialisers_have_exactly_the_sliced_shapes(narrow: bytes) -> None:
    model = onnx.load_model_from_string(narrow)
    shapes = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    assert shapes["conv_00.weight"] == (4, 1, 3, 3)
    assert shapes["conv_01.weight"] == (4, 4, 3, 3)
    assert shapes["gemm_00.weight"] == (3, 16)
    # 28×28 and 32×32 networks have 15 convolutions: stem, 6 blocks of 2, 2 projections.
    assert sum(name.startswith("conv_") for name in shapes) == 2 * 15


def test_the_same_network_gives_the_same_bytes(checkpoint: Checkpoint, narrow: bytes) -> None:
    again = export_onnx(cut_subnet(checkpoint.network(), NARROW, checkpoint.images.shape), checkpoint.images.shape)
    assert again == narrow


def test_nothing_of_the_machine_or_the_exporter_is_in_the_file(narrow: bytes) -> None:
    spec = importlib.util.find_spec("torch")
    assert spec is not None and spec.origin is not None
    for trace in (str(Path.cwd()), str(Path(spec.origin).parents[1]), "site-packages", ".py", "torch"):
        assert trace.encode() not in narrow
    model = onnx.load_model_from_string(narrow)
    assert (model.producer_name, model.producer_version) == ("slim-scheduler", "")
    assert not model.metadata_props
    assert not model.graph.value_info
    assert not any(node.metadata_props or node.doc_string for node in model.graph.node)


def test_what_exporters_add_or_order_differently_makes_no_difference(narrow: bytes) -> None:
    """Another release may name tensors otherwise, annotate nodes, keep unused constants and shuffle attributes."""
    model = onnx.load_model_from_string(narrow)
    model.doc_string = model.producer_version = model.graph.doc_string = "/home/somebody"
    model.metadata_props.add(key="path", value="/home/somebody")
    model.graph.value_info.add(name="relu_00", doc_string="/home/somebody")
    model.graph.initializer.append(numpy_helper.from_array(np.zeros(3, np.float32), "unused"))
    for tensor in model.graph.initializer:
        tensor.name, tensor.doc_string = f"p.{tensor.name}", "/home/somebody"
    constants = {tensor.name for tensor in model.graph.initializer}
    for node in model.graph.node:
        node.name, node.doc_string = f"other_{node.name}", "/home/somebody"
        node.metadata_props.add(key="stack_trace", value="/home/somebody/train.py")
        node.input[:] = [f"p.{name}" if f"p.{name}" in constants else name for name in node.input]
        attributes = [onnx.AttributeProto.FromString(a.SerializeToString()) for a in node.attribute]
        for attribute in attributes:
            attribute.doc_string = "/home/somebody"
        del node.attribute[:]
        node.attribute.extend(reversed(attributes))
    assert canonicalise(model, (1, SIDE, SIDE), name="slimresnet").SerializeToString(deterministic=True) == narrow


def test_the_proven_graph_passes_the_check(checkpoint: Checkpoint, narrow: bytes) -> None:
    check_graph(checkpoint.network(), NARROW, narrow, SHAPE)


def test_a_graph_of_another_width_is_found(checkpoint: Checkpoint, narrow: bytes) -> None:
    with pytest.raises(
        ParityError, match=r"width 1\.00: weights of .*\(1, 3, 3, 16\).* are not in the graph.*\(1, 3, 3, 4\)"
    ):
        check_graph(checkpoint.network(), FULL, narrow, SHAPE)


def test_an_initialiser_of_the_full_shape_is_found(checkpoint: Checkpoint, narrow: bytes) -> None:
    """What an export that slices at run time would hold."""
    model = onnx.load_model_from_string(narrow)
    full = numpy_helper.from_array(np.zeros((16, 1, 3, 3), np.float32), "conv_00.weight")
    model.graph.initializer[2].CopyFrom(full)
    with pytest.raises(ParityError, match="are not in the graph"):
        check_graph(checkpoint.network(), NARROW, model.SerializeToString(), SHAPE)


@pytest.mark.parametrize("operator", ["If", "Slice"])
def test_operators_that_cutting_should_have_removed_are_found(
    operator: str, checkpoint: Checkpoint, narrow: bytes
) -> None:
    model = onnx.load_model_from_string(narrow)
    model.graph.node.add(op_type=operator, input=["conv_00.weight"])
    with pytest.raises(ParityError, match=f"holds {operator}"):
        check_graph(checkpoint.network(), NARROW, model.SerializeToString(), SHAPE)


@pytest.mark.parametrize(("ir", "opset"), [(11, 18), (10, 21)])
def test_what_old_triton_images_can_not_read_is_found(
    ir: int, opset: int, checkpoint: Checkpoint, narrow: bytes
) -> None:
    model = onnx.load_model_from_string(narrow)
    model.ir_version = ir
    model.opset_import[0].version = opset
    with pytest.raises(ParityError, match=f"IR {ir} and opset {opset}"):
        check_graph(checkpoint.network(), NARROW, model.SerializeToString(), SHAPE)
