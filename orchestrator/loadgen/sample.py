"""Labelled images, so that what is sent shows what was right."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from orchestrator.errors import ConfigError


@dataclass(frozen=True, slots=True)
class LabelledSample:
    """Images as a family takes them.

    Attributes:
        images: float32 [n, c, h, w], pixels in 0..1.
        labels: The true class of each image, int64 [n].
    """

    images: NDArray[np.float32]
    labels: NDArray[np.int64]


def load_sample(path: Path) -> LabelledSample:
    """Return the sample in ``path``; raises ConfigError when it can't be read or is no such file."""
    try:
        with path.open("rb") as source, np.load(source, allow_pickle=False) as arrays:
            images, labels = arrays["images"], arrays["labels"]
    except FileNotFoundError:
        raise ConfigError(f"no sample at {path}; run from a checkout, or give --sample") from None
    except (OSError, EOFError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as exc:
        raise ConfigError(f"{path} is no .npz file with 'images' and 'labels'") from exc
    if images.dtype != np.uint8 or images.ndim != 4 or len(images) != len(labels) or len(images) == 0:
        raise ConfigError(
            f"{path} holds images {images.dtype} {list(images.shape)} and {len(labels)} labels; "
            "it takes uint8 [n, c, h, w] and n labels"
        )
    return LabelledSample(images.astype(np.float32) / 255, labels.astype(np.int64))
