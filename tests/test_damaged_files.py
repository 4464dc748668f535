"""Files of users that broke on the way: each is one line that says so, whatever its reader raises."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from orchestrator.errors import ConfigError
from orchestrator.images import read_arrays, read_image
from orchestrator.loadgen.sample import load_sample
from orchestrator.snapshot import TensorSpec


def damaged_png() -> bytes:
    """A PNG whose second piece of data has another name."""
    pixels = np.random.default_rng(0).integers(0, 256, (200, 200, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    first, second, rest = buffer.getvalue().split(b"IDAT", 2)
    return first + b"IDAT" + second + b"I:AT" + rest


def damaged_archives() -> dict[str, bytes]:
    """Archives in which one byte is another: of what is compressed, and of the version of zip."""
    buffer = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 9, (10, 1, 28, 28), np.uint8)
    np.savez_compressed(buffer, images=pixels, labels=np.zeros(10, np.int64))
    whole = buffer.getvalue()
    content, version = bytearray(whole), bytearray(whole)
    content[whole.index(b"images.npy") + 30] = 0xFF
    version[whole.index(b"PK\x01\x02") + 6] = 120
    return {"content": bytes(content), "version": bytes(version)}


def test_a_png_that_broke_is_a_line(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(damaged_png())
    with pytest.raises(ConfigError, match=r"a\.png is no image that can be read"):
        read_image(tmp_path / "a.png", TensorSpec("pixels", "FP32", (3, 200, 200)))


@pytest.mark.parametrize("kind", damaged_archives())
def test_an_archive_that_broke_is_a_line(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a.npz"
    path.write_bytes(damaged_archives()[kind])
    for read in (load_sample, lambda path: read_arrays(path, ())):
        with pytest.raises(ConfigError, match=r"a\.npz is no \.npz file of plain arrays that can be read"):
            read(path)
