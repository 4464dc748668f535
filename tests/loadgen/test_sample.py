"""Samples, as they ship and as they may be given."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from orchestrator.errors import ConfigError
from orchestrator.loadgen.sample import load_sample
from orchestrator.loadgen.sample_files import read_sample
from orchestrator.loadgen.target import Target
from orchestrator.snapshot import Preprocessing, TensorSpec
from tests.closed import closed
from tests.damaged_archives import KINDS, save_damaged

SHIPPED = Path(__file__).parents[2] / "examples" / "fashion-mnist" / "test_1000.npz"
PAIR = Target(
    "grpc",
    "a:1",
    "pairs",
    (TensorSpec("ids", "INT64", (-1,)), TensorSpec("text", "BYTES", (1,))),
    ("total", "seen"),
    is_batching=True,
    is_gateway=True,
)
PHOTOS = replace(
    PAIR, outputs=("scores",), inputs=(TensorSpec("pixels", "FP32", (3, 4, 4)),), preprocessing=Preprocessing(resize=5)
)
IDS, TEXT = np.arange(6).reshape(2, 3), np.array([["a"], ["bc"]])


def save(folder: Path, **arrays: object) -> Path:
    np.savez(folder / "a.npz", **arrays)  # type: ignore[arg-type]
    return folder / "a.npz"


def draw(path: Path, value: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (6, 5), (value, 0, 0)).save(path)


def test_the_shipped_sample_is_a_thousand_labelled_images() -> None:
    sample = load_sample(Path(__file__).parents[2] / "examples" / "fashion-mnist" / "test_1000.npz")
    assert sample.images.shape == (1000, 1, 28, 28)
    assert 0 <= sample.images.min() < sample.images.max() <= 1
    assert sorted(set(sample.labels.tolist())) == list(range(10))


@pytest.mark.parametrize("content", [b"", b"text", b"PK\x03\x04 truncated"])
def test_what_is_no_sample_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(ConfigError, match=r"is no \.npz file"):
        load_sample(tmp_path / "a.npz")
    with pytest.raises(ConfigError, match="no sample at"):
        load_sample(tmp_path / "b.npz")


@pytest.mark.parametrize("kind", KINDS)
def test_a_sample_that_opens_and_can_not_be_read_is_refused(kind: str, tmp_path: Path) -> None:
    images = np.zeros((2, 1, 4, 4), np.uint8)
    with pytest.raises(ConfigError, match=r"is no \.npz file"):
        load_sample(save_damaged(kind, tmp_path / "a.npz", images=images, labels=np.zeros(2, int)))


def test_arrays_go_to_the_inputs_of_their_names_and_labels_are_judged_as_the_model_says(tmp_path: Path) -> None:
    path = save(tmp_path, text=TEXT, ids=IDS, labels=np.zeros((2, 3)))
    sample = read_sample(path, replace(PAIR, metric="mean-absolute-error"), output="total")
    assert [array.tolist() for array in sample.inputs] == [IDS.tolist(), TEXT.tolist()]
    assert (sample.metric, sample.output) == ("mean-absolute-error", "total")
    assert read_sample(path, replace(PAIR, metric="mine:metric")).metric is None, "a server names no code to run"
    assert read_sample(path, replace(PAIR, metric="given")).metric is None
    assert read_sample(path, PAIR, metric="mine:metric").metric == "mine:metric"
    classes = save(tmp_path, text=TEXT, ids=IDS, labels=np.array([0, 1]))
    assert read_sample(classes, replace(PAIR, outputs=("total",))).metric == "top-1"
    assert read_sample(classes, PAIR).metric is None, "of two outputs nobody said which has the scores"
    assert read_sample(classes, PAIR, output="seen").metric == "top-1"
    unlabelled = read_sample(save(tmp_path, text=TEXT, ids=IDS), PAIR)
    assert (unlabelled.labels, unlabelled.metric) == (None, None)


def test_the_shipped_images_go_to_any_only_input_and_an_item_may_lack_the_one_of_a_fixed_batch() -> None:
    images = replace(PAIR, inputs=(TensorSpec("x", "FP32", (1, 28, 28)),))
    assert read_sample(SHIPPED, images).inputs[0].shape == (1000, 1, 28, 28)
    fixed = replace(PAIR, inputs=(TensorSpec("x", "FP32", (1, 1, 28, 28)),), is_batching=False)
    assert read_sample(SHIPPED, fixed).inputs[0].shape == (1000, 1, 1, 28, 28)


@pytest.mark.parametrize(
    ("arrays", "problem"),
    [
        ({"ids": IDS}, "has no array 'text', it has ids; pairs takes ids, text"),
        ({"ids": IDS.astype(np.int32), "text": TEXT}, r"items of ids are int32 \[3\], pairs takes INT64 \[-1\]"),
        ({"ids": IDS, "text": np.array([["a", "b"]])}, r"items of text are <U1 \[2\], pairs takes BYTES \[1\]"),
        ({"ids": IDS[:1], "text": TEXT}, r"has \[1, 2\] items; give as many of each array"),
        ({"ids": IDS, "text": TEXT, "labels": np.array(1)}, "items; give as many of each array"),
    ],
)
def test_arrays_that_the_model_does_not_take_are_refused(
    tmp_path: Path, arrays: dict[str, object], problem: str
) -> None:
    with pytest.raises(ConfigError, match=problem):
        read_sample(save(tmp_path, **arrays), PAIR)


def test_a_metric_without_labels_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--metric top-5: nothing in .* is labelled"):
        read_sample(save(tmp_path, ids=IDS, text=TEXT), PAIR, metric="top-5")


def test_images_go_through_what_the_family_says_and_folders_name_their_classes(tmp_path: Path) -> None:
    draw(tmp_path / "dog" / "1.jpg", 0)
    draw(tmp_path / "cat" / "1.png", 255)
    sample = read_sample(tmp_path, PHOTOS)
    assert sample.inputs[0].shape == (2, 3, 4, 4)
    assert sample.inputs[0][0, 0] == pytest.approx(1), "cat goes first"
    assert sample.labels is not None
    assert (sample.labels.tolist(), sample.metric) == ([0, 1], "top-1")
    known = read_sample(tmp_path, replace(PHOTOS, labels=("dog", "bird", "cat"))).labels
    assert known is not None
    assert known.tolist() == [2, 0]
    with pytest.raises(ConfigError, match="'cat' is none of the model's classes dog"):
        read_sample(tmp_path, replace(PHOTOS, labels=("dog",)))
    with pytest.raises(ConfigError, match=r"pairs takes ids, text; give an \.npz file"):
        read_sample(tmp_path, PAIR)
    with pytest.raises(ConfigError, match="6×5, the network takes 4×4; add --resize"):
        read_sample(tmp_path, replace(PHOTOS, preprocessing=None))
    assert len(read_sample(tmp_path, replace(PHOTOS, preprocessing=None), resize=True).inputs[0]) == 2


def test_folders_that_are_numbers_are_classes_by_number_and_of_many_images_some_are_taken(tmp_path: Path) -> None:
    for name in ("2", "10"):
        for index in range(3):
            draw(tmp_path / name / f"{index}.png", 0)
    labels = read_sample(tmp_path, PHOTOS).labels
    assert labels is not None
    assert labels.tolist() == [10, 10, 10, 2, 2, 2]
    labels = read_sample(tmp_path, PHOTOS, most_images=3).labels
    assert labels is not None
    assert labels.tolist() == [10, 10, 2]


def test_a_list_names_images_with_classes_or_without(tmp_path: Path) -> None:
    for index in range(2):
        draw(tmp_path / f"{index}.png", index)
    (tmp_path / "list.txt").write_text("0.png\tcat\n1.png\t1\n")
    labels = read_sample(tmp_path / "list.txt", replace(PHOTOS, labels=("dog", "bird", "cat"))).labels
    assert labels is not None
    assert labels.tolist() == [2, 1]
    (tmp_path / "list.txt").write_text("0.png\n1.png\n")
    assert read_sample(tmp_path / "list.txt", PHOTOS).labels is None
    assert read_sample(tmp_path, PHOTOS).labels is None, "there are no folders in the folder"
    (tmp_path / "list.txt").write_text("")
    with pytest.raises(ConfigError, match="names no images"):
        read_sample(tmp_path / "list.txt", PHOTOS)


@pytest.mark.parametrize("name", ["sample.npz", "list.txt"])
def test_a_sample_that_this_user_may_not_look_into_is_named(name: str, tmp_path: Path) -> None:
    with closed(tmp_path), pytest.raises(ConfigError, match=f"{name} .*can be read|can't read .*{name}"):
        read_sample(tmp_path / name, PHOTOS)
