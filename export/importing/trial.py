"""A variant is run before it is served: whether it answers in the declared shapes, and whether it can be batched.

A free first dimension need not be a batch: it may be the steps of a sequence. So three items are run together and each
alone, and their answers must agree. They do so within a part of the largest value, because products are rounded
differently at another batch size, and networks that are quantised at run time differ by more.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from export.errors import VariantError
from export.importing.labelled_data import LabelledData, run
from export.importing.variant import Variant
from export.repository.signature import FREE, Signature, Tensor, blank, fits
from export.repository.verification import MAX_OPSET

TOGETHER = 3
TOLERANCE = 0.01
"""Largest difference between an item's answer in a batch and alone, in parts of the largest absolute value."""
CONVERTED_TOLERANCE = 1e-5
"""Likewise between the operators that a file came with and older ones that say the same."""

Feed = dict[str, NDArray[Any]]


def item_shapes(signature: Signature, given: Mapping[str, tuple[int, ...]], *, batching: bool) -> dict[str, Any]:
    """Return an item's shape for each input of a graph, as it is served; ``given`` has those with free dims.

    Raises VariantError for a free dim that nothing is known of, and for a shape of no input or one it doesn't take.
    """
    served = signature.served(batching=batching).inputs
    unknown = sorted(given.keys() - {tensor.name for tensor in served})
    if unknown:
        raise VariantError(f"--shape {unknown[0]}: is no input; they are {', '.join(t.name for t in served)}")
    shapes = {}
    for tensor in served:
        shape = given.get(tensor.name, tensor.dims)
        if FREE in shape:
            raise VariantError(
                f"input {tensor} has free dims, -1; give a usual item's shape, such as "
                f"--shape {tensor.name}={','.join('64' if dim == FREE else str(dim) for dim in tensor.dims)}, or --data"
            )
        if not fits(shape, tensor.dims):
            raise VariantError(f"--shape {tensor.name}: an item of {tensor} can't be {list(shape)}; give what fits")
        shapes[tensor.name] = shape
    return shapes


def shapes_of_data(data: LabelledData, *, batching: bool) -> dict[str, tuple[int, ...]]:
    """Return an item's shape for each input, as it is served."""
    lead = (1,) if data.is_lifted and not batching else ()
    return {name: (*lead, *array.shape[1:]) for name, array in data.inputs.items()}


def sample(inputs: tuple[Tensor, ...], shapes: Mapping[str, tuple[int, ...]], *, batching: bool) -> Feed:
    """Return made-up items for a graph: ``TOGETHER`` in a batch, or one where it does not batch.

    Numbers with a fraction are in 0..1 and random, the same in each call; of integers only 0 is sure to be an index.
    """
    random = np.random.default_rng(0)
    feed = {}
    for tensor in inputs:
        shape = (TOGETHER, *shapes[tensor.name]) if batching else shapes[tensor.name] if tensor.dims else ()
        made = blank(tensor, shape)
        feed[tensor.name] = random.random(shape).astype(made.dtype) if made.dtype.kind == "f" else made
    return feed


def sample_of_data(data: LabelledData, *, batching: bool) -> Feed:
    """Return the first items of data in the same form."""
    if batching:
        return {name: np.resize(array[:TOGETHER], (TOGETHER, *array.shape[1:])) for name, array in data.inputs.items()}
    return {name: array[:1] if data.is_lifted else array[0] for name, array in data.inputs.items()}


def first_item(feed: Feed, *, batching: bool) -> Feed:
    """Return the first item of a sample, as a graph takes it."""
    return {name: array[:1] if batching else array for name, array in feed.items()}


def prove_converted(variant: Variant, feed: Feed) -> None:
    """Run a sample by the operators that a file came with too; raises VariantError when they answer otherwise."""
    if variant.original is None:
        return
    expected = run(replace(variant, session=variant.original), feed)
    for name, mine in run(variant, feed).items():
        largest = float(np.max(np.abs(expected[name]), initial=0)) if mine.dtype.kind == "f" else 0.0
        is_same = mine.shape == expected[name].shape and (
            np.allclose(mine, expected[name], rtol=0, atol=CONVERTED_TOLERANCE * largest, equal_nan=True)
            if mine.dtype.kind == "f"
            else np.array_equal(mine, expected[name])
        )
        if not is_same:
            raise VariantError(
                f"{variant.label}: is too new for all Triton images, and converted to older operators its output "
                f"{name} is another; export it with opset {MAX_OPSET} or lower"
            )


def prove_blank(variant: Variant, shapes: Mapping[str, tuple[int, ...]], *, batching: bool) -> None:
    """Run an item of zeros, as warm-up and a router's probes do; raises VariantError when the model can't."""
    lead = (1,) if batching else ()
    inputs = variant.signature.inputs
    feed = {t.name: blank(t, (*lead, *shapes[t.name]) if t.dims else ()) for t in inputs}
    try:
        run(variant, feed)
    except VariantError as exc:
        raise VariantError(
            f"{variant.label}: can't run an item of zeros, which warm-up and a router's probes send; "
            f"export it so that it can ({str(exc).removeprefix(variant.label + ': ')})"
        ) from exc


def prove_answers(variant: Variant, feed: Feed, *, batching: bool) -> None:
    """Run a sample; raises VariantError when answers have other shapes than declared, or items can't be batched."""
    together = run(variant, feed)
    for tensor in variant.signature.outputs:
        found = together[tensor.name].shape
        if not fits(found, tensor.dims) or (batching and found[0] != TOGETHER):
            items = f"for {TOGETHER} items " if batching else ""
            raise VariantError(
                f"{variant.label}: output {tensor} has shape {list(found)} {items}in a run; "
                + ("serve it unbatched with --max-batch-size 0" if batching else "export it with the dims that it has")
            )
    if batching:
        for index in range(TOGETHER):
            _require_same(variant, index, together, run(variant, {n: a[index : index + 1] for n, a in feed.items()}))


def _require_same(variant: Variant, index: int, together: Feed, alone: Feed) -> None:
    for name, batched in together.items():
        mine, expected = batched[index], alone[name][0] if len(alone[name]) else alone[name]
        if mine.dtype.kind != "f":
            continue  # labels and counts may tip over for less than the tolerance
        largest = float(np.max(np.abs(expected), initial=0, where=np.isfinite(expected)))
        if mine.shape != expected.shape or not np.allclose(
            mine, expected, rtol=0, atol=TOLERANCE * largest, equal_nan=True
        ):
            raise VariantError(
                f"{variant.label}: output {name} of an item in a batch of {TOGETHER} is not its output alone, so the "
                "first dim is no batch; serve it unbatched with --max-batch-size 0"
            )
