"""What is sent: items of a model's inputs, with labels where it is known what is right."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from orchestrator.errors import ConfigError
from orchestrator.images import read_archive
from orchestrator.loadgen.judge import TOP_1


@dataclass(frozen=True, slots=True)
class Sample:
    """Items of any kind.

    Attributes:
        inputs: The items of each input, [n, ...], in the order of the target's; each as the model takes it without a
            batch dimension. Text is of numpy's kinds U or S.
        labels: What is right of each item, [n, ...]; None: nobody knows.
        metric: How answers are judged, see orchestrator.loadgen.judge; None: not at all.
        output: The output that the metric is about; None: the only one, of top-1 the first.
    """

    inputs: tuple[NDArray[Any], ...]
    labels: NDArray[Any] | None = None
    metric: str | None = None
    output: str | None = None


@dataclass(frozen=True, slots=True)
class LabelledSample:
    """Images as a classifier takes them.

    Attributes:
        images: float32 [n, c, h, w], pixels in 0..1.
        labels: The true class of each image, int64 [n].
    """

    images: NDArray[np.float32]
    labels: NDArray[np.int64]

    def sent(self) -> Sample:
        """Return them as what is sent to a target of one input."""
        return Sample((self.images,), self.labels, TOP_1)


def load_sample(path: Path) -> LabelledSample:
    """Return the images in ``path``; raises ConfigError when it can't be read or is no such file."""
    return as_images(read_arrays(path), path)


def read_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """Return the arrays of an .npz file by name; raises ConfigError when it can't be read."""
    try:
        return read_archive(path)
    except FileNotFoundError:
        raise ConfigError(f"no sample at {path}; name another with --sample") from None


def as_images(arrays: dict[str, NDArray[Any]], path: Path) -> LabelledSample:
    """Return the images among the arrays of a file; raises ConfigError when there are none."""
    if not {"images", "labels"} <= arrays.keys():
        raise ConfigError(f"{path} is no .npz file with 'images' and 'labels'; it has {', '.join(arrays) or 'nothing'}")
    images, labels = arrays["images"], arrays["labels"]
    if images.dtype != np.uint8 or images.ndim != 4 or labels.shape != images.shape[:1] or len(images) == 0:
        raise ConfigError(
            f"{path} holds images {images.dtype} {list(images.shape)} and labels {list(labels.shape)}; "
            "it takes uint8 [n, c, h, w] and [n]"
        )
    return LabelledSample(images.astype(np.float32) / 255, labels.astype(np.int64))
