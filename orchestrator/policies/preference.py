"""What a request says that it prefers of answers in time: accuracy, an early answer, little energy.

Who decides by it is ``orchestrator.policies.preferred``.
"""

from __future__ import annotations

import math

from orchestrator.errors import ConfigError
from orchestrator.snapshot import Preference

_WORDS = {
    "accuracy": Preference(1.0, 0.0, 0.0),
    "latency": Preference(0.0, 1.0, 0.0),
    "energy": Preference(0.0, 0.0, 1.0),
    "balanced": Preference(1 / 3, 1 / 3, 1 / 3),
}
_AXES = ("accuracy", "latency", "energy")


def parse_preference(text: str) -> Preference:
    """Return what ``accuracy``, ``balanced``, … or ``accuracy=0.5,latency=0.3,energy=0.2`` asks for.

    Weights are scaled to add up to 1; one that is left out is 0.

    Raises:
        ConfigError: naming what may be written.
    """
    if text in _WORDS:
        return _WORDS[text]
    weights = dict.fromkeys(_AXES, 0.0)
    named = set()
    for part in text.split(","):
        axis, _, number = (side.strip() for side in part.partition("="))
        try:
            weight = float(number)
        except ValueError:
            weight = math.nan
        if axis not in weights or axis in named or not (math.isfinite(weight) and weight >= 0):
            raise ConfigError(
                f"{text!r} is no preference; give {', '.join(_WORDS)}, or weights from 0 on such as "
                "'accuracy=0.5,latency=0.3,energy=0.2', each named once"
            )
        weights[axis] = weight
        named.add(axis)
    most = max(weights.values())
    if most <= 0:
        raise ConfigError(f"{text!r} weighs nothing; give at least one weight above 0")
    scaled = [weights[axis] / most for axis in _AXES]  # before they are added, or huge ones would add up to infinity
    return Preference(*(weight / sum(scaled) for weight in scaled))
