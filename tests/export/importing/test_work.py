from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from google.protobuf import text_format
from onnx import TensorProto, helper
from tritonclient.grpc import model_config_pb2

from export.importing.variant import Variant, read_variant
from export.importing.work import count_flops
from export.width import Width
from tests.triton.onnx_models import build_model

ROOT = Path(__file__).parents[3]
FLOAT = TensorProto.FLOAT


def variant_of(model: onnx.ModelProto, folder: Path) -> Variant:
    onnx.save(model, folder / "model.onnx")
    return read_variant(Width(100), folder / "model.onnx", {})


@pytest.mark.parametrize("width", ["025", "050", "075", "100"])
def test_it_counts_what_the_export_counts(width: str) -> None:
    folder = ROOT / "model_repository" / f"fashion_w{width}"
    config = text_format.Parse((folder / "config.pbtxt").read_text(), model_config_pb2.ModelConfig())
    variant = read_variant(Width(int(width)), folder / "1" / "model.onnx", {})
    counted = count_flops(variant, {"pixels": np.zeros((1, 1, 28, 28), np.float32)})
    assert counted == int(config.parameters["slim.flops"].string_value)


def one_operator(
    kind: str, x: list[int], weights: dict[str, np.ndarray], y: list[int], **attributes: object
) -> onnx.ModelProto:
    node = helper.make_node(kind, ["x", *weights], ["y"], **attributes)
    return build_model([node], [("x", FLOAT, x)], [("y", FLOAT, y)], weights)


def ones(*shape: int) -> np.ndarray:
    return np.ones(shape, np.float32)


@pytest.mark.parametrize(
    ("model", "shape", "flops"),
    [
        (one_operator("MatMul", [1, 5], {"w": ones(5, 3)}, [1, 3]), (1, 5), 2 * 5 * 3),
        (one_operator("Gemm", [5, 1], {"w": ones(3, 5)}, [1, 3], transA=1, transB=1), (5, 1), 2 * 5 * 3),
        # Groups: each of 4 output channels sees 2 of 4 input channels in a window of 3.
        (one_operator("Conv", [1, 4, 8], {"w": ones(4, 2, 3)}, [1, 4, 6], group=2), (1, 4, 8), 2 * 4 * 6 * 2 * 3),
        # Each of 2 × 8 inputs is spread over 3 channels in a window of 3.
        (one_operator("ConvTranspose", [1, 2, 8], {"w": ones(2, 3, 3)}, [1, 3, 10]), (1, 2, 8), 2 * 2 * 8 * 3 * 3),
        # 7 steps, 4 gates of 2, from 3 inputs and 2 states.
        (
            one_operator("LSTM", [7, 1, 3], {"w": ones(1, 8, 3), "r": ones(1, 8, 2)}, [7, 1, 1, 2], hidden_size=2),
            (7, 1, 3),
            2 * 7 * 8 * (3 + 2),
        ),
        (one_operator("Add", [1, 5], {"w": ones(5)}, [1, 5]), (1, 5), 0),
    ],
)
def test_the_count_of_an_operator(model: onnx.ModelProto, shape: tuple[int, ...], flops: int, tmp_path: Path) -> None:
    assert count_flops(variant_of(model, tmp_path), {"x": ones(*shape)}) == flops


def test_of_branches_the_one_that_is_taken_counts(tmp_path: Path) -> None:
    def branch(width: int) -> onnx.GraphProto:
        weights = [helper.make_tensor(f"w{width}", FLOAT, [4, width], ones(4, width).ravel())]
        node = helper.make_node("MatMul", ["x", f"w{width}"], [f"y{width}"])
        return helper.make_graph(
            [node], f"b{width}", [], [helper.make_tensor_value_info(f"y{width}", FLOAT, None)], weights
        )

    choose = helper.make_node("If", ["wide"], ["y"], then_branch=branch(8), else_branch=branch(2))
    model = build_model([choose], [("x", FLOAT, [1, 4]), ("wide", TensorProto.BOOL, [])], [("y", FLOAT, [1, "n"])])
    variant = variant_of(model, tmp_path)
    for is_wide, width in ((True, 8), (False, 2)):
        assert count_flops(variant, {"x": ones(1, 4), "wide": np.array(is_wide)}) == 2 * 4 * width
