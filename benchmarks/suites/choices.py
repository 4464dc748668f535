"""Everything that is chosen, chosen on validation scenarios: the default, the best heuristics, operating points.

Test scenarios are not looked at here. Where a scenario has no validation file, what is written down in this module
beforehand is taken.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from benchmarks.suites.policies import FALLBACK, OWN_HEURISTICS
from orchestrator.evaluation.cases import LEARNED, UNTUNED, head_of, is_learned
from orchestrator.evaluation.scores import UTILITY, ScenarioScores, Score
from orchestrator.evaluation.statistics import Estimate, estimate_iqm

ATTAINMENT_TOLERANCE: Final = 0.001
"""A tenth of a point of requests in time: equal."""
ACCURACY_TOLERANCE: Final = 0.002
"""0.2 points of served accuracy: equal."""
JOULES_TOLERANCE: Final = 0.01
"""One in a hundred: equal."""


class Baselines(StrEnum):
    """Among which heuristics the best is looked for."""

    ALL = "all"
    LITERATURE = "literature"


@dataclass(frozen=True, slots=True)
class Ranked:
    """How a policy that could be the default did on validation.

    Attributes:
        label: The policy, with its own defaults, whatever was tuned.
        utility: Its interquartile mean over scenarios and traces.
        worst_scenario: The scenario where it trails the best of them most.
        worst_loss: How much utility it trails by there.
    """

    label: str
    utility: Estimate
    worst_scenario: str
    worst_loss: float


def rank_defaults(scenarios: Sequence[ScenarioScores]) -> tuple[Ranked, ...]:
    """Return who could be the product's default, best first, by the utility on validation scenarios.

    A default is one spec for all scenarios, so policies are taken as they come, not tuned. Nothing is ranked where
    there are no validation scenarios.
    """
    validation = [scenario for scenario in scenarios if scenario.case.is_validation]
    if not validation:
        return ()
    comes = [
        {label.removesuffix(UNTUNED): s for label, s in scenario.scores.items() if not s.entry.is_tuned}
        for scenario in validation
    ]
    labels = [label for label in comes[0] if all(label in own for own in comes)]
    best = [max(s.iqm(UTILITY) for s in scenario.scores.values()) for scenario in validation]
    ranked = []
    for label in labels:
        own = [scores[label] for scores in comes]
        losses = [most - score.iqm(UTILITY) for most, score in zip(best, own, strict=True)]
        worst = max(range(len(losses)), key=lambda at: losses[at])
        ranked.append(
            Ranked(
                label,
                estimate_iqm([s.figures[UTILITY] for s in own]),
                validation[worst].case.stem,
                losses[worst],
            )
        )
    return tuple(sorted(ranked, key=lambda r: (-r.utility.value, r.label)))


def best_heuristic(validation: ScenarioScores | None, baselines: Baselines = Baselines.ALL) -> str:
    """Return the heuristic of the most utility on a scenario's validation file, tuned where it was.

    The first of equals; without such a file, or any of them on it, it is the guard's fallback.
    """
    if validation is None:
        return FALLBACK
    own = {
        label: score.iqm(UTILITY)
        for label, score in validation.scores.items()
        if not is_learned(label)
        and not label.endswith(UNTUNED)
        and (baselines is Baselines.ALL or head_of(label) not in OWN_HEURISTICS)
    }
    return max(own, key=lambda label: own[label], default=FALLBACK)


def best_point(validation: ScenarioScores | None) -> str:
    """Return the learned point of the most utility; without a validation file the checkpoint as it comes."""
    if validation is None:
        return LEARNED
    points = _points(validation)
    return max(points, key=lambda label: points[label].iqm(UTILITY), default=LEARNED)


def thriftiest_point(validation: ScenarioScores | None, heuristic: str) -> str:
    """Return the learned point of the least joules among those that equal a heuristic's attainment and accuracy.

    Without any the one of the most utility; without a validation file the checkpoint as it comes.
    """
    if validation is None:
        return LEARNED
    held = validation.scores[heuristic]
    equal = [
        label
        for label, score in _points(validation).items()
        if is_as_timely(score, held) and score.iqm("accuracy") >= held.iqm("accuracy") - ACCURACY_TOLERANCE
    ]
    points = validation.scores
    if equal:
        return min(equal, key=lambda label: points[label].iqm("joules_per_answer"))
    return best_point(validation)


def most_accurate_point(validation: ScenarioScores | None, heuristic: str) -> str:
    """Return the most accurate learned point among those that equal a heuristic's attainment and joules; see above."""
    if validation is None:
        return LEARNED
    held = validation.scores[heuristic]
    most_j = held.iqm("joules_per_answer") * (1 + JOULES_TOLERANCE)
    equal = [
        label
        for label, score in _points(validation).items()
        if is_as_timely(score, held) and score.iqm("joules_per_answer") <= most_j
    ]
    points = validation.scores
    if equal:
        return max(equal, key=lambda label: points[label].iqm("accuracy"))
    return best_point(validation)


def is_as_timely(score: Score, held: Score) -> bool:
    """Return whether a policy's requests are in time as often as another's."""
    return score.iqm("attainment_ratio") >= held.iqm("attainment_ratio") - ATTAINMENT_TOLERANCE


def _points(scenario: ScenarioScores) -> dict[str, Score]:
    """Return the points of the learned policy."""
    return {label: s for label, s in scenario.scores.items() if head_of(label) == LEARNED}
