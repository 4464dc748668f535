"""Mean average precision of detectors at an overlap of one half (Everingham et al., "The Pascal VOC Challenge", 2010).

Detections of a class are taken by falling score. One is right when it overlaps a labelled box of the class, that none
before it has taken, by half or more of their union. Average precision is the area under precision over recall, where
precision is the best at that recall or a higher one; its mean is over the classes that are labelled.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from export.errors import VariantError
from export.importing.labelled_data import Answer

OVERLAP = 0.5
_COLUMNS = 6

Boxes = NDArray[np.float64]
"""[boxes, 4]: x1, y1, x2, y2."""


def read_detections(answer: Answer, label: NDArray[Any]) -> NDArray[np.float64]:
    """Return [detections, 6]: x1, y1, x2, y2, score, class.

    The outputs are ``boxes`` [n, 4], ``scores`` [n] and ``classes`` [n], or the only one is [n, 6] with these columns.
    """
    if {"boxes", "scores", "classes"} <= answer.keys():
        parts = (answer["boxes"].reshape(-1, 4), answer["scores"].reshape(-1, 1), answer["classes"].reshape(-1, 1))
        if len({len(part) for part in parts}) == 1:
            return np.concatenate(parts, axis=1, dtype=np.float64)
    elif len(answer) == 1 and (only := next(iter(answer.values()))).shape[-1:] == (_COLUMNS,):
        return np.asarray(only.reshape(-1, _COLUMNS), np.float64)
    shapes = ", ".join(f"{name} {list(found.shape)}" for name, found in answer.items())
    raise VariantError(
        f"the outputs are {shapes}; it takes boxes [n, 4], scores [n] and classes [n], which --rename can name, "
        "or one [n, 6] of x1, y1, x2, y2, score, class; write a function for others"
    )


def mean_average_precision(detected: Sequence[NDArray[np.float64]], labels: NDArray[Any]) -> float:
    """Return the mean average precision in 0..1, of detections by item.

    Labels are [items, boxes, 5]: x1, y1, x2, y2, class; rows of a class below 0 are no boxes and fill up.
    """
    if labels.ndim != 3 or labels.shape[2] != 5:
        raise VariantError(f"labels are {list(labels.shape)}; give [items, boxes, 5] of x1, y1, x2, y2, class")
    wanted = [item[item[:, 4] >= 0].astype(np.float64) for item in labels]
    classes = sorted({float(row[4]) for item in wanted for row in item})
    precisions = [_average_precision(detected, wanted, one) for one in classes]
    return float(np.mean(precisions)) if precisions else math.nan


def _average_precision(
    detected: Sequence[NDArray[np.float64]], wanted: Sequence[NDArray[np.float64]], one: float
) -> float:
    free = [np.ones(int((item[:, 4] == one).sum()), bool) for item in wanted]
    boxes = [item[item[:, 4] == one, :4] for item in wanted]
    ranked = sorted(
        ((row[4], index, row[:4]) for index, item in enumerate(detected) for row in item[item[:, 5] == one]),
        key=lambda found: -found[0],
    )
    is_right = np.array([_take(box, boxes[index], free[index]) for _, index, box in ranked], bool)
    if not is_right.any():
        return 0.0
    right = np.cumsum(is_right)
    precision = right / np.arange(1, len(right) + 1)
    best = np.maximum.accumulate(precision[::-1])[::-1]
    return float(best[is_right].sum() / sum(len(item) for item in boxes))


def _take(box: NDArray[np.float64], labelled: Boxes, free: NDArray[np.bool_]) -> bool:
    """Take the labelled box that a detection overlaps most; return whether it does enough and the box was free."""
    if not len(labelled):
        return False
    overlaps = _overlap(box, labelled)
    best = int(overlaps.argmax())
    if overlaps[best] < OVERLAP or not free[best]:
        return False
    free[best] = False
    return True


def _overlap(box: NDArray[np.float64], others: Boxes) -> NDArray[np.float64]:
    """Return the intersection over the union with each of the others, 0..1."""
    low, high = np.maximum(box[:2], others[:, :2]), np.minimum(box[2:], others[:, 2:])
    both = np.clip(high - low, 0, None).prod(axis=1)
    either = (box[2:] - box[:2]).prod() + (others[:, 2:] - others[:, :2]).prod(axis=1) - both
    shares: NDArray[np.float64] = np.divide(both, either, out=np.zeros_like(both), where=either > 0)
    return shares
