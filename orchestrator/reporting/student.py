"""How sure a mean of few values is: the two-sided 95 % interval by Student's t.

Written down, because scipy comes only with the extras that simulate and learn, and benches and profiles need it too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

_T_95: Final = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131,
    2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
)  # fmt: skip


def quantile_95(freedom: int) -> float:
    """Return the quantile for so many degrees of freedom, 1 or more; of more than 30 a slightly larger one."""
    return _T_95[min(freedom, len(_T_95)) - 1]


def half_interval(values: Sequence[float]) -> float:
    """Return half of the interval of the mean of values; infinite for fewer than two."""
    count = len(values)
    if count < 2:
        return math.inf
    mean = math.fsum(values) / count
    variance = math.fsum((value - mean) ** 2 for value in values) / (count - 1)
    return quantile_95(count - 1) * math.sqrt(variance / count)
