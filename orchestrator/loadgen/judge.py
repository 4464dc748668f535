"""How good an answer is, by the label of its item.

Top-1 is known here. Other metrics are those of ``slimsched import``, loaded by name, because serving runs without what
they need. A run judges every answer alone and averages: of top-K and of errors that is what the metric says of all
answers together, of the mean IoU and of mAP it is their mean over items.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from orchestrator.errors import ConfigError
from orchestrator.installed.extras import install_hint

TOP_1: Final = "top-1"
_METRICS: Final = "export.importing.metrics"
_LEAVES_OUT: Final = frozenset({"mean-iou", "map-50"})
"""The metrics that say NaN of a sound answer, where the item's label has no class to judge."""

Outputs = Mapping[str, NDArray[Any]]
"""The outputs of one item, by name, without a batch dimension."""
Judge = Callable[[Outputs, int], float]
"""The quality of what was answered to the item of a number, the larger the better; NaN where its label has no class to
judge."""


def make_judge(metric: str, labels: NDArray[Any], output: str | None) -> Judge:
    """Return how answers to labelled items [n, ...] are judged, by one output where ``output`` names it.

    Raises:
        ConfigError: There is no such metric, or what it needs is not installed.
    """
    if metric == TOP_1:
        return lambda outputs, item: _is_right(_scores(outputs, output), labels[item])
    try:
        metrics = importlib.import_module(_METRICS)
    except ImportError as exc:
        raise ConfigError(f"--metric {metric} needs {exc.name}: {install_hint('export')}; or give {TOP_1}") from exc
    try:
        found = metrics.metric_named(metric, output)
    except Exception as exc:  # its own, or of a module of the user's
        raise ConfigError(str(exc)) from exc

    def judge(outputs: Outputs, item: int) -> float:
        try:
            quality = float(metrics.quality_of_one(found, outputs, labels, item))
        except Exception as exc:  # its own, or of a function of the user's
            raise ConfigError(f"--metric {metric} can't judge the answer to item {item}: {exc}") from exc
        if metric not in _LEAVES_OUT and not math.isfinite(quality):
            raise ConfigError(
                f"--metric {metric} gives {quality} for the answer to item {item}, which is no quality; let it return "
                "a finite number, or give data that it can judge"
            )
        return quality

    return judge


def _scores(outputs: Outputs, output: str | None) -> NDArray[Any]:
    if output is not None and output not in outputs:
        raise ConfigError(f"--output {output}: there are only {', '.join(outputs)}; give one of them")
    return np.asarray(next(iter(outputs.values())) if output is None else outputs[output])


def _is_right(scores: NDArray[Any], label: Any) -> float:
    wanted = np.asarray(label).tolist()
    if wanted not in range(scores.size):
        raise ConfigError(f"a label is {wanted!r:.40}; give the index of a class, 0 to {scores.size - 1}")
    return float(scores.argmax() == wanted)
