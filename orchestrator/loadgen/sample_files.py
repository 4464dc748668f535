"""Samples in files, as a target takes them: arrays by the names of its inputs, or image files.

Images go through what the family says of them, as with ``slimsched infer``. They are read whole before anything is
sent, so of a large folder some are taken, spread over all of it.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from orchestrator.errors import ConfigError
from orchestrator.images import read_image
from orchestrator.loadgen.judge import TOP_1
from orchestrator.loadgen.sample import Sample, as_images, read_arrays
from orchestrator.loadgen.target import Target
from orchestrator.snapshot import TensorSpec
from orchestrator.triton.infer_wire import NUMPY_TYPES

LABELS: Final = "labels"
_MOST_BYTES: Final = 2**28
"""Of all images as arrays; each sender has them twice."""
_SUFFIXES: Final = (".png", ".jpg", ".jpeg")
_GIVEN: Final = "given"
"""What ``slimsched import`` writes as the metric of qualities that it did not measure."""


def read_sample(
    path: Path,
    target: Target,
    *,
    metric: str | None = None,
    output: str | None = None,
    resize: bool = False,
    most_images: int = 1000,
) -> Sample:
    """Return the sample in an .npz file, in a folder of images or in a list of images (.txt), for a target.

    A metric that is asked for goes before the model's own; ``resize`` is that of ``read_image``.

    Raises:
        ConfigError: It can't be read, the target takes something else, or a metric is asked for without labels.
    """
    if os.path.isdir(path) or path.suffix == ".txt":
        inputs, labels = _read_images(path, target, most_images, resize=resize)
    else:
        inputs, labels = _read_npz(path, target)
    if labels is None and metric is not None:
        raise ConfigError(f"--metric {metric}: nothing in {path} is labelled; give labels, or leave --metric out")
    return Sample(inputs, labels, None if labels is None else metric or _metric_of(target, labels, output), output)


def _metric_of(target: Target, labels: NDArray[Any], output: str | None) -> str | None:
    """Return the metric that nobody asked for; never code of somebody's, whose name comes from a server."""
    if target.metric is not None and target.metric != _GIVEN and ":" not in target.metric:
        return target.metric
    are_classes = labels.ndim == 1 and labels.dtype.kind in "iu"
    return TOP_1 if are_classes and (output is not None or len(target.outputs) == 1) else None


def _read_npz(path: Path, target: Target) -> tuple[tuple[NDArray[Any], ...], NDArray[Any] | None]:
    arrays = read_arrays(path)
    names = [spec.name for spec in target.inputs]
    if "images" in arrays and "images" not in names and len(names) == 1:
        images = as_images(arrays, path)
        arrays = {names[0]: images.images, LABELS: images.labels}
    missing = [name for name in names if name not in arrays]
    if missing:
        raise ConfigError(
            f"{path} has no array {missing[0]!r}, it has {', '.join(arrays) or 'none'}; "
            f"{target.model} takes {', '.join(names)}"
        )
    inputs = tuple(_items(path, spec, arrays[spec.name], target) for spec in target.inputs)
    labels = arrays[LABELS] if LABELS in arrays and LABELS not in names else None
    counts = {len(array) for array in inputs} | ({len(labels)} if labels is not None and labels.ndim else set())
    if len(counts) > 1 or min(counts) == 0 or (labels is not None and not labels.ndim):
        raise ConfigError(f"{path} has {sorted(counts)} items; give as many of each array, one at least")
    return inputs, labels


def _items(path: Path, spec: TensorSpec, array: NDArray[Any], target: Target) -> NDArray[Any]:
    is_right = array.dtype.kind in "US" if spec.datatype == "BYTES" else array.dtype == NUMPY_TYPES[spec.datatype]
    if is_right and array.ndim and spec.takes(array.shape[1:]):
        return array
    if is_right and array.ndim and not target.is_batching and spec.takes((1, *array.shape[1:])):
        return array[:, np.newaxis]
    raise ConfigError(
        f"{path}: items of {spec.name} are {array.dtype} {list(array.shape[1:])}, {target.model} takes "
        f"{spec.datatype} {list(spec.shape)}, -1 for any; store them so"
    )


def _read_images(
    path: Path, target: Target, most_images: int, *, resize: bool
) -> tuple[tuple[NDArray[Any], ...], NDArray[np.int64] | None]:
    if len(target.inputs) != 1:
        names = ", ".join(spec.name for spec in target.inputs)
        raise ConfigError(f"{target.model} takes {names}; give an .npz file with these arrays instead of {path}")
    found = _list_images(path)
    if not found:
        raise ConfigError(f"{path} names no images; give <class>/<image> with {', '.join(_SUFFIXES)}, or a list")

    def read(file: Path) -> NDArray[Any]:
        return read_image(file, target.inputs[0], target.preprocessing, resize=resize)

    most = max(1, min(most_images, _MOST_BYTES // read(found[0][0]).nbytes))
    if len(found) > most:
        found = [found[index] for index in np.linspace(0, len(found) - 1, most).astype(int)]
    images = np.stack([read(file) for file, _ in found])
    classes = [name for _, name in found if name is not None]
    if len(classes) < len(found):
        return (images,), None
    return (images,), np.array(_class_numbers(path, classes, target.labels), np.int64)


def _list_images(path: Path) -> list[tuple[Path, str | None]]:
    """Return image files with their classes, None where nobody says one."""
    if not os.path.isdir(path):
        try:
            lines = [line.split("\t") for line in path.read_text().splitlines() if line.strip()]
        except (OSError, UnicodeDecodeError) as exc:
            raise ConfigError(f"can't read the list in {path} ({exc})") from exc
        return [(path.parent / line[0], line[1].strip() if len(line) > 1 else None) for line in lines]
    found = sorted(file for file in path.glob("**/*") if file.suffix.lower() in _SUFFIXES)
    return [(file, None if file.parent == path else file.relative_to(path).parts[0]) for file in found]


def _class_numbers(path: Path, classes: Sequence[str], labels: Sequence[str]) -> list[int]:
    """Return the index of each class: among the model's labels, else as it is, else among the names in their order."""
    are_numbers = all(name.isdecimal() for name in classes)
    known = labels or ([] if are_numbers else sorted(set(classes)))
    numbers = {name: index for index, name in reversed(list(enumerate(known)))}
    try:
        return [numbers[name] if name in numbers else int(name) for name in classes]
    except ValueError:
        other = next(name for name in classes if name not in numbers and not name.isdecimal())
        raise ConfigError(
            f"{path}: {other!r} is none of the model's classes {', '.join(known)[:120]}; name folders by them"
        ) from None
