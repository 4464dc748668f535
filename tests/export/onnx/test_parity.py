from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from export.errors import ParityError
from export.family import ProvenModel
from export.onnx.parity import check_parity, compare
from export.repository.model_files import MODEL_FILE
from export.training.checkpoint import Checkpoint
from export.training.datasets import InMemoryImages
from export.width import Width
from tests.export.toys import SIDE, toy_images

FULL = Width(100)


@pytest.fixture(scope="module")
def full(proven: list[ProvenModel]) -> bytes:
    return proven[1].files[MODEL_FILE]


@pytest.fixture(scope="module")
def samples() -> torch.Tensor:
    return torch.rand(32, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(0))


def edited(model: bytes, name: str, offset: float) -> bytes:
    """Return ``model`` with ``offset`` added to one element of an initialiser."""
    proto = onnx.load_model_from_string(model)
    for tensor in proto.graph.initializer:
        if tensor.name == name:
            values = numpy_helper.to_array(tensor).copy()
            values.flat[0] += offset
            tensor.CopyFrom(numpy_helper.from_array(values, name))
    return proto.SerializeToString()


def test_an_untouched_graph_passes_with_a_small_difference(
    checkpoint: Checkpoint, full: bytes, samples: torch.Tensor
) -> None:
    assert 0 < check_parity(checkpoint.network(), FULL, full, samples) < 1e-4


@pytest.mark.parametrize("name", ["conv_00.weight", "conv_07.bias", "gemm_00.bias", "sub_00.mean"])
def test_tampered_weights_are_found(name: str, checkpoint: Checkpoint, full: bytes, samples: torch.Tensor) -> None:
    with pytest.raises(ParityError, match=r"width 1\.00, batch of 1: logits differ by up to .*, allowed is 0\.0001"):
        check_parity(checkpoint.network(), FULL, edited(full, name, 0.05), samples)


def test_a_difference_that_is_no_number_is_found(checkpoint: Checkpoint, full: bytes, samples: torch.Tensor) -> None:
    with pytest.raises(ParityError, match="differ by up to nan"):
        check_parity(checkpoint.network(), FULL, edited(full, "gemm_00.bias", float("nan")), samples)


def test_the_graph_of_another_width_is_found(
    checkpoint: Checkpoint, proven: list[ProvenModel], samples: torch.Tensor
) -> None:
    with pytest.raises(ParityError, match="logits differ"):
        check_parity(checkpoint.network(), FULL, proven[0].files[MODEL_FILE], samples)


def test_other_names_are_found(checkpoint: Checkpoint, full: bytes, samples: torch.Tensor) -> None:
    proto = onnx.load_model_from_string(full)
    proto.graph.output[0].name = proto.graph.node[-1].output[0] = "scores"
    with pytest.raises(ParityError, match=r"inputs and outputs are .*scores"):
        check_parity(checkpoint.network(), FULL, proto.SerializeToString(), samples)


def test_another_number_of_classes_is_found(checkpoint: Checkpoint, full: bytes, samples: torch.Tensor) -> None:
    proto = onnx.load_model_from_string(full)
    for tensor in proto.graph.initializer:
        if tensor.name.startswith("gemm_00"):
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor)[:2].copy(), tensor.name))
    proto.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 2
    with pytest.raises(ParityError, match=r"logits have shape \(1, 2\) and should have \(1, 3\)"):
        check_parity(checkpoint.network(), FULL, proto.SerializeToString(), samples)


def test_a_fixed_batch_is_found(checkpoint: Checkpoint, full: bytes, samples: torch.Tensor) -> None:
    proto = onnx.load_model_from_string(full)
    proto.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    with pytest.raises(ParityError, match="a batch of 3 can't be run"):
        check_parity(checkpoint.network(), FULL, proto.SerializeToString(), samples)


def test_bytes_that_are_no_model_are_found(checkpoint: Checkpoint, samples: torch.Tensor) -> None:
    with pytest.raises(ParityError, match="can't load"):
        check_parity(checkpoint.network(), FULL, b"no model", samples)


def test_an_accuracy_that_differs_beyond_the_samples_is_found(checkpoint: Checkpoint, full: bytes) -> None:
    """A graph that clips bright pixels agrees on the dark samples and fails on the rest of the split."""
    network = checkpoint.network()
    dark, bright = toy_images(32).images // 4, toy_images(64, seed=3).images
    pixels = torch.cat([dark, bright])
    with torch.inference_mode():
        labels = network(pixels.float() / 255, FULL).argmax(1)
    images = InMemoryImages(checkpoint.images, pixels, labels)
    assert compare(network, FULL, full, images).accuracy_onnx == 1.0
    proto = onnx.load_model_from_string(full)
    proto.graph.initializer.append(numpy_helper.from_array(np.float32(0.25), "limit"))
    proto.graph.node[0].input[0] = "clipped"
    proto.graph.node.insert(0, onnx.helper.make_node("Clip", ["pixels", "", "limit"], ["clipped"]))
    with pytest.raises(ParityError, match=r"top-1 is 0\.\d+ in ONNX Runtime and 1\.0000 in PyTorch"):
        compare(network, FULL, proto.SerializeToString(), images)


def test_fewer_images_than_a_batch_are_repeated(
    checkpoint: Checkpoint, full: bytes, unseen_images: InMemoryImages
) -> None:
    few = replace(unseen_images, images=unseen_images.images[:5], labels=unseen_images.labels[:5])
    assert compare(checkpoint.network(), FULL, full, few).max_abs_diff < 1e-4
