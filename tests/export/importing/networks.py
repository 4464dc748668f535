"""Small ONNX files as others would bring them, and runs of ``slimsched import`` on them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from click.testing import CliRunner, Result
from onnx import TensorProto, helper

from export.import_cli import import_
from tests.triton.onnx_models import build_model

CLASSES = 4


def slimsched_import(*arguments: object) -> Result:
    return CliRunner().invoke(import_, [str(argument) for argument in arguments])


def assert_refused(result: Result, message: str, repository: Path) -> None:
    """One line on standard error that says so, and nothing written."""
    assert result.exit_code == 1, result.output
    assert len(result.output.strip().splitlines()) == 1, result.output
    assert result.output.startswith("Error: ")
    assert message in result.output
    assert not repository.exists()


def classifier(
    bias: Sequence[float] = (0, 0, 0, 0), *, batch: int | str = "batch", name: str = "scores"
) -> onnx.ModelProto:
    """scores = x + bias over float32 [batch, 4]: the class is the largest of an item."""
    return build_model(
        [helper.make_node("Add", ["x", "bias"], [name])],
        [("x", TensorProto.FLOAT, [batch, CLASSES])],
        [(name, TensorProto.FLOAT, [batch, CLASSES])],
        {"bias": np.array(bias, np.float32)},
    )


def pair() -> onnx.ModelProto:
    """Two inputs of any length and two outputs: total = ids + 1 over int64, and mask over bool, in any order."""
    return build_model(
        [helper.make_node("Add", ["ids", "one"], ["total"]), helper.make_node("Not", ["hidden"], ["seen"])],
        [("ids", TensorProto.INT64, ["batch", "steps"]), ("hidden", TensorProto.BOOL, ["batch", "steps"])],
        [("total", TensorProto.INT64, ["batch", "steps"]), ("seen", TensorProto.BOOL, ["batch", "steps"])],
        {"one": np.ones(1, np.int64)},
    )


def counted() -> onnx.ModelProto:
    """An item without dims, in and out: y = x * n and more = n + 1 over float32 [batch, 4] and int64 [batch]."""
    return build_model(
        [
            helper.make_node("Cast", ["n"], ["as_float"], to=TensorProto.FLOAT),
            helper.make_node("Unsqueeze", ["as_float", "axes"], ["column"]),
            helper.make_node("Mul", ["x", "column"], ["y"]),
            helper.make_node("Add", ["n", "one"], ["more"]),
        ],
        [("x", TensorProto.FLOAT, ["batch", CLASSES]), ("n", TensorProto.INT64, ["batch"])],
        [("y", TensorProto.FLOAT, ["batch", CLASSES]), ("more", TensorProto.INT64, ["batch"])],
        {"axes": np.array([1]), "one": np.ones(1, np.int64)},
    )


def running_sum() -> onnx.ModelProto:
    """A first dim that is no batch: y[n] = x[0] + … + x[n] over float32 [steps, 2]."""
    return build_model(
        [helper.make_node("CumSum", ["x", "axis"], ["y"])],
        [("x", TensorProto.FLOAT, ["steps", 2])],
        [("y", TensorProto.FLOAT, ["steps", 2])],
        {"axis": np.array(0, np.int64)},
    )


def shifted_lookup() -> onnx.ModelProto:
    """y = table[x - 20] over int64 [batch, 1] and a table of ten: zeros can't be run."""
    return build_model(
        [helper.make_node("Sub", ["x", "shift"], ["index"]), helper.make_node("Gather", ["table", "index"], ["y"])],
        [("x", TensorProto.INT64, ["batch", 1])],
        [("y", TensorProto.INT64, ["batch", 1])],
        {"shift": np.array([20], np.int64), "table": np.arange(10)},
    )


def stretched_lookup() -> onnx.ModelProto:
    """y = table[20 x - 20] over int64 [batch, 1] and a table of ten: ones can be run, and zeros can't."""
    return build_model(
        [
            helper.make_node("Mul", ["x", "by"], ["stretched"]),
            helper.make_node("Sub", ["stretched", "by"], ["index"]),
            helper.make_node("Gather", ["table", "index"], ["y"]),
        ],
        [("x", TensorProto.INT64, ["batch", 1])],
        [("y", TensorProto.INT64, ["batch", 1])],
        {"by": np.array([20], np.int64), "table": np.arange(10)},
    )


def save(model: onnx.ModelProto, path: Path) -> Path:
    onnx.save(model, path)
    return path


def save_items(path: Path, count: int = 40, **more: np.ndarray) -> Path:
    """Items of ``classifier``, one class after another; the score of the right one is 1."""
    labels = np.arange(count) % CLASSES
    np.savez(path, **{"x": np.eye(CLASSES, dtype=np.float32)[labels], "labels": labels, **more})
    return path
