"""From ONNX files to an imported family: read, compare, try, count, measure, and only then write.

All variants are read and proven before the first is written, so a repository never holds a part of a family.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from export.errors import VariantError
from export.importing.labelled_data import LabelledData, answers, load_labelled
from export.importing.metrics import Metric, measure
from export.importing.preprocessing import require_fit
from export.importing.trial import (
    choose_fills,
    fills_of,
    first_item,
    item_shapes,
    prove_answers,
    prove_converted,
    sample,
    sample_of_data,
    shapes_of_data,
)
from export.importing.variant import Variant, read_variant
from export.importing.work import count_flops
from export.repository.imported_config import GIVEN, ImportedIdentity, render_imported
from export.repository.model_config import Tuning, model_name
from export.repository.model_files import CONFIG_FILE, LABELS_FILE, MODEL_FILE, Files, render_labels
from export.repository.signature import FREE, Signature
from export.repository.trial_item import Fills
from export.width import Width

Qualities = Mapping[Width, float]


@dataclass(frozen=True, slots=True)
class Measurement:
    """How qualities are found out: a metric over labelled items."""

    metric: Metric
    data: Path


@dataclass(frozen=True, slots=True)
class Order:
    """What is to be imported.

    Attributes:
        family: The name of the family.
        files: The ONNX file of each width.
        quality: The quality of each width, or how it is measured.
        tuning: How the variants are to run; its ``max_batch_size`` is an upper limit, 0 serves them unbatched.
        renames: New names of inputs and outputs, by old ones.
        shapes: An item's shape for inputs with free dims, without the batch dimension where there is one.
        fills: What the item has instead of zeros that the models are tried on, by input; empty where that is found out.
        labels: Class names; empty where there are none.
        output: The output that labels and metric are about; None where there is one only.
        preprocessing: What an image file goes through, as JSON; empty when nothing is said of it.
    """

    family: str
    files: Mapping[Width, Path]
    quality: Qualities | Measurement
    tuning: Tuning = field(default_factory=Tuning)
    renames: Mapping[str, str] = field(default_factory=dict)
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    fills: Fills = field(default_factory=dict)
    labels: tuple[str, ...] = ()
    output: str | None = None
    preprocessing: str = ""


@dataclass(frozen=True, slots=True)
class ImportedModel:
    """A variant that was proven to answer, with the files of its folder; nothing is written yet."""

    identity: ImportedIdentity
    tuning: Tuning
    files: Files


def prove_import(order: Order) -> Iterator[ImportedModel]:
    """Read and prove each variant, narrowest first; yields as it goes, so that progress can be shown.

    Raises:
        VariantError: when a file, the data or the metric can't be used, or variants differ in more than size.
        RepositoryError: when the family's name or a tuning value is out of range.
    """
    for width in order.files:
        model_name(order.family, width)
    variants = [read_variant(width, path, order.renames) for width, path in sorted(order.files.items())]
    _require_used(order, variants)
    signature = _common_signature(variants)
    batching = order.tuning.max_batch_size > 0 and signature.is_batchable()
    tuning = order.tuning if batching else replace(order.tuning, max_batch_size=0)
    data = None
    if isinstance(order.quality, Measurement):
        data = load_labelled(order.quality.data, signature.inputs, batching=batching)
    given = {**(shapes_of_data(data, batching=batching) if data else {}), **order.shapes}
    shapes = item_shapes(signature, given, batching=batching)
    shown = sample_of_data(data, batching=batching) if data else {}
    known = fills_of(first_item(shown, batching=batching))
    fills = choose_fills(variants, shapes, order.fills, known, batching=batching)
    feed = shown or sample(signature.inputs, shapes, fills, batching=batching)
    items = {t.name: shapes[t.name] for t in signature.served(batching=batching).inputs if FREE in t.dims}
    if order.preprocessing:
        require_fit(order.preprocessing, signature.served(batching=batching), items)
    scored = _scored_output(order, signature)
    for variant in variants:
        prove_answers(variant, feed, batching=batching)
        prove_converted(variant, feed)
        quality, metric = _quality(order, variant, data, batching=batching)
        identity = ImportedIdentity(
            family=order.family,
            width=variant.width,
            signature=signature.served(batching=batching),
            items=items,
            fills=fills,
            labels=order.labels,
            scored=scored,
            accuracy=quality,
            metric=metric,
            flops=count_flops(variant, first_item(feed, batching=batching)),
            sha256=hashlib.sha256(variant.model).hexdigest(),
            preprocessing=order.preprocessing,
        )
        yield ImportedModel(identity, tuning, _files(identity, tuning, variant))


def _require_used(order: Order, variants: Sequence[Variant]) -> None:
    """Raise VariantError for a name that no variant had to be renamed: it was a slip."""
    names = {t.name for v in variants for t in (*v.signature.inputs, *v.signature.outputs)}
    for old, new in order.renames.items():
        if not any(old in variant.renamed for variant in variants):
            raise VariantError(f"--rename {old}={new}: no variant has {old!r}; there are {', '.join(sorted(names))}")


def _common_signature(variants: Sequence[Variant]) -> Signature:
    """Return the inputs and outputs that all variants have; raises VariantError when one has others."""
    first = variants[0]
    for other in variants[1:]:
        if other.signature.sorted() != first.signature.sorted():
            raise VariantError(
                f"{other.label} is {other.signature}, and {first.label} is {first.signature}; variants of a family "
                "differ in size and quality alone: give --rename OLD=NEW where only names differ, or another --family"
            )
    return first.signature


def _quality(order: Order, variant: Variant, data: LabelledData | None, *, batching: bool) -> tuple[float, str]:
    if data is None or not isinstance(order.quality, Measurement):
        assert not isinstance(order.quality, Measurement)
        return order.quality[variant.width], GIVEN
    metric = order.quality.metric
    found = measure(metric, answers(variant, data, batching=batching), data.labels, variant.label)
    return float(f"{found:.6g}"), metric.name


def _scored_output(order: Order, signature: Signature) -> str | None:
    """Return the output that class names belong to; raises VariantError when it has another number of classes."""
    names = [tensor.name for tensor in signature.outputs]
    if order.output is not None and order.output not in names:
        raise VariantError(f"--output {order.output}: there are only {', '.join(names)}; give one of them")
    if not order.labels:
        if order.output is not None and not isinstance(order.quality, Measurement):
            raise VariantError(
                f"--output {order.output}: says what --labels and --metric are about; give one of them, or leave it out"
            )
        return None
    if order.output is None and len(names) > 1:
        raise VariantError(f"--labels: there are the outputs {', '.join(names)}; say with --output which one they name")
    name = order.output or names[0]
    scores = signature.outputs[names.index(name)]
    if scores.dims[-1:] != (len(order.labels),):
        raise VariantError(f"--labels: has {len(order.labels)} lines, and the output is {scores}; give a line a class")
    return name


def _files(identity: ImportedIdentity, tuning: Tuning, variant: Variant) -> Files:
    files = {CONFIG_FILE: render_imported(identity, tuning).encode(), MODEL_FILE: variant.model}
    files |= identity.warmup_files().values()
    if identity.labels:
        files[LABELS_FILE] = render_labels(identity.labels).encode()
    return files
