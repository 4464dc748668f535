"""The item that a model is tried on: by its warm-up, by a router's probes, and in profiles.

It is zeros, or empty text, unless the network can't run them: one that looks its input up, say, may take no 0. Then
``slim.fill`` says by input what it has instead: one value for all elements, the word ``random`` for numbers in 0..1
that are the same each time, or the value of each element, in the order of NumPy's ``C``. A router reads this from
the config, so a value an element is only for small items.

Triton reads the values of a warm-up from files in the model's folder ``warmup``. They are written where an input is
filled, and have one item; Triton repeats it for a batch.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tritonclient.utils import serialize_byte_tensor

from export.repository.model_files import WARMUP_FILE
from export.repository.signature import Tensor
from orchestrator import snapshot
from orchestrator.triton import trial_items

Fill = snapshot.Fill
Fills = Mapping[str, Fill]
"""By input; one that is not named is zeros."""

RANDOM = trial_items.RANDOM
read_fills = trial_items.read_fills
MOST_VALUES = 4096
"""Elements whose values are told one by one: some tens of KiB of a config that each router reads."""


def make_item(tensor: Tensor, shape: tuple[int, ...], fill: Fill | None) -> NDArray[Any]:
    """Return an item of a shape for an input; raises ValueError, in words, for a fill that it does not take."""
    datatype = tensor.data_type.removeprefix("TYPE_").replace("STRING", "BYTES")
    item = trial_items.make_item(snapshot.TensorSpec(tensor.name, datatype, tensor.dims), shape, fill)
    return np.vectorize(bytes.decode, otypes=[object])(item) if datatype == "BYTES" else item


def make_feed(
    inputs: tuple[Tensor, ...], shapes: Mapping[str, tuple[int, ...]], fills: Fills, *, batch: int | None
) -> dict[str, NDArray[Any]]:
    """Return ``batch`` times the item for the inputs of a graph, None where it has no batch dimension.

    The shapes are the item's, for each input, as it is served: what a graph takes as a scalar is one dim of 1.
    """
    feed = {}
    for tensor in inputs:
        item = make_item(tensor, shapes[tensor.name], fills.get(tensor.name))
        if len(tensor.dims) == (1 if batch else 0):
            item = item.reshape(())
        feed[tensor.name] = np.stack([item] * batch) if batch else item
    return feed


def warmup_files(
    inputs: tuple[Tensor, ...], shapes: Mapping[str, tuple[int, ...]], fills: Fills
) -> dict[str, tuple[str, bytes]]:
    """Return path and content of the warm-up file of each input that is filled, by input."""
    found = {}
    for place, tensor in enumerate(inputs):
        if tensor.name in fills:
            item = make_item(tensor, shapes[tensor.name], fills[tensor.name])
            raw = serialize_byte_tensor(item).item() if item.dtype.kind == "O" else item.tobytes()
            found[tensor.name] = WARMUP_FILE.format(place), raw
    return found


def render_fills(fills: Fills) -> str:
    """Return ``slim.fill``."""
    return json.dumps(fills, sort_keys=True)
