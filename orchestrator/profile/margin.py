"""How much longer than expected an answer may take: a quantile of what was observed, kept online for each model.

What is expected of an answer, waiting included, is a mean, and a mean says nothing of the tail: a job beside it, a
stall, or a batch that grew while it waited make some answers take twice as long, on one server often and on another
never. So what is expected is multiplied by a margin before it is held against a deadline, and the margin follows how
often it held: of all answers, CONFIDENCE come within it.

Of each answer the logarithm of took/expected is noted. The margin is their running mean and so many of their running
mean deviations; both forget, so a server that becomes slower or noisier is noticed within some twenty answers. How many
deviations follows from the misses alone: a miss raises it by STEP·CONFIDENCE, anything else lowers it by
STEP·(1 − CONFIDENCE). Whatever the distribution, and however it changes, the share within the margin can then differ
from CONFIDENCE over n answers by no more than (range of that number + STEP)/(STEP·n): adaptive conformal inference
(Gibbs and Candès, "Adaptive conformal inference under distribution shift", NeurIPS 2021), on scores that are scaled.

Until something was observed the margin is the one of the settings, and it becomes that again when nothing was for long:
a width that a bad minute has made look hopeless is tried again after it.
"""

from __future__ import annotations

import math
from typing import Final, NamedTuple

CONFIDENCE: Final = 0.97
"""The share of answers that come within the margin."""
STEP: Final = 0.5
"""Of the number of deviations; larger follows changes sooner, and swings more while nothing changes."""
DECAY: Final = 0.95
"""Weight of the past in mean and deviation when an answer comes."""
FORGET_S: Final = 10.0
"""After so many seconds without an answer what was observed and the settings count alike."""
_FIRST_DEVIATIONS: Final = 2.352
"""As a normal distribution has them; and no sum of steps leads from here to 0, where the margin of a server that takes
just what is expected of it would be just that, and rounding would decide."""
_MOST_DEVIATIONS: Final = 20.0
_LEAST_DEVIATION: Final = 0.01  # of logarithms, so 1 %
_OUTLIER: Final = 3.0  # one answer counts as at most so many deviations
_LEAST: Final = 0.5
_MOST: Final = 20.0


class Margin(NamedTuple):
    """What is remembered of one server and model.

    Attributes:
        mean: Of the logarithm of what answers took over what was expected.
        deviation: The mean absolute deviation from it.
        deviations: How many deviations above the mean the margin is.
        observed_s: When an answer was last observed, on the router's clock.
    """

    mean: float
    deviation: float
    deviations: float
    observed_s: float


def first_margin(prior: float, now_s: float) -> Margin:
    """Return what there is before the first answer, by the margin of the settings, at least 1."""
    return Margin(0.0, max(_LEAST_DEVIATION, math.log(prior) / _FIRST_DEVIATIONS), _FIRST_DEVIATIONS, now_s)


def remembered_margin(margin: Margin, first: Margin) -> Margin:
    """Return what an answer that comes when ``first`` would be the first margin goes on from.

    What was observed longer than FORGET_S before counts less, and ``first`` the more: after a bad minute a width may
    get one answer in a minute, and no such answers would lead back to where it began.
    """
    idle_s = first.observed_s - margin.observed_s
    if idle_s <= FORGET_S:
        return margin
    kept = FORGET_S / idle_s
    return Margin(
        first.mean + kept * (margin.mean - first.mean),
        first.deviation + kept * (margin.deviation - first.deviation),
        first.deviations + kept * (margin.deviations - first.deviations),
        first.observed_s,
    )


def observed_margin(margin: Margin, ratio: float, allowed_ratio: float, now_s: float) -> Margin:
    """Return the margin after an answer took ``ratio`` times what was expected, and was allowed ``allowed_ratio``."""
    score = math.log(min(max(ratio, 1e-3), 1e3))
    step = -STEP * (1 - CONFIDENCE) if ratio <= allowed_ratio else STEP * CONFIDENCE
    distance = min(abs(score - margin.mean), _OUTLIER * margin.deviation + 0.1)
    return Margin(
        DECAY * margin.mean + (1 - DECAY) * score,
        max(_LEAST_DEVIATION, DECAY * margin.deviation + (1 - DECAY) * distance),
        min(max(margin.deviations + step, -_FIRST_DEVIATIONS), _MOST_DEVIATIONS),
        now_s,
    )


def margin_ratio(margin: Margin) -> float:
    """Return how many times the expected time an answer may take."""
    return min(max(math.exp(margin.mean + margin.deviations * margin.deviation), _LEAST), _MOST)


def recent_ratio(ratio: float, observed_s: float, prior: float, now_s: float) -> float:
    """Return the margin now, when nothing was observed since ``observed_s``; NaN, while there is none, is the prior."""
    if math.isnan(ratio):
        return prior
    return prior + (ratio - prior) * FORGET_S / (FORGET_S + max(0.0, now_s - observed_s))
