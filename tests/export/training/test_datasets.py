from __future__ import annotations

import gzip
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from export.errors import DataUnavailableError
from export.training.datasets import InMemoryImages, _unpack_debian_fashion_mnist, load_images
from tests.closed import closed
from tests.export.toys import write_image_folder

LABELS = np.array([9, 0, 3, 3], dtype=np.uint8)


def fabricate_package(folder: Path) -> np.ndarray:
    """Lay out the four files of the Debian package with a few random images in them."""
    folder.mkdir()
    images = np.random.default_rng(0).integers(0, 256, (len(LABELS), 28, 28), dtype=np.uint8)
    for split in ("train", "t10k"):
        header = b"\0\0\x08\x03" + b"".join(n.to_bytes(4, "big") for n in images.shape)
        (folder / f"{split}-images-idx3-ubyte.gz").write_bytes(gzip.compress(header + images.tobytes()))
        header = b"\0\0\x08\x01" + len(LABELS).to_bytes(4, "big")
        (folder / f"{split}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(header + LABELS.tobytes()))
    return images


def test_fashion_mnist_is_read_from_the_debian_package(tmp_path: Path) -> None:
    wanted = fabricate_package(tmp_path / "package")
    _unpack_debian_fashion_mnist(tmp_path / "package", tmp_path / "data")
    for train in (True, False):
        images = load_images("fashion-mnist", tmp_path / "data", train=train)
        assert isinstance(images, InMemoryImages)
        pixels, labels = images.batch(torch.tensor([2, 0]))
        assert pixels.dtype == torch.uint8
        assert np.array_equal(pixels.numpy()[:, 0], wanted[[2, 0]])
        assert labels.tolist() == [3, 9]
        assert images.spec.shape == (1, 28, 28)
        assert images.spec.labels[9] == "Ankle boot"


def test_files_that_are_there_are_not_unpacked_again(tmp_path: Path) -> None:
    fabricate_package(tmp_path / "package")
    raw = tmp_path / "data" / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    (raw / "train-images-idx3-ubyte").write_bytes(b"mine")
    _unpack_debian_fashion_mnist(tmp_path / "package", tmp_path / "data")
    assert (raw / "train-images-idx3-ubyte").read_bytes() == b"mine"
    assert len(list(raw.iterdir())) == 4


def test_an_image_folder_is_decoded_cropped_and_labelled(tmp_path: Path) -> None:
    write_image_folder(tmp_path, {"train": 3, "val": 2}, side=20)
    images = load_images("imagefolder", tmp_path, train=True, image_size=14)
    assert (len(images), images.spec.shape, images.spec.labels) == (6, (3, 14, 14), ("dark", "light"))
    pixels, labels = images.batch(torch.tensor([5, 0, 3]))
    assert pixels.shape == (3, 3, 14, 14)
    assert labels.tolist() == [1, 0, 1]
    assert pixels[1].float().mean() < 100 < pixels[0].float().mean()
    assert torch.equal(images.batch(torch.tensor([5]))[0][0], pixels[0])
    assert len(load_images("imagefolder", tmp_path, train=False, image_size=14)) == 4


@pytest.mark.parametrize("name", ["fashion-mnist", "cifar10", "cifar100"])
def test_data_that_can_not_be_had_is_one_clear_error(name: str, tmp_path: Path) -> None:
    """A file in place of the folder: nothing can be read from it, unpacked or downloaded into it."""
    (tmp_path / "data").write_text("not a folder")
    with pytest.raises(DataUnavailableError, match="--data-dir") as caught:
        load_images(name, tmp_path / "data", train=True)
    assert "\n" not in str(caught.value)


def test_a_data_folder_that_this_user_may_not_look_into_is_one_clear_error(tmp_path: Path) -> None:
    with closed(tmp_path), pytest.raises(DataUnavailableError, match=r"Permission denied|can't be downloaded"):
        load_images("fashion-mnist", tmp_path / "data", train=True)


def test_an_image_folder_without_splits_or_images_says_how_to_lay_it_out(tmp_path: Path) -> None:
    with pytest.raises(DataUnavailableError, match="train/<class>/<image>"):
        load_images("imagefolder", tmp_path, train=True)
    (tmp_path / "train").mkdir()
    with pytest.raises(DataUnavailableError, match="<class>/<image>"):
        load_images("imagefolder", tmp_path, train=True)


def test_an_unknown_name_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(DataUnavailableError, match="fashion-mnist, cifar10"):
        load_images("mnist", tmp_path, train=True)


def test_a_file_that_is_damaged_is_named_with_what_to_do(tmp_path: Path) -> None:
    fabricate_package(tmp_path / "package")
    _unpack_debian_fashion_mnist(tmp_path / "package", tmp_path / "data")
    images = tmp_path / "data" / "FashionMNIST" / "raw" / "train-images-idx3-ubyte"
    images.write_bytes(images.read_bytes()[:-100])
    with pytest.raises(DataUnavailableError, match=r"FashionMNIST is damaged or incomplete .*; remove that folder"):
        load_images("fashion-mnist", tmp_path / "data", train=True)


def test_more_than_8_bits_a_channel_are_refused_and_not_clipped(tmp_path: Path) -> None:
    write_image_folder(tmp_path, {"train": 1})
    deep = next((tmp_path / "train").rglob("*.png"))
    Image.fromarray(np.full((32, 32), 4000, np.uint16)).save(deep)
    images = load_images("imagefolder", tmp_path, train=True, image_size=16)
    with pytest.raises(DataUnavailableError, match="more than 8 bits a channel; convert it to 8 bits first"):
        images.batch(torch.arange(len(images)))


def test_a_class_whose_name_is_no_text_is_refused_before_the_training(tmp_path: Path) -> None:
    write_image_folder(tmp_path, {"train": 1})
    os.rename(tmp_path / "train" / "dark", os.fsencode(tmp_path / "train") + b"/d\xe4rk")
    with pytest.raises(
        DataUnavailableError, match=r"the name of the class 'd\\udce4rk' is not UTF-8; rename its folder"
    ):
        load_images("imagefolder", tmp_path, train=True, image_size=16)
