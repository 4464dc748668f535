"""Image files as a family's network takes them: float32 [c, h, w], pixels in 0..1, nothing normalised."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from orchestrator.errors import ConfigError
from orchestrator.snapshot import TensorSpec

_MODES = {1: "L", 3: "RGB"}


def read_image(path: Path, spec: TensorSpec, *, resize: bool = False) -> NDArray[np.float32]:
    """Return the pixels of an image file in any format that Pillow reads, float32 [c, h, w] in 0..1.

    The input of the family has the shape [c, h, w]; ``resize`` scales to its size instead of refusing another. Raises
    ConfigError when the file is no image, can't be read or has the wrong size.
    """
    if len(spec.shape) != 3 or spec.shape[0] not in _MODES or min(spec.shape) < 1:
        raise ConfigError(f"input {spec.name!r} takes {list(spec.shape)}, no image of 1 or 3 channels and fixed size")
    channels, height, width = spec.shape
    try:
        with Image.open(path) as opened:
            mode = opened.mode
            image: Any = opened.convert(_MODES[channels])
    except FileNotFoundError:
        raise ConfigError(f"no image at {path}") from None
    except (UnidentifiedImageError, OSError, ValueError, Image.DecompressionBombError) as exc:
        raise ConfigError(f"{path} is no image that can be read; give a PNG or JPEG file") from exc
    if mode.startswith(("I", "F")):  # Pillow would clip them to 8 bits instead of scaling
        raise ConfigError(f"{path} has more than 8 bits a channel; convert it to 8 bits first")
    if image.size != (width, height):
        if not resize:
            raise ConfigError(
                f"{path} is {image.width}×{image.height}, the network takes {width}×{height}; add --resize to scale it"
            )
        image = image.resize((width, height), Image.Resampling.BILINEAR)
    pixels = np.asarray(image, dtype=np.float32) / 255
    return pixels.reshape(height, width, channels).transpose(2, 0, 1).copy()


def softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return probabilities along the last axis."""
    shifted = np.exp(logits - logits.max(axis=-1, keepdims=True))
    probabilities: NDArray[np.float32] = shifted / shifted.sum(axis=-1, keepdims=True)
    return probabilities
