"""Labelled items in one NumPy archive (.npz), and what a variant answers to them.

The archive has an array for each input, by the input's name, and one named ``labels``. The first axis of each is the
items. The rest of an input's array is one item: what the model takes without its batch dimension, or, of a model
whose batch is fixed to 1, with or without that 1.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from export.errors import VariantError, one_line
from export.importing.variant import Variant
from export.repository.signature import Tensor, fits

LABELS = "labels"
_BATCH = 32

Answer = Mapping[str, NDArray[Any]]
"""The outputs of one item, by name, without the batch dimension where there is one."""


@dataclass(frozen=True, slots=True)
class LabelledData:
    """Items with their labels.

    Attributes:
        inputs: The items of each input, [items, ...], by name; each item as the model takes it without a batch
            dimension.
        labels: [items, ...]; what one label is, the metric says.
        is_lifted: Whether an item gets a leading dimension of 1 before the model takes it.
    """

    inputs: Mapping[str, NDArray[Any]]
    labels: NDArray[Any]
    is_lifted: bool

    def __len__(self) -> int:
        return len(self.labels)

    def feed(self, items: slice) -> dict[str, NDArray[Any]]:
        """Return a batch of items as a graph takes it, of one item where it does not batch."""
        return {name: found[items] for name, found in self.inputs.items()}


def load_labelled(path: Path, inputs: tuple[Tensor, ...], *, batching: bool) -> LabelledData:
    """Return the items of an archive for a graph's inputs, all dims of which are given.

    Raises VariantError when the file can't be read, lacks an array, or has items of another type or shape.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            loaded = {name: archive[name] for name in archive.files}
    except Exception as exc:  # numpy, zipfile and zlib raise a dozen kinds for a damaged file
        raise VariantError(
            f"--data {path}: can't read it ({one_line(exc)}); give an .npz file of plain arrays"
        ) from exc
    arrays = {name: array for name, array in loaded.items() if isinstance(array, np.ndarray)}  # others are bytes
    missing = sorted({LABELS, *(tensor.name for tensor in inputs)} - arrays.keys())
    if missing:
        raise VariantError(
            f"--data {path}: has no array {missing[0]!r}, it has {', '.join(sorted(arrays)) or 'none'}; "
            f"give one for each input, and {LABELS!r}"
        )
    counts = {name: len(arrays[name]) if arrays[name].ndim else 0 for name in (*(t.name for t in inputs), LABELS)}
    if len(set(counts.values())) > 1 or not min(counts.values()):
        raise VariantError(f"--data {path}: has {counts} items; give as many for each, one at least")
    is_lifted = batching or all(
        tensor.dims[:1] == (1,) and fits(arrays[tensor.name].shape[1:], tensor.dims[1:]) for tensor in inputs
    )
    found = {tensor.name: _items(path, tensor, arrays[tensor.name], is_lifted=is_lifted) for tensor in inputs}
    return LabelledData(found, arrays[LABELS], is_lifted)


def _items(path: Path, tensor: Tensor, array: NDArray[Any], *, is_lifted: bool) -> NDArray[Any]:
    dims = tensor.dims[1:] if is_lifted else tensor.dims
    if tensor.data_type == "TYPE_STRING" and array.dtype.kind == "U":
        array = array.astype(np.object_)
    if array.dtype != tensor.dtype or not fits(array.shape[1:], dims):
        raise VariantError(
            f"--data {path}: items of {tensor.name} are {array.dtype} {list(array.shape[1:])}, the models take "
            f"{tensor.dtype} {list(dims)}, -1 for any; store them so"
        )
    return array


def answers(variant: Variant, data: LabelledData, *, batching: bool) -> Iterator[Answer]:
    """Yield what a variant answers to each item, in order; raises VariantError when it can't run one."""
    size = _BATCH if batching else 1
    for begin in range(0, len(data), size):
        feed = data.feed(slice(begin, begin + size))
        if not batching and not data.is_lifted:
            feed = {name: found[0] for name, found in feed.items()}
        outputs = run(variant, feed)
        if batching or data.is_lifted:
            for index in range(min(size, len(data) - begin)):
                yield {name: found[index] for name, found in outputs.items()}
        else:
            yield outputs


def run(variant: Variant, feed: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Return the outputs of one run by name; raises VariantError when it fails."""
    names = [tensor.name for tensor in variant.signature.outputs]
    try:
        return dict(zip(names, map(np.asarray, variant.session.run(names, feed)), strict=True))
    except Exception as exc:  # ONNX Runtime's exceptions share no base of their own
        shapes = ", ".join(f"{name} {list(found.shape)}" for name, found in feed.items())
        raise VariantError(
            f"{variant.label}: can't run {shapes} ({one_line(exc)}); give --data or --shape that it takes"
        ) from exc
