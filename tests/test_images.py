from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from orchestrator.errors import ConfigError
from orchestrator.images import read_image, softmax
from orchestrator.snapshot import TensorSpec

GREY = TensorSpec("pixels", "FP32", (1, 28, 28))
COLOUR = TensorSpec("pixels", "FP32", (3, 4, 6))
SAMPLES = Path(__file__).parent.parent / "examples" / "fashion-mnist"


def test_a_grey_image_is_read_as_pixels_from_0_to_1() -> None:
    pixels = read_image(SAMPLES / "images" / "ankle-boot.png", GREY)
    with np.load(SAMPLES / "test_1000.npz") as sample:
        expected = sample["images"][np.flatnonzero(sample["labels"] == 9)[0]]
    assert pixels.dtype == np.float32
    assert np.array_equal(pixels, expected.astype(np.float32) / 255)


def test_channels_come_first_and_rows_before_columns(tmp_path: Path) -> None:
    image = np.zeros((4, 6, 3), np.uint8)
    image[1, 2] = (255, 51, 0)
    Image.fromarray(image).save(tmp_path / "a.png")
    pixels = read_image(tmp_path / "a.png", COLOUR)
    assert pixels.shape == (3, 4, 6)
    assert pixels[:, 1, 2].tolist() == pytest.approx([1.0, 0.2, 0.0])
    assert pixels.sum() == pytest.approx(1.2)


def test_another_size_is_refused_unless_resizing_is_asked_for(tmp_path: Path) -> None:
    Image.new("RGB", (12, 8), (255, 0, 0)).save(tmp_path / "a.png")
    with pytest.raises(ConfigError, match="is 12×8, the network takes 6×4; add --resize"):
        read_image(tmp_path / "a.png", COLOUR)
    assert read_image(tmp_path / "a.png", COLOUR, resize=True)[0] == pytest.approx(np.ones((4, 6)))


def test_what_is_no_image_is_named(tmp_path: Path) -> None:
    text = tmp_path / "notes.png"
    text.write_text("not an image")
    broken = tmp_path / "broken.png"
    broken.write_bytes((SAMPLES / "images" / "bag.png").read_bytes()[:100])
    for path, problem in [(text, "is no image"), (broken, "is no image"), (tmp_path / "absent.png", "no image at")]:
        with pytest.raises(ConfigError, match=problem):
            read_image(path, GREY)


def test_more_than_8_bits_are_refused_instead_of_clipped(tmp_path: Path) -> None:
    Image.fromarray(np.full((28, 28), 30000, np.uint16)).save(tmp_path / "deep.png")
    with pytest.raises(ConfigError, match="more than 8 bits"):
        read_image(tmp_path / "deep.png", GREY)


def test_an_input_that_is_no_image_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"takes \[3, -1, -1\]"):
        read_image(SAMPLES / "images" / "bag.png", TensorSpec("x", "FP32", (3, -1, -1)), resize=True)
    with pytest.raises(ConfigError, match=r"takes \[5\]"):
        read_image(SAMPLES / "images" / "bag.png", TensorSpec("x", "FP32", (5,)))


@given(st.lists(st.floats(-1e4, 1e4, width=32), min_size=1, max_size=20))
def test_softmax_gives_probabilities_in_the_order_of_the_scores(scores: list[float]) -> None:
    logits = np.array(scores, np.float32)
    probabilities = softmax(logits)
    assert probabilities.sum() == pytest.approx(1, abs=1e-5)
    assert (probabilities >= 0).all()
    assert probabilities[logits.argmax()] == probabilities.max()
