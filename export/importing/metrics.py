"""Metrics of quality: what a variant answered to labelled items, as one number of which more is better.

Each item's answer is reduced at once to what the metric needs of it, so that a whole test set of large outputs never
lies in memory; only a metric of the user's own gets all answers as they are. That is a function, named by where it is
or, in an installed package, by an entry point of the group ``slimsched.metrics``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from export.errors import VariantError, load_function, one_line
from export.importing.boxes import mean_average_precision, read_detections
from export.importing.labelled_data import Answer
from orchestrator.errors import SlimError
from orchestrator.installed.plugins import PluginGroup

_TOP = re.compile(r"top-([1-9]\d{0,5})")
PLUGINS: Final = PluginGroup("slimsched.metrics", "metric")
NAMES = "top-K (top-1, top-5), mean-iou, map-50, mean-absolute-error or package.module:function"
_IGNORED = 255  # as in Pascal VOC, and in most data sets for segmentation after it
_UNSURE = 0.5

Reduce = Callable[[Answer, NDArray[Any]], Any]
Score = Callable[[Sequence[Any], NDArray[Any]], float]


@dataclass(frozen=True, slots=True)
class Metric:
    """A way to judge answers.

    Attributes:
        name: As it was asked for.
        reduce: What is kept of an item's answer, given its label.
        score: The quality, of what was kept of all items and all labels.
    """

    name: str
    reduce: Reduce
    score: Score


def metric_named(name: str, output: str | None) -> Metric:
    """Return a metric by name; ``output`` is the output that it looks at where a model has several.

    Raises VariantError for a name that is none, and for a function of the user's that can't be imported.
    """
    if top := _TOP.fullmatch(name):
        k = int(top.group(1))
        return Metric(name, lambda answer, label: _is_in_top(_single(answer, output), label, k), _mean)
    if name == "mean-iou":
        return Metric(name, lambda answer, label: _overlaps(_single(answer, output), label), _mean_iou)
    if name == "map-50":
        return Metric(name, read_detections, mean_average_precision)
    if name == "mean-absolute-error":
        return Metric(name, lambda answer, label: _error(_single(answer, output), label), _relative_to_constant)
    if ":" in name or name in PLUGINS.names():
        function = _load(name)
        return Metric(name, lambda answer, label: answer, lambda kept, labels: float(function(kept, labels)))
    raise VariantError(f"--metric {name}: is none; give {NAMES}{PLUGINS.describe()}")


def measure(metric: Metric, answers: Iterable[Answer], labels: NDArray[Any], label: str) -> float:
    """Return the quality of a variant's answers, which ``label`` names; raises VariantError when it is no number."""
    try:
        kept = [metric.reduce(answer, wanted) for answer, wanted in zip(answers, labels, strict=True)]
        quality = metric.score(kept, labels)
    except VariantError as exc:
        raise VariantError(
            str(exc) if str(exc).startswith(label) else f"{label}: --metric {metric.name}: {exc}"
        ) from exc
    except (Exception, SystemExit) as exc:  # a function of the user's may raise anything
        said = f"{type(exc).__name__}: {one_line(exc)}"
        raise VariantError(
            f"{label}: --metric {metric.name} failed ({said}); nothing was written; mend it, or give --quality"
        ) from exc
    if not math.isfinite(quality):
        raise VariantError(
            f"{label}: --metric {metric.name} gives {quality}, which is no quality; nothing was written; "
            "let it return a number, or give --quality"
        )
    return quality


def quality_of_one(metric: Metric, answer: Answer, labels: NDArray[Any], item: int) -> float:
    """Return the quality of the answer to one of the labelled items, alone; NaN where it can't be judged.

    An error is in parts of that of a constant answer to all of them. Raises what the metric raises.
    """
    about = labels if metric.score is _relative_to_constant else labels[item : item + 1]
    return metric.score([metric.reduce(answer, labels[item])], about)


def _load(name: str) -> Callable[[Sequence[Answer], NDArray[Any]], float]:
    function: Callable[[Sequence[Answer], NDArray[Any]], float]
    try:
        function = PLUGINS.load(name) if name in PLUGINS.names() else load_function("--metric", name, VariantError)
    except SlimError as exc:
        raise VariantError(f"--metric {name}: {exc}") from exc
    return function


def _single(answer: Answer, output: str | None) -> NDArray[Any]:
    if output is None and len(answer) > 1:
        raise VariantError(f"there are the outputs {', '.join(answer)}; say with --output which one it is about")
    if output is not None and output not in answer:
        raise VariantError(f"--output {output}: there are only {', '.join(answer)}; give one of them")
    return answer[output] if output is not None else next(iter(answer.values()))


def _class_of(label: NDArray[Any], classes: int) -> int:
    if np.ndim(label) or not np.isfinite(label) or not 0 <= int(label) < classes or int(label) != label:
        raise VariantError(
            f"a label is {np.asarray(label).tolist()!r:.40}; give the index of a class, 0 to {classes - 1}"
        )
    return int(label)


def _is_in_top(scores: NDArray[Any], label: NDArray[Any], k: int) -> bool:
    ranked = np.argsort(-scores.ravel().astype(np.float64), kind="stable")
    return bool(_class_of(label, scores.size) in ranked[:k])


def _mean(kept: Sequence[Any], labels: NDArray[Any]) -> float:
    return float(np.mean(kept))


def _class_map(output: NDArray[Any]) -> NDArray[np.int64]:
    """Return the class of each pixel: of scores [classes, ...], of a probability [1, ...] or [...], or of classes."""
    if output.ndim > 2 and output.shape[0] > 1:
        return np.asarray(output.argmax(axis=0), np.int64)
    flat = output[0] if output.ndim > 2 else output
    return np.asarray(flat if flat.dtype.kind in "iub" else flat >= _UNSURE, np.int64)


def _overlaps(output: NDArray[Any], label: NDArray[Any]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the pixels in which answer and label agree, and those that either has, of each class."""
    found, wanted = _class_map(output), label.astype(np.int64)
    if found.shape != wanted.shape:
        raise VariantError(
            f"a label is {list(wanted.shape)} pixels, the answer {list(found.shape)}; give a class a pixel"
        )
    is_judged = (wanted >= 0) & (wanted != _IGNORED)
    found, wanted = found[is_judged], wanted[is_judged]
    classes = int(max(found.max(initial=0), wanted.max(initial=0))) + 1
    both = np.bincount(wanted[found == wanted], minlength=classes)
    either = np.bincount(found, minlength=classes) + np.bincount(wanted, minlength=classes) - both
    return both, either


def _mean_iou(kept: Sequence[tuple[NDArray[np.int64], NDArray[np.int64]]], labels: NDArray[Any]) -> float:
    """Intersection over union of each class over all items, averaged over the classes that occur."""
    classes = max(len(both) for both, _ in kept)
    both, either = (sum(np.pad(item[part], (0, classes - len(item[part]))) for item in kept) for part in (0, 1))
    occurring = np.asarray(either) > 0
    return float((np.asarray(both)[occurring] / np.asarray(either)[occurring]).mean()) if occurring.any() else math.nan


def _error(output: NDArray[Any], label: NDArray[Any]) -> float:
    found, wanted = np.squeeze(output).astype(np.float64), np.squeeze(label).astype(np.float64)
    if found.shape != wanted.shape:
        raise VariantError(f"a label is {list(wanted.shape)}, the answer {list(found.shape)}; give labels of its shape")
    return float(np.abs(found - wanted).mean())


def _relative_to_constant(kept: Sequence[float], labels: NDArray[Any]) -> float:
    """1 less the mean absolute error in parts of that of a constant answer, the labels' mean.

    So it is turned round, 1 at best and 0 for a variant that knows nothing, and still linear: the mean over requests
    of several variants is that of their errors.
    """
    numbers = labels.astype(np.float64)
    constant = float(np.abs(numbers - numbers.mean(axis=0)).mean())
    if not constant:
        raise VariantError("all labels are equal, so no error says anything; give items with different labels")
    return 1 - float(np.mean(kept)) / constant
