from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from orchestrator.errors import ConfigError
from orchestrator.images import read_arrays, read_image, softmax
from orchestrator.snapshot import Preprocessing, TensorSpec
from tests.damaged_archives import KINDS, save_damaged

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


def photograph(path: Path) -> Path:
    """Write a JPEG of 60x40 whose left third is red, middle third green, and right third blue."""
    image = np.zeros((40, 60, 3), np.uint8)
    for third, channel in enumerate(range(3)):
        image[:, third * 20 : (third + 1) * 20, channel] = 255
    Image.fromarray(image).save(path, quality=95)
    return path


def test_a_photograph_goes_through_what_the_family_says_of_it(tmp_path: Path) -> None:
    path = photograph(tmp_path / "a.jpg")
    spec = TensorSpec("image", "FP32", (3, 16, 16))
    usual = Preprocessing(resize=20, mean=(0.5, 0.25, 0.0), std=(0.5, 0.25, 1.0))
    pixels = read_image(path, spec, usual)
    assert pixels.dtype == np.float32
    assert pixels[:, 8, 8] == pytest.approx([-1.0, 3.0, 0.0], abs=0.1), "the middle is green, and normalised by channel"
    turned = read_image(path, TensorSpec("image", "UINT8", (20, 30, 3)), Preprocessing(colours="BGR", layout="HWC"))
    assert turned.dtype == np.uint8
    assert turned[10, 2].tolist() == pytest.approx([0, 0, 254], abs=6), "red comes last, and bytes stay bytes"
    assert read_image(path, TensorSpec("image", "FP32", (1, 3, 40, 60)), Preprocessing()).shape == (1, 3, 40, 60)
    grey = read_image(path, TensorSpec("image", "FP32", (1, 10, 10)), Preprocessing(colours="L", scale=1.0))
    assert grey.max() > 100, "not every family takes ratios"


@pytest.mark.parametrize(
    ("shape", "preprocessing", "problem"),
    [
        ((3, 30, 30), Preprocessing(resize=20), "is 30×20 after its resize to 20, below 30×30"),
        ((1, 16, 16), Preprocessing(), "no image of 3 channels as CHW and of fixed size"),
        ((16, 16, 3), Preprocessing(), "no image of 3 channels"),
        ((3, -1, 16), Preprocessing(), "give a .npz file"),
    ],
)
def test_what_a_preprocessing_cannot_make_of_an_image_is_explained(
    tmp_path: Path, shape: tuple[int, ...], preprocessing: Preprocessing, problem: str
) -> None:
    with pytest.raises(ConfigError, match=problem):
        read_image(photograph(tmp_path / "a.jpg"), TensorSpec("image", "FP32", shape), preprocessing)


def test_arrays_are_read_by_name_and_text_becomes_bytes(tmp_path: Path) -> None:
    specs = [TensorSpec("numbers", "FP32", (2,)), TensorSpec("text", "BYTES", (1,))]
    np.savez(tmp_path / "item.npz", numbers=np.ones(2, np.float32), text=np.array(["é"]), more=np.zeros(1))
    found = read_arrays(tmp_path / "item.npz", specs)
    assert found["numbers"].tolist() == [1, 1]
    assert found["text"].tolist() == ["é".encode()]
    np.savez(tmp_path / "other.npz", numbers=np.ones(2))
    with pytest.raises(ConfigError, match="lacks text; it holds numbers"):
        read_arrays(tmp_path / "other.npz", specs)
    with pytest.raises(ConfigError, match="no file at"):
        read_arrays(tmp_path / "absent.npz", specs)


@pytest.mark.parametrize("kind", KINDS)
def test_an_item_that_opens_and_can_not_be_read_is_refused(kind: str, tmp_path: Path) -> None:
    item = save_damaged(kind, tmp_path / "item.npz", numbers=np.ones(2, np.float32))
    with pytest.raises(ConfigError, match=r"is no \.npz file of plain arrays|lacks numbers"):
        read_arrays(item, [TensorSpec("numbers", "FP32", (2,))])
