"""Qualities of any scale as policies see them.

Rules and learned policies weigh what a wider width gains against what it costs, and both were made for ratios from 0 to
1, such as top-1: some count a hundredth as a hundredth, others what is gained in parts of what there is. A mean average
precision in points, or an error with its sign turned, means nothing to them. So where any quality of a family is no
ratio, all are measured from the best of them, in parts of the largest number that the family has: the best is 1, what
lies a tenth of the scale below it is 0.9, and none is below 0. Of ratios nothing changes. Where a quality lies between
the family's least and best is for a rule to weigh, as ``thrift`` does; what joules and lost answers cost would be lost
in it, and a thousandth of a point look like all there is to gain.

Nobody says where a scale ends that is no ratio: it may be 100, or there may be no end. So a family counts for more in
points than it would in ratios, unless its best is the end, wherever a gain has a price (``thrift``, learned policies).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping


def is_ratio(qualities: Iterable[float]) -> bool:
    """Return whether all qualities of a family are from 0 to 1."""
    return all(0 <= quality <= 1 for quality in qualities)


def relative_qualities(qualities: Iterable[float]) -> Mapping[float, float]:
    """Return each of a family's qualities as policies see it, 0..1; at least one quality, all finite."""
    distinct = sorted(set(qualities))
    return {quality: relative_quality(quality, distinct) for quality in distinct}


def relative_quality(quality: float, qualities: Collection[float]) -> float:
    """Return a quality on the scale of a family's, also one that no width has: then it may lie outside of 0..1."""
    if is_ratio(qualities):
        return quality
    least, best = min(qualities), max(qualities)
    return 1 - (best - quality) / max(abs(least), abs(best), best - least)
