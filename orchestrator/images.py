"""Image files, and files of arrays, as a family's networks take them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from orchestrator.errors import ConfigError
from orchestrator.snapshot import Preprocessing, TensorSpec

_PIXELS = {"FP32": np.float32, "FP16": np.float16, "FP64": np.float64, "UINT8": np.uint8}


def read_image(
    path: Path, spec: TensorSpec, preprocessing: Preprocessing | None = None, *, resize: bool = False
) -> NDArray[Any]:
    """Return an image file in any format that Pillow reads as one item of an input, without a batch dimension.

    ``preprocessing`` says what it goes through. Without it the image has to have the input's size, unless ``resize``
    scales it, and becomes 0..1 with its channels first. Raises ConfigError when the input takes no images, and when the
    file is no image, can't be read or has the wrong size.
    """
    wanted = preprocessing or Preprocessing(colours="L" if spec.shape[:1] == (1,) else "RGB")
    height, width = image_size(spec, wanted)
    image = _open(path, "L" if wanted.colours == "L" else "RGB")
    if preprocessing is not None and preprocessing.resize is not None:
        image = _cut(image, preprocessing.resize, (width, height), path)
    elif image.size != (width, height):
        if preprocessing is None and not resize:
            raise ConfigError(
                f"{path} is {image.width}×{image.height}, the network takes {width}×{height}; add --resize to scale it"
            )
        image = image.resize((width, height), Image.Resampling.BILINEAR)
    values = np.asarray(image).reshape(height, width, -1)
    if wanted.colours == "BGR":
        values = values[:, :, ::-1]
    if spec.datatype != "UINT8":
        pixels = values.astype(np.float32)
        scaled = pixels / 255 if preprocessing is None else pixels * np.float32(wanted.scale)
        values = (scaled - np.array(wanted.mean, np.float32)) / np.array(wanted.std, np.float32)
    if wanted.layout == "CHW":
        values = values.transpose(2, 0, 1)
    return np.ascontiguousarray(values, _PIXELS[spec.datatype]).reshape(spec.shape)


def image_size(spec: TensorSpec, wanted: Preprocessing) -> tuple[int, int]:
    """Return height and width of the images that an input takes; raises ConfigError when it takes none."""
    shape = spec.shape[1:] if len(spec.shape) == 4 and spec.shape[0] == 1 else spec.shape  # without a batch dimension
    channels = 1 if wanted.colours == "L" else 3
    sides = shape[1:] if wanted.layout == "CHW" else shape[:2]
    given = shape[0] if wanted.layout == "CHW" else shape[-1:] and shape[-1]
    if len(shape) != 3 or given != channels or min(shape) < 1 or spec.datatype not in _PIXELS:
        raise ConfigError(
            f"input {spec.name!r} takes {list(spec.shape)} of {spec.datatype}, no image of {channels} channels as "
            f"{wanted.layout} and of fixed size; give a .npz file with its arrays by name"
        )
    return sides[0], sides[1]


def _open(path: Path, mode: str) -> Any:
    try:
        with Image.open(path) as opened:
            own = opened.mode
            image: Any = opened.convert(mode)
    except FileNotFoundError:
        raise ConfigError(f"no image at {path}") from None
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as exc:  # the third is of a damaged PNG
        raise ConfigError(f"{path} is no image that can be read; give a PNG or JPEG file") from exc
    if own.startswith(("I", "F")):  # Pillow would clip them to 8 bits instead of scaling
        raise ConfigError(f"{path} has more than 8 bits a channel; convert it to 8 bits first")
    return image


def _cut(image: Any, shorter: int, size: tuple[int, int], path: Path) -> Any:
    """Return the middle of an image, of this width and height, after its shorter side was scaled.

    Rounded as torchvision rounds, with which most networks were trained: the longer side down, the margins to even.
    """
    scaled = image.resize([shorter * side // min(image.size) for side in image.size], Image.Resampling.BILINEAR)
    if scaled.width < size[0] or scaled.height < size[1]:
        now = f"{scaled.width}×{scaled.height}"
        raise ConfigError(f"{path} is {now} after its resize to {shorter}, below {size[0]}×{size[1]}")
    left, top = round((scaled.width - size[0]) / 2), round((scaled.height - size[1]) / 2)
    return scaled.crop((left, top, left + size[0], top + size[1]))


def read_archive(path: Path) -> dict[str, NDArray[Any]]:
    """Return the arrays of an .npz file by name.

    Raises FileNotFoundError when there is none, and ConfigError when it can't be read.
    """
    try:
        with path.open("rb") as source, np.load(source, allow_pickle=False) as arrays:
            loaded = {name: arrays[name] for name in arrays.files}
    except FileNotFoundError:
        raise
    except Exception as exc:  # numpy, zipfile and zlib raise a dozen kinds for a damaged file
        raise ConfigError(f"{path} is no .npz file of plain arrays that can be read") from exc
    return {name: array for name, array in loaded.items() if isinstance(array, np.ndarray)}  # others are bytes


def read_arrays(path: Path, specs: Sequence[TensorSpec]) -> dict[str, NDArray[Any]]:
    """Return the inputs of one item that an .npz file holds by name, text as bytes.

    Raises ConfigError when it can't be read or lacks one.
    """
    try:
        found = read_archive(path)
    except FileNotFoundError:
        raise ConfigError(f"no file at {path}") from None
    missing = [spec.name for spec in specs if spec.name not in found]
    if missing:
        raise ConfigError(f"{path} lacks {', '.join(missing)}; it holds {', '.join(found) or 'nothing'}")
    return {spec.name: as_text(found[spec.name]) if spec.datatype == "BYTES" else found[spec.name] for spec in specs}


def as_text(array: NDArray[Any]) -> NDArray[Any]:
    """Return an array of numpy's text or bytes as bytes objects."""
    return np.char.encode(array, "utf-8").astype(object) if array.dtype.kind == "U" else array.astype(object)


def softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return probabilities along the last axis; NaN where no score is above minus infinity, or one is infinite."""
    with np.errstate(invalid="ignore"):
        shifted = np.exp(logits - logits.max(axis=-1, keepdims=True))
        probabilities: NDArray[np.float32] = shifted / shifted.sum(axis=-1, keepdims=True)
    return probabilities
