"""The item that a model is tried on: whether it answers again, answers right, and how long it takes.

It is zeros, or empty text, unless the model's config says otherwise, because not every network can run zeros: one that
looks its input up may take no 0. ``slim.item`` has its shapes and ``slim.fill`` its values, by input: one for all
elements, the word ``random`` for numbers in 0..1, or one for each element in the order of NumPy's ``C``. Those are what
the model's warm-up runs, see ``export.repository.trial_item``, which writes them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from orchestrator.snapshot import Fill, ServedModel, TensorSpec
from orchestrator.triton.infer_wire import NUMPY_TYPES, Tensors

RANDOM = "random"


def blank_batch(model: ServedModel, items: int) -> Tensors | None:
    """Return a model's item so many times; None when its shape is open."""
    shapes = model.usual_item or tuple(spec.shape for spec in model.inputs)
    if any(side < 1 for shape in shapes for side in shape):
        return None
    fills = model.fills or (None,) * len(shapes)
    made = [make_item(*parts) for parts in zip(model.inputs, shapes, fills, strict=True)]
    return tuple(np.stack([item] * items) for item in made)


def golden_batch(model: ServedModel, items: int) -> Tensors | None:
    """Return the item of golden probes ``items`` times; None as ``blank_batch``.

    Where nothing is said of its values they are spread over 0..1 without order, so that every weight has its part in
    the answer; an item of zeros would not show one first layer from another. Whole numbers stay 0, but for bytes, which
    are mostly of an image: others may be indices or lengths, and what is out of range makes a sound network fail.
    """
    blank = blank_batch(model, items)
    for array, fill in zip(blank or (), model.fills or (None,) * len(model.inputs), strict=False):
        if fill is None and (array.dtype.kind == "f" or array.dtype == np.uint8):
            values = np.random.default_rng(0).random(array.shape[1:])
            array[:] = values * 255 if array.dtype == np.uint8 else values
    return blank


def make_item(spec: TensorSpec, shape: tuple[int, ...], fill: Fill | None) -> NDArray[Any]:
    """Return an item of an input; raises ValueError for a fill that it does not take."""
    item = np.full(shape, b"", object) if spec.datatype == "BYTES" else np.zeros(shape, NUMPY_TYPES[spec.datatype])
    if fill is None:
        return item
    if fill == RANDOM and item.dtype.kind == "f":
        item[...] = np.random.default_rng(0).random(shape)
        return item
    values: Any = fill if isinstance(fill, tuple) else (fill,)
    if any(isinstance(value, str) != (spec.datatype == "BYTES") for value in values):
        raise ValueError(f"slim.fill has {str(fill)[:40]!r} for {spec.name!r}, which takes {spec.datatype}")
    if len(values) not in (1, item.size):
        raise ValueError(f"slim.fill has {len(values)} values for {spec.name!r}, whose item is {list(shape)}")
    if item.dtype.kind in "biu":
        least, most = (0, 1) if item.dtype.kind == "b" else (np.iinfo(item.dtype).min, np.iinfo(item.dtype).max)
        for value in values:
            if not ((isinstance(value, int) or value.is_integer()) and least <= value <= most):
                raise ValueError(
                    f"slim.fill has {value!r} for {spec.name!r}, which takes {spec.datatype}: {least} to {most}"
                )
    elif item.dtype.kind == "f":
        for value in values:
            if not abs(value) <= np.finfo(item.dtype).max:
                raise ValueError(f"slim.fill has {value!r} for {spec.name!r}, and {spec.datatype} takes finite numbers")
    item.flat[:] = [value.encode() for value in values] if spec.datatype == "BYTES" else values
    return item


def read_fills(text: str) -> Mapping[str, Fill]:
    """Return what ``slim.fill`` says; raises ValueError when that makes no sense."""
    try:
        found = {name: tuple(fill) if isinstance(fill, list) else fill for name, fill in json.loads(text).items()}
    except (ValueError, AttributeError, RecursionError):
        found = None
    if found is None or not all(
        isinstance(value, int | float | str)
        for fill in found.values()
        for value in (fill if isinstance(fill, tuple) else (fill,))
    ):
        raise ValueError(f"slim.fill {text[:80]!r} is no JSON object of values by input")
    return found
