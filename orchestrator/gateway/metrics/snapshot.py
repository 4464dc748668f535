"""Counters, gauges and histograms as plain numbers that add up over processes.

prometheus_client's own multiprocess mode writes each increment into a mapped file: 1.5 µs each and two of them for an
observation, besides files that outlive their processes. Here an increment is an addition in memory, to a snapshot that
lives; it is copied when it is read and added to what the other processes have, which is cheap because it is rare. The
exposition formats stay prometheus_client's.
"""

from __future__ import annotations

import operator
from bisect import bisect_left
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

Labels = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Measure:
    """One metric, by Prometheus' conventions; a counter's name is without ``_total``.

    Attributes:
        text: The text of its HELP line.
        bounds: The upper bounds of a histogram's buckets, ascending, without +Inf; None for the other kinds.
        kind: The kind of metric; a gauge of a process that is gone no longer counts, a counter does. ``largest`` is a
            gauge of which the largest of all processes counts, and not their sum.
    """

    name: str
    text: str
    labels: Labels = ()
    bounds: tuple[float, ...] | None = None
    kind: Literal["counter", "gauge", "largest", "histogram"] = "counter"


def observe(numbers: list[float], bounds: Sequence[float], amount: float) -> None:
    """Count a value in the first bucket of a histogram that holds it, and add it to the sum."""
    numbers[bisect_left(bounds, amount)] += 1
    numbers[-1] += amount


@dataclass(slots=True)
class MetricSnapshot:
    """What was counted, by metric and labels; values of a histogram are its buckets' counts, then the sum."""

    values: dict[str, dict[Labels, list[float]]] = field(default_factory=dict)

    def numbers(self, measure: Measure, labels: Labels = ()) -> list[float]:
        """Return what is counted under some labels, to be changed in place; zeros the first time."""
        found = self.values.setdefault(measure.name, {})
        if labels not in found:
            found[labels] = [0.0] * (1 if measure.bounds is None else len(measure.bounds) + 2)
        return found[labels]

    def put(self, measure: Measure, amount: float) -> None:
        """Set the one value of a measure without labels."""
        self.values[measure.name] = {(): [float(amount)]}

    def add(self, other: MetricSnapshot, measures: Mapping[str, Measure], *, with_gauges: bool = True) -> None:
        """Add another one to this; metrics that ``measures`` does not know are left out."""
        for name, found in other.values.items():
            measure = measures.get(name)
            if measure is None or (measure.kind in ("gauge", "largest") and not with_gauges):
                continue
            mine, merge = self.values.setdefault(name, {}), max if measure.kind == "largest" else operator.add
            for labels, numbers in found.items():
                mine[labels] = list(map(merge, mine[labels], numbers)) if labels in mine else list(numbers)

    def named(self, label: str, measures: Mapping[str, Measure]) -> set[str]:
        """Return all values of a label but the empty one."""
        found = ((measures[name].labels, series) for name, series in self.values.items() if name in measures)
        return {one[names.index(label)] for names, series in found if label in names for one in series} - {""}

    def forget(self, label: str, gone: Collection[str], measures: Mapping[str, Measure]) -> None:
        """Drop what is counted under some values of a label."""
        for name, series in self.values.items():
            if gone and name in measures and label in measures[name].labels:
                at = measures[name].labels.index(label)
                self.values[name] = {labels: n for labels, n in series.items() if labels[at] not in gone}

    def encode(self) -> list[Any]:
        """Return it as JSON knows it."""
        return [[name, [[list(k), v] for k, v in found.items()]] for name, found in self.values.items()]

    @classmethod
    def decode(cls, encoded: Iterable[Any]) -> MetricSnapshot:
        """Return the snapshot that ``encode`` made JSON of."""
        return cls({name: {tuple(labels): numbers for labels, numbers in found} for name, found in encoded})

    def families(self, measures: Iterable[Measure]) -> Iterable[Metric]:
        """Yield all metrics for prometheus_client to write, those without a value too."""
        for measure in measures:
            yield _family(measure, self.values.get(measure.name, {}))


def _family(measure: Measure, found: Mapping[Labels, list[float]]) -> Metric:
    names = measure.labels
    if measure.bounds is not None:
        histogram = HistogramMetricFamily(measure.name, measure.text, labels=names)
        bounds = [*map(str, measure.bounds), "+Inf"]
        for labels, numbers in sorted(found.items()):
            below, buckets = 0.0, []
            for bound, count in zip(bounds, numbers, strict=False):
                below += count
                buckets.append((bound, below))
            histogram.add_metric(labels, buckets, numbers[-1])
        return histogram
    kind = CounterMetricFamily if measure.kind == "counter" else GaugeMetricFamily
    family: CounterMetricFamily | GaugeMetricFamily = kind(measure.name, measure.text, labels=names)
    for labels, numbers in sorted(found.items()):
        family.add_metric(labels, numbers[0])
    return family
