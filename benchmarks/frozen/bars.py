"""The bars of the frozen test, as they were set before it was run, and what came of it held against them.

The best single policy is one spec for all scenarios, the one of the most mean utility on validation traces. Means are
over scenarios and traces alike, and all differences are paired by trace. Of five traces a bootstrap's intervals are too
narrow (those of one scenario hold 84 % of the time for 95), so intervals are Student's.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

import numpy as np

from benchmarks.frozen.drawing import SMALL
from benchmarks.suites.policies import FALLBACK
from benchmarks.suites.statistics import claim_ratio
from orchestrator.evaluation.scores import UTILITY, Floats, ScenarioScores
from orchestrator.evaluation.statistics import Estimate
from orchestrator.reporting.claim import Claim, Interval
from orchestrator.reporting.student import quantile_95

FITTED: Final = "fitted"
EVOLUTION: Final = "evolution"
PPO: Final = "ppo"
FITS: Final = (EVOLUTION, PPO, FITTED)
TUNED: Final = "tuned "
"""Before the name of a rule that was tuned to a scenario by itself."""
UTILITY_BAR, BETTER_BAR, WORST_BAR = 0.015, 0.8, 0.002
IN_TIME_BAR: Final = -0.001
GAP_BAR: Final = 0.5
JOULES_LESS, JOULES_BAR = 0.10, 1 / 3
PPO_BAR, BEHIND_BAR, SMALL_BAR = 0.010, -0.002, 0.5
LOSS_BAR: Final = 0.02
_ATTAINMENT_TOLERANCE, _ACCURACY_TOLERANCE = 0.001, 0.002
"""A tenth of a point of requests in time, 0.2 points of served accuracy: equal."""
_LEAST_GAP: Final = 0.002
"""Of utility; who is nearer to the bound leaves nothing to gain."""


def tuned_label(rule: str) -> str:
    """Return what a rule that was tuned by itself is called."""
    return f"{TUNED}{rule}"


def best_single(validation: Sequence[ScenarioScores]) -> list[tuple[str, float]]:
    """Return the policies that are the same everywhere with their mean utility over all scenarios, the best first."""
    labels = [label for label in validation[0].scores if all(label in each.scores for each in validation)]
    means = {label: float(np.mean([mean_of(each, label) for each in validation])) for label in labels}
    return sorted(means.items(), key=lambda item: -item[1])


def mean_of(scenario: ScenarioScores, label: str, figure: str = UTILITY) -> float:
    """Return a figure's mean over traces; 0 for what is known of none."""
    return float(np.nan_to_num(scenario.scores[label].figures[figure]).mean())


def differences(scenarios: Sequence[ScenarioScores], own: str, other: str, figure: str = UTILITY) -> list[Floats]:
    """Return by how much a policy's figure is above another's, by trace, in each scenario."""
    return [each.scores[own].figures[figure] - each.scores[other].figures[figure] for each in scenarios]


def mean_estimate(strata: Sequence[Floats]) -> Estimate:
    """Return the mean over scenarios of their means over traces, with its 95 % interval over traces.

    By Student's t, with Welch and Satterthwaite's degrees of freedom.
    """
    mean, squared = float(np.mean([values.mean() for values in strata])), len(strata) ** 2
    if min(len(values) for values in strata) < 2:
        return Estimate(mean)
    variances = np.array([values.var(ddof=1) / len(values) / squared for values in strata])
    weights = variances**2 / [len(values) - 1 for values in strata]
    freedom = int(variances.sum() ** 2 / weights.sum()) if weights.sum() > 0 else 1
    half = quantile_95(max(1, freedom)) * math.sqrt(variances.sum())
    return Estimate(mean, Interval(mean - half, mean + half))


def share_of_gap(scenario: ScenarioScores, single: str, bound: float | None) -> float | None:
    """Return which part of what lies between the best single policy and the bound is gained; None: nothing does."""
    held = mean_of(scenario, single)
    if bound is None or bound - held < _LEAST_GAP:
        return None
    return (mean_of(scenario, FITTED) - held) / (bound - held)


def joules_less(scenario: ScenarioScores, single: str) -> float | None:
    """Return the part of the best single policy's joules that is saved; None: not at equal accuracy and deadlines."""
    for figure, tolerance in (("attainment_ratio", _ATTAINMENT_TOLERANCE), ("accuracy", _ACCURACY_TOLERANCE)):
        if mean_of(scenario, FITTED, figure) < mean_of(scenario, single, figure) - tolerance:
            return None
    held = mean_of(scenario, single, "joules_per_answer")
    return 1 - mean_of(scenario, FITTED, "joules_per_answer") / held if held > 0 else None


def is_ahead_of_all(scenario: ScenarioScores, own: str) -> bool:
    """Return whether a policy is surely ahead of every rule, as it is, tuned and evolved."""
    for label in scenario.scores.keys() - {PPO, FITTED}:
        (difference,) = differences([scenario], own, label)
        if difference.mean() <= 0:
            return False
        interval = mean_estimate([difference]).interval
        if interval is None or interval.low <= 0:
            return False
    return True


def worst_loss(worlds: Sequence[ScenarioScores], default: str) -> tuple[float, str] | None:
    """Return the most that the default loses, and in which world: of what the fallback's answers in time are worth.

    Utility, which joules are taken from, may be nothing or less. Where the fallback answers nothing in time there is
    nothing to lose a part of.
    """
    found = [
        ((mean_of(world, FALLBACK) - mean_of(world, default)) / worth, world.case.stem)
        for world in worlds
        if (worth := mean_of(world, FALLBACK, "effective_accuracy")) > 0
    ]
    return max(found, default=None)


def frozen_claims(
    tests: Sequence[ScenarioScores],
    single: str,
    bounds: Mapping[str, float | None],
    worlds: Sequence[ScenarioScores],
    default: str,
) -> Iterator[Claim]:
    """Yield the claims over the frozen scenarios, and that over drawn worlds."""
    against, gains = f"against the best single policy, {single}", differences(tests, FITTED, single)
    means = {each.case.stem: float(gain.mean()) for each, gain in zip(tests, gains, strict=True)}
    count = len(tests)
    yield claim_ratio(f"utility more: {FITTED} {against}, mean", mean_estimate(gains), UTILITY_BAR)
    better = sum(mean > 0 for mean in means.values())
    yield claim_ratio(
        f"scenarios where {FITTED} is better", Estimate(better / count), BETTER_BAR, note=f"{better} of {count}"
    )
    worst = min(means, key=lambda stem: means[stem])
    yield claim_ratio(
        f"utility less at the most: {FITTED} {against}, in any scenario",
        Estimate(-means[worst]),
        WORST_BAR,
        is_floor=False,
        note=f"in {worst}",
    )
    yield claim_ratio(
        f"in time more: {FITTED} against the guard's fallback, {FALLBACK}, mean",
        mean_estimate(differences(tests, FITTED, FALLBACK, "attainment_ratio")),
        IN_TIME_BAR,
    )
    shares = [share_of_gap(each, single, bounds[each.case.stem]) for each in tests]
    known = [share for share in shares if share is not None]
    yield claim_ratio(
        f"share of the gap to the bound of each moment that {FITTED} gains, median",
        Estimate(float(np.median(known))) if known else None,
        GAP_BAR,
        note=f"{len(known)} of {count} scenarios have a bound and a gap",
    )
    above = [
        each.case.stem
        for each, bound in ((each, bounds[each.case.stem]) for each in tests)
        if bound is not None and any(mean_of(each, label) > bound for label in each.scores)
    ]
    yield claim_ratio(
        "scenarios where some policy has more utility than their bound",
        Estimate(len(above) / count),
        0.0,
        is_floor=False,
        note=", ".join(above),
    )
    saved = [joules_less(each, single) for each in tests]
    frugal = sum(part is not None and part >= JOULES_LESS for part in saved)
    yield claim_ratio(
        f"scenarios where {FITTED} takes {JOULES_LESS:.0%} fewer joules at equal accuracy and deadlines",
        Estimate(frugal / count),
        JOULES_BAR,
        note=f"{frugal} of {count}; on equal terms in {sum(part is not None for part in saved)}",
    )
    yield from _ppo_claims(tests, single)
    loss = worst_loss(worlds, default)
    yield claim_ratio(
        f"utility lost at the most: {default}, the default, against {FALLBACK} in any drawn world",
        None if loss is None else Estimate(loss[0]),
        LOSS_BAR,
        is_floor=False,
        note="" if loss is None else f"in {loss[1]}, of {len(worlds)} worlds",
    )


def _ppo_claims(tests: Sequence[ScenarioScores], single: str) -> Iterator[Claim]:
    """Yield the claims about what PPO makes of a rule as it is."""
    yield claim_ratio(
        f"utility more: {PPO} by itself against the best single policy, {single}, mean",
        mean_estimate(differences(tests, PPO, single)),
        PPO_BAR,
    )
    yield claim_ratio(
        f"utility more: {PPO} against {EVOLUTION}, mean", mean_estimate(differences(tests, PPO, EVOLUTION)), BEHIND_BAR
    )
    small = [each for each in tests if len(each.fleet) <= SMALL]
    ahead = [each.case.stem for each in small if is_ahead_of_all(each, PPO)]
    yield claim_ratio(
        f"small fleets where {PPO} is ahead of every rule, as it is, tuned or evolved, interval above 0",
        Estimate(len(ahead) / len(small)) if small else None,
        SMALL_BAR,
        note=f"{len(ahead)} of {len(small)} of at most {SMALL} servers",
    )
