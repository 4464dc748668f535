from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from export.errors import ExportError
from export.network.subnet import cut_subnet
from export.training.checkpoint import Checkpoint
from export.training.report import plot_accuracy_flops, width_results
from tests.export.toys import WIDTHS


def test_every_width_has_a_row(checkpoint: Checkpoint) -> None:
    results = width_results(checkpoint)
    assert [result.width for result in results] == list(WIDTHS)
    assert [result.accuracy for result in results] == [0.5] * 4
    assert [result.flops for result in results] == sorted({result.flops for result in results})
    narrow = cut_subnet(checkpoint.network(), WIDTHS[0], checkpoint.images.shape)
    assert results[0].parameters == sum(p.numel() for p in narrow.parameters())


def test_the_picture_is_a_png_and_the_same_each_time(checkpoint: Checkpoint, tmp_path: Path) -> None:
    results = width_results(checkpoint)
    for name in ("one.png", "two.png"):
        plot_accuracy_flops(results, "toys", tmp_path / name)
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()
    with Image.open(tmp_path / "one.png") as picture:
        assert picture.format == "PNG"
        assert picture.size == (960, 600)


def test_a_place_that_can_not_be_written_is_one_line(checkpoint: Checkpoint, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="--out"):
        plot_accuracy_flops(width_results(checkpoint), "toys", tmp_path / "none" / "a.png")
