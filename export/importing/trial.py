"""A variant is run before it is served: whether it answers in the declared shapes, and whether it can be batched.

A free first dimension need not be a batch: it may be the steps of a sequence. So three items are run together and each
alone, and their answers must agree. They do so within a part of the largest value, because products are rounded
differently at another batch size, and networks that are quantised at run time differ by more.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from export.errors import VariantError, one_line
from export.importing.labelled_data import LabelledData, run
from export.importing.variant import Variant
from export.repository.signature import FREE, Signature, Tensor, fits
from export.repository.trial_item import MOST_VALUES, RANDOM, Fill, Fills, make_feed
from export.repository.verification import MAX_OPSET

TOGETHER = 3
MOST_BYTES = 2**31 - 1
"""Of an item in a request: of a message of protobuf."""
TOLERANCE = 0.01
"""Largest difference between an item's answer in a batch and alone, in parts of the largest absolute value."""
CONVERTED_TOLERANCE = 1e-5
"""Likewise between the operators that a file came with and older ones that say the same."""

Feed = dict[str, NDArray[Any]]


def item_shapes(signature: Signature, given: Mapping[str, tuple[int, ...]], *, batching: bool) -> dict[str, Any]:
    """Return an item's shape for each input of a graph, as it is served; ``given`` has those with free dims.

    Raises VariantError for a free dim that nothing is known of, and for a shape of no input, one it doesn't take or
    one that no request carries.
    """
    served = signature.served(batching=batching).inputs
    unknown = sorted(given.keys() - {tensor.name for tensor in served})
    if unknown:
        raise VariantError(
            f"--shape or --fill of {unknown[0]}: is no input; they are {', '.join(t.name for t in served)}"
        )
    shapes = {}
    for tensor in served:
        shape = given.get(tensor.name, tensor.dims)
        if FREE in shape:
            raise VariantError(
                f"input {tensor} has free dims, -1; give a usual item's shape, such as "
                f"--shape {tensor.name}={','.join('64' if dim == FREE else str(dim) for dim in tensor.dims)}, or --data"
            )
        if not fits(shape, tensor.dims):
            raise VariantError(
                f"--shape or --fill of {tensor.name}: an item of {tensor} can't be {list(shape)}; give what fits"
            )
        if (size := prod(shape) * tensor.dtype.itemsize) > MOST_BYTES:
            raise VariantError(
                f"input {tensor}: an item of {list(shape)} has {size} bytes, above {MOST_BYTES}, which no request "
                "carries; give a smaller --shape, or export the model with smaller dims"
            )
        shapes[tensor.name] = shape
    return shapes


def shapes_of_data(data: LabelledData, *, batching: bool) -> dict[str, tuple[int, ...]]:
    """Return an item's shape for each input, as it is served."""
    lead = (1,) if data.is_lifted and not batching else ()
    return {name: (*lead, *array.shape[1:]) or (1,) for name, array in data.inputs.items()}


def sample(inputs: tuple[Tensor, ...], shapes: Mapping[str, tuple[int, ...]], fills: Fills, *, batching: bool) -> Feed:
    """Return made-up items for a graph: ``TOGETHER`` in a batch, or one where it does not batch.

    What is not filled is random where it has a fraction, the same in each call; of integers only 0 is likely an index.
    """
    random = np.random.default_rng(0)
    feed = make_feed(inputs, shapes, fills, batch=TOGETHER if batching else None)
    for name, made in feed.items():
        if made.dtype.kind == "f" and fills.get(name, RANDOM) == RANDOM:
            feed[name] = random.random(made.shape).astype(made.dtype)
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


def fills_of(item: Feed) -> Fills:
    """Return the values of an item; none where there are too many of them to be told one by one."""
    if any(array.size > MOST_VALUES for array in item.values()):
        return {}
    return {name: tuple(array.flatten().tolist()) for name, array in item.items()}


def choose_fills(
    variants: Sequence[Variant], shapes: Mapping[str, tuple[int, ...]], given: Fills, known: Fills, *, batching: bool
) -> Fills:
    """Return what the item has instead of zeros that warm-up, probes and profiles run.

    That is what is given, else the first that all variants can run of zeros, an item that is known, random numbers
    where there are fractions, and ones. Raises VariantError when a variant can't run what is left.
    """
    inputs = variants[0].signature.inputs
    unknown = sorted(given.keys() - {tensor.name for tensor in inputs})
    if unknown:
        raise VariantError(f"--fill {unknown[0]}: is no input; they are {', '.join(t.name for t in inputs)}")
    randoms: Fills = {t.name: RANDOM for t in inputs if t.dtype.kind == "f"}
    ones: Fills = {t.name: "1" if t.dtype.kind == "O" else 1 for t in inputs}
    tried = [given] if given else [{}, *([known] if known else []), randoms, ones]
    for fills in tried:
        try:
            for variant in variants:
                feed = make_feed(variant.signature.inputs, shapes, fills, batch=1 if batching else None)
                _require_finite(variant, run(variant, feed))
            return fills
        except VariantError as exc:
            failure = exc
        except ValueError as exc:
            raise VariantError(f"--fill: {str(exc).removeprefix('slim.fill has ')}; give what fits") from exc
    what = "what --fill says" if given else "an item of zeros, of random numbers or of ones"
    variant_name, _, reason = str(failure).partition(": ")
    raise VariantError(
        f"{variant_name}: can't run {what}, and warm-up, a router's probes and profiles need an item; "
        f"give one with --fill {inputs[0].name}=NUMBER or --fill {inputs[0].name}=FILE.npy ({reason})"
    ) from failure


def _require_finite(variant: Variant, answer: Feed) -> None:
    for name, found in answer.items():
        if found.dtype.kind == "f" and not np.isfinite(found).all():
            raise VariantError(
                f"{variant.label}: its output {name} is not finite, which a router takes for wrong; "
                "export it with large finite numbers in place of infinite ones"
            )


def read_fill(name: str, text: str) -> tuple[Fill, tuple[int, ...] | None]:
    """Return what ``--fill`` says of an input, and the shape of its item where that is said: a number, a word, a file.

    Raises VariantError for a file that can't be read or has too many values.
    """
    if not text.endswith(".npy"):
        for kind in (int, float):
            try:
                return kind(text), None
            except ValueError:
                continue
        return text, None
    try:
        with open(text, "rb") as source:
            array = np.lib.format.read_array(source, allow_pickle=False)  # type: ignore[no-untyped-call]
    except (OSError, ValueError) as exc:
        raise VariantError(
            f"--fill {name}={text}: can't read it ({one_line(exc)}); give an array of numpy.save"
        ) from exc
    if array.dtype.kind not in "biufU":
        raise VariantError(
            f"--fill {name}={text}: holds {array.dtype}; give an array of numbers or text, of numpy.save"
        )
    if array.size > MOST_VALUES:
        raise VariantError(
            f"--fill {name}={text}: has {array.size} values, and at most {MOST_VALUES} fit into a config; "
            f"give a number or {RANDOM}"
        )
    return tuple(array.flatten().tolist()), array.shape


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
        if not alone[name].ndim:
            raise VariantError(
                f"{variant.label}: output {name} has no dims for one item, as after a squeeze of all dims; keep the "
                "first, or serve it unbatched with --max-batch-size 0"
            )
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
