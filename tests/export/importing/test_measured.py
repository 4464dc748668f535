"""Qualities of detectors and regressions that ``slimsched import`` measures, and an image through what it recorded."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import TensorProto, helper
from PIL import Image

from export.repository.verification import verify_repository
from orchestrator.cli import main
from orchestrator.config import FleetSettings, ServerSettings, render_fleet
from orchestrator.embedded.server import EmbeddedOptions
from tests.export.importing.networks import assert_refused, save, slimsched_import
from tests.export.importing.test_import import parameters
from tests.triton.onnx_models import build_model
from tests.tritons import Tritons

BOXES = np.array([[0, 0, 10, 10, 0.9, 0], [20, 20, 30, 30, 0.8, 1]], np.float32)
"""x1, y1, x2, y2, score and class, as a detector answers and as the networks here are asked."""
PARTS = {"boxes": 4, "scores": 1, "classes": 1}


def detector(shift: float, outputs: Sequence[str] = ("found",)) -> onnx.ModelProto:
    """Answer the rows of BOXES that it is asked, the second moved to the right; as one output, or in three parts."""
    moved = np.zeros_like(BOXES)
    moved[1, [0, 2]] = shift
    widths = [6] if len(outputs) == 1 else list(PARTS.values())
    nodes = [helper.make_node("Add", ["asked", "moved"], ["rows"])]
    nodes += [helper.make_node("Split", ["rows", "widths"], list(outputs), axis=-1)]
    return build_model(
        nodes,
        [("asked", TensorProto.FLOAT, ["batch", 2, 6])],
        [(name, TensorProto.FLOAT, ["batch", 2, width]) for name, width in zip(outputs, widths, strict=True)],
        {"moved": moved, "widths": np.array(widths)},
    )


def save_scenes(path: Path, count: int = 5, **more: object) -> Path:
    """Items for ``detector`` whose labels have a row of a class below 0, which is no box."""
    label = np.array([[0, 0, 10, 10, 0], [20, 20, 30, 30, 1], [0, 0, 0, 0, -1]], np.float32)
    np.savez(path, **{"asked": np.stack([BOXES] * count), "labels": np.stack([label] * count), **more})  # type: ignore[arg-type]
    return path


def shifted(by: float) -> onnx.ModelProto:
    """y = x + by over float32 [batch, 1]."""
    return build_model(
        [helper.make_node("Add", ["x", "by"], ["y"])],
        [("x", TensorProto.FLOAT, ["batch", 1])],
        [("y", TensorProto.FLOAT, ["batch", 1])],
        {"by": np.array([by], np.float32)},
    )


def import_measured(folder: Path, models: Sequence[onnx.ModelProto], data: Path, metric: str, *more: object) -> Path:
    """Import two variants, the worse first, and return the repository, which is as ``verify`` wants it."""
    small, large = (save(model, folder / f"{index}.onnx") for index, model in enumerate(models))
    result = slimsched_import(
        "--family", "found", "--variant", f"30={small}", "--variant", f"100={large}", "--data", data,
        "--metric", metric, "--repository", folder / "models", *more,
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "Warning" not in result.output
    assert verify_repository(folder / "models").findings == ()
    return folder / "models"


def qualities(repository: Path, metric: str) -> list[float]:
    said = [parameters(repository, f"found_w{width}") for width in ("030", "100")]
    assert {found["slim.metric"] for found in said} == {metric}
    return [float(found["slim.accuracy"]) for found in said]


@pytest.mark.parametrize("outputs", [("found",), tuple(PARTS), ("raw_1", "raw_2", "raw_3")], ids=len)
def test_the_mean_average_precision_of_detectors_is_measured(outputs: tuple[str, ...], tmp_path: Path) -> None:
    renamed = [f"{raw}={name}" for raw, name in zip(outputs, PARTS, strict=False) if raw.startswith("raw")]
    models = [detector(8, outputs), detector(1, outputs)]  # of 10: overlaps of 0.11 and of 0.82
    rename = [word for pair in renamed for word in ("--rename", pair)]
    repository = import_measured(tmp_path, models, save_scenes(tmp_path / "scenes.npz"), "map-50", *rename)
    assert qualities(repository, "map-50") == [0.5, 1.0]


def test_labels_that_are_no_boxes_are_refused(tmp_path: Path) -> None:
    data = save_scenes(tmp_path / "scenes.npz", labels=np.zeros(5, np.int64))
    small = save(detector(0), tmp_path / "small.onnx")
    result = slimsched_import(
        "--family", "found", "--variant", f"30={small}", "--data", data, "--metric", "map-50",
        "--repository", tmp_path / "models",
    )  # fmt: skip
    assert_refused(result, "give [items, boxes, 5] of x1, y1, x2, y2, class", tmp_path / "models")


def test_a_mean_absolute_error_is_measured_turned_round(tmp_path: Path) -> None:
    x = np.arange(40, dtype=np.float32)[:, None] % 4  # a constant answer is off by 1
    np.savez(tmp_path / "numbers.npz", x=x, labels=x)
    metric = "mean-absolute-error"
    repository = import_measured(tmp_path, [shifted(0.75), shifted(-0.25)], tmp_path / "numbers.npz", metric)
    assert qualities(repository, metric) == [0.25, 0.75]


@pytest.mark.integration
def test_a_jpeg_goes_through_what_an_imported_family_says_of_images(tmp_path: Path, tritons: Tritons) -> None:
    """It is cut to its middle, and its channels are turned round; else the network sees another colour."""
    mean_of_channels = build_model(
        [helper.make_node("ReduceMean", ["image"], ["scores"], axes=[1, 2], keepdims=0)],
        [("image", TensorProto.FLOAT, ["batch", 8, 8, 3])],
        [("scores", TensorProto.FLOAT, ["batch", 3])],
    )
    (tmp_path / "names.txt").write_text("blue\ngreen\nred\n")
    path = save(mean_of_channels, tmp_path / "mean.onnx")
    result = slimsched_import(
        "--family", "colours", "--variant", f"100={path}", "--quality", "100=1",
        "--labels", tmp_path / "names.txt", "--repository", tmp_path / "models",
        "--preprocessing", "resize=8,colours=BGR,layout=HWC,scale=1,mean=103.9/116.8/123.7",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    pixels = np.zeros((16, 80, 3), np.uint8)
    pixels[..., 2], pixels[:, 32:48] = 255, (255, 0, 0)  # blue, but for the middle, which is red
    Image.fromarray(pixels).save(tmp_path / "sign.jpg", quality=95)
    with tritons.running(tmp_path / "models", EmbeddedOptions(exit_timeout_s=3)) as server:
        fleet = FleetSettings(servers=(ServerSettings(name="here", grpc=server.grpc_address),))
        (tmp_path / "fleet.yaml").write_text(render_fleet(fleet))
        asked = ["infer", "--fleet", str(tmp_path / "fleet.yaml"), "--json", str(tmp_path / "sign.jpg")]
        said = CliRunner().invoke(main, asked)
    assert said.exit_code == 0, said.output
    assert json.loads(said.stdout)["label"] == "red"
