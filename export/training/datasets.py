"""Labelled image sets, read with torchvision and handed out as batches of uint8 pixels.

The small sets (28×28 and 32×32) live in memory as one tensor; an image folder is decoded batch by batch in
threads, which the decoder allows because it releases the interpreter lock. Either way an index vector gives the
same batch every time, which is what makes a resumed training equal an uninterrupted one; worker processes with
random states of their own would not.
"""

from __future__ import annotations

import gzip
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image
from torchvision import datasets as tv
from torchvision.transforms import functional as pixels

from export.errors import DataUnavailableError
from export.network.protocol import Task

DEBIAN_FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")
"""Folder in which the Debian package dataset-fashion-mnist puts its files."""

DATASET_NAMES = ("fashion-mnist", "cifar10", "cifar100", "imagefolder")
_DECODE_THREADS = 8


@dataclass(frozen=True, slots=True)
class ImageSpec:
    """What a network must know of the images it is trained on.

    Attributes:
        channels: The number of channels, 1 or 3; height and width are in pixels.
        mean: The mean of each channel, pixels in 0..1.
        std: The standard deviation of each channel, pixels in 0..1.
        labels: The class names; the index is the class.
    """

    name: str
    channels: int
    height: int
    width: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    labels: tuple[str, ...]

    @property
    def shape(self) -> tuple[int, int, int]:
        """The channels, height and width of an image."""
        return (self.channels, self.height, self.width)

    @property
    def preprocessing(self) -> Mapping[str, Any]:
        """What an image file goes through to become one of these, as ``slim.preprocessing`` has it; empty: unsaid.

        The rest is as the network takes it: pixels in 0..1, channels first; it normalises them itself.
        """
        match self.name:
            case "imagefolder":
                return {"colours": "RGB", "resize": shorter_side(self.height)}
            case "cifar10" | "cifar100":
                return {"colours": "RGB"}
            case _:
                return {}

    @property
    def task(self) -> Task:
        """What a network for these images has to do."""
        return Task(len(self.labels), self.shape, self.mean, self.std)


def shorter_side(crop: int) -> int:
    """Return what the shorter side of an image is scaled to before a square of ``crop`` pixels is cut from it."""
    return crop * 8 // 7


class ImageSet(Protocol):
    """One split of a data set."""

    @property
    def spec(self) -> ImageSpec:
        """What the images look like."""

    def __len__(self) -> int: ...

    def batch(self, indices: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return uint8 [n, c, h, w] pixels and int64 [n] labels of the given int64 [n] indices."""


@dataclass(frozen=True, slots=True)
class InMemoryImages:
    """A split held as one tensor."""

    spec: ImageSpec
    images: torch.Tensor
    labels: torch.Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def batch(self, indices: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return a batch; see ``ImageSet``."""
        return self.images[indices], self.labels[indices]


@dataclass(frozen=True, slots=True)
class FolderImages:
    """A split read from ``<class>/<image>`` files: shorter side resized to 8/7 of the crop, then centre crop."""

    spec: ImageSpec
    files: tuple[tuple[str, int], ...]

    def __len__(self) -> int:
        return len(self.files)

    def _decode(self, path: str) -> torch.Tensor:
        try:
            with Image.open(path) as opened:
                own, image = opened.mode, opened.convert("RGB")
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as exc:  # the third is of a damaged PNG
            raise DataUnavailableError(f"{path} is no image that can be read; remove or replace it") from exc
        if own.startswith(("I", "F")):  # Pillow would clip them to 8 bits instead of scaling
            raise DataUnavailableError(f"{path} has more than 8 bits a channel; convert it to 8 bits first")
        image = pixels.resize(image, shorter_side(self.spec.height))
        cropped: torch.Tensor = pixels.pil_to_tensor(pixels.center_crop(image, self.spec.height))
        return cropped

    def batch(self, indices: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return a batch; see ``ImageSet``."""
        chosen = [self.files[int(i)] for i in indices]
        with ThreadPoolExecutor(_DECODE_THREADS) as pool:
            images = list(pool.map(self._decode, [path for path, _ in chosen]))
        return torch.stack(images), torch.tensor([label for _, label in chosen])


def load_images(name: str, data_dir: Path, *, train: bool, image_size: int = 224) -> ImageSet:
    """Return the training or the test split of a data set, one of DATASET_NAMES.

    ``data_dir`` is where the set lies or is downloaded to; for ``imagefolder`` it holds ``train/<class>/`` and
    ``val/<class>/`` (or ``test/<class>/``), and images are cropped to squares of ``image_size`` pixels. Raises
    DataUnavailableError when the set is neither there nor can be had.
    """
    if name == "fashion-mnist":
        return _load_fashion_mnist(data_dir, train=train)
    if name == "cifar10":
        return _load_cifar(tv.CIFAR10, name, data_dir, train=train)
    if name == "cifar100":
        return _load_cifar(tv.CIFAR100, name, data_dir, train=train)
    if name == "imagefolder":
        return _load_folder(data_dir, train=train, image_size=image_size)
    raise DataUnavailableError(f"unknown data set {name!r}; known are {', '.join(DATASET_NAMES)}")


def _read(dataset: Callable[..., Any], name: str, data_dir: Path, *, train: bool, hint: str, folder: str) -> Any:
    """Open a torchvision set from disk, where it is in a folder of that name, else download it."""
    try:
        return dataset(str(data_dir), train=train, download=False)
    except (RuntimeError, OSError, EOFError, ValueError, AssertionError):
        pass  # not there or damaged: fetch it
    try:
        return dataset(str(data_dir), train=train, download=True)
    except Exception as exc:  # urllib, ssl, tarfile and torchvision each raise their own
        if any(files for _, _, files in os.walk(data_dir / folder)):
            raise DataUnavailableError(
                f"{name} in {data_dir / folder} is damaged or incomplete ({type(exc).__name__}: {_first_line(exc)}); "
                f"remove that folder and run this again, or {hint}"
            ) from exc
        raise DataUnavailableError(
            f"{name} is not in {data_dir} and can't be downloaded ({type(exc).__name__}: {_first_line(exc)}); {hint}"
        ) from exc


def _first_line(exc: BaseException) -> str:
    lines = str(exc).strip().splitlines()
    return lines[0] if lines else "no reason given"


def _load_fashion_mnist(data_dir: Path, *, train: bool) -> InMemoryImages:
    _unpack_debian_fashion_mnist(DEBIAN_FASHION_MNIST, data_dir)
    hint = (
        "connect to a network, or 'apt-get install dataset-fashion-mnist', "
        "or put torchvision's FashionMNIST folder into --data-dir"
    )
    raw = _read(tv.FashionMNIST, "fashion-mnist", data_dir, train=train, hint=hint, folder="FashionMNIST")
    # Mean and standard deviation of the 60,000 training images, pixels in 0..1.
    spec = ImageSpec("fashion-mnist", 1, 28, 28, (0.2860,), (0.3530,), tuple(raw.classes))
    return InMemoryImages(spec, raw.data.unsqueeze(1), raw.targets.long())


def _unpack_debian_fashion_mnist(package: Path, data_dir: Path) -> None:
    """Unpack the Debian package's files to where torchvision looks, unless they are there."""
    raw = data_dir / "FashionMNIST" / "raw"
    for packed in sorted(package.glob("*-ubyte.gz")):
        target = raw / packed.stem
        try:
            if target.exists():
                continue
            raw.mkdir(parents=True, exist_ok=True)
            partial = target.with_suffix(".partial")
            with gzip.open(packed, "rb") as source, partial.open("wb") as sink:
                shutil.copyfileobj(source, sink)
            partial.replace(target)
        except OSError as exc:
            raise DataUnavailableError(f"can't write {target} ({exc.strerror}); give a writable --data-dir") from exc


def _load_cifar(dataset: type[tv.CIFAR10], name: str, data_dir: Path, *, train: bool) -> InMemoryImages:
    hint = "connect to a network, or put torchvision's copy (cifar-*-batches-py or cifar-100-python) into --data-dir"
    raw = _read(dataset, name, data_dir, train=train, hint=hint, folder=dataset.base_folder)
    # Mean and standard deviation of the 50,000 training images, pixels in 0..1.
    mean, std = {
        "cifar10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
        "cifar100": ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
    }[name]
    images = torch.from_numpy(np.ascontiguousarray(raw.data.transpose(0, 3, 1, 2)))
    spec = ImageSpec(name, 3, 32, 32, mean, std, tuple(raw.classes))
    return InMemoryImages(spec, images, torch.tensor(raw.targets))


def _load_folder(data_dir: Path, *, train: bool, image_size: int) -> FolderImages:
    splits: Sequence[str] = ("train",) if train else ("val", "test")
    folder = next((data_dir / split for split in splits if os.path.isdir(data_dir / split)), None)
    if folder is None:
        raise DataUnavailableError(
            f"{data_dir} has no folder {' or '.join(splits)}; lay images out as "
            f"{data_dir}/train/<class>/<image> and {data_dir}/val/<class>/<image>"
        )
    try:
        found = tv.ImageFolder(str(folder))
    except (OSError, RuntimeError) as exc:
        raise DataUnavailableError(f"{folder} holds no <class>/<image> files: {_first_line(exc)}") from exc
    foreign = next((name for name in found.classes if name != name.encode(errors="replace").decode()), None)
    if foreign is not None:  # as os.fsdecode has it; labels are written as UTF-8
        raise DataUnavailableError(f"{folder}: the name of the class {foreign!r} is not UTF-8; rename its folder")
    # The usual ImageNet constants (torchvision's models), pixels in 0..1.
    spec = ImageSpec(
        "imagefolder",
        3,
        image_size,
        image_size,
        (0.485, 0.456, 0.406),
        (0.229, 0.224, 0.225),
        tuple(found.classes),
    )
    return FolderImages(spec, tuple(found.samples))
