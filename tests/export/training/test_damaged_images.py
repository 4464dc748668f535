"""Images that broke on the way end a training in a line."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from export.errors import DataUnavailableError
from export.training.datasets import load_images
from tests.test_damaged_files import damaged_png


def test_a_png_that_broke_is_named(tmp_path: Path) -> None:
    (tmp_path / "train" / "cats").mkdir(parents=True)
    (tmp_path / "train" / "cats" / "a.png").write_bytes(damaged_png())
    images = load_images("imagefolder", tmp_path, train=True, image_size=32)
    with pytest.raises(DataUnavailableError, match=r"a\.png is no image that can be read"):
        images.batch(torch.tensor([0]))
