"""Everything that is chosen, chosen on validation scenarios: the default, the best heuristics, operating points.

Test scenarios are not looked at here. Where a scenario has no validation file, what is written down in this module
beforehand is taken.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from orchestrator.evaluation.policy_entries import LEARNED, OWN_HEURISTICS, UNTUNED, head_of, is_learned
from orchestrator.evaluation.scores import UTILITY, Field, Score
from orchestrator.evaluation.statistics import Estimate, estimate_iqm, interquartile_mean
from orchestrator.evaluation.suites.plan import FALLBACK

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
        label: of it; with its own defaults, whatever was tuned.
        utility: interquartile mean over scenarios and traces.
        worst_scenario: where it trails the best of them most.
        worst_loss: by how much utility.
    """

    label: str
    utility: Estimate
    worst_scenario: str
    worst_loss: float


def middle(score: Score, name: str) -> float:
    """Return the interquartile mean of a figure over traces."""
    return float(interquartile_mean(score.figures[name]))


def rank_defaults(fields: Sequence[Field]) -> tuple[Ranked, ...]:
    """Return who could be the product's default, best first, by the utility on validation scenarios.

    A default is one spec for all scenarios, so policies are taken as they come, not tuned. Nothing is ranked where
    there are no validation scenarios.
    """
    validation = [field for field in fields if field.case.is_validation]
    if not validation:
        return ()
    comes = [
        {label.removesuffix(UNTUNED): s for label, s in field.scores.items() if not s.entry.is_tuned}
        for field in validation
    ]
    labels = [label for label in comes[0] if all(label in own for own in comes)]
    best = [max(middle(s, UTILITY) for s in field.scores.values()) for field in validation]
    ranked = []
    for label in labels:
        own = [scores[label] for scores in comes]
        losses = [most - middle(score, UTILITY) for most, score in zip(best, own, strict=True)]
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


def best_heuristic(validation: Field | None, baselines: Baselines = Baselines.ALL) -> str:
    """Return the heuristic of the most utility on a scenario's validation file, tuned where it was.

    The first of equals; without such a file, or any of them on it, it is the guard's fallback.
    """
    if validation is None:
        return FALLBACK
    own = {
        label: middle(score, UTILITY)
        for label, score in validation.scores.items()
        if not is_learned(label)
        and not label.endswith(UNTUNED)
        and (baselines is Baselines.ALL or head_of(label) not in OWN_HEURISTICS)
    }
    return max(own, key=lambda label: own[label], default=FALLBACK)


def best_point(validation: Field | None) -> str:
    """Return the learned point of the most utility; without a validation file the checkpoint as it comes."""
    if validation is None:
        return LEARNED
    points = _points(validation)
    return max(points, key=lambda label: middle(points[label], UTILITY), default=LEARNED)


def thriftiest_point(validation: Field | None, heuristic: str) -> str:
    """Return the learned point of the least joules among those that equal a heuristic's attainment and accuracy.

    Without any the one of the most utility; without a validation file the checkpoint as it comes.
    """
    if validation is None:
        return LEARNED
    held = validation.scores[heuristic]
    equal = [
        label
        for label, score in _points(validation).items()
        if is_as_timely(score, held) and middle(score, "accuracy") >= middle(held, "accuracy") - ACCURACY_TOLERANCE
    ]
    points = validation.scores
    if equal:
        return min(equal, key=lambda label: middle(points[label], "joules_per_answer"))
    return best_point(validation)


def most_accurate_point(validation: Field | None, heuristic: str) -> str:
    """Return the most accurate learned point among those that equal a heuristic's attainment and joules; see above."""
    if validation is None:
        return LEARNED
    held = validation.scores[heuristic]
    most_j = middle(held, "joules_per_answer") * (1 + JOULES_TOLERANCE)
    equal = [
        label
        for label, score in _points(validation).items()
        if is_as_timely(score, held) and middle(score, "joules_per_answer") <= most_j
    ]
    points = validation.scores
    if equal:
        return max(equal, key=lambda label: middle(points[label], "accuracy"))
    return best_point(validation)


def is_as_timely(score: Score, held: Score) -> bool:
    """Return whether a policy's requests are in time as often as another's."""
    return middle(score, "attainment_ratio") >= middle(held, "attainment_ratio") - ATTAINMENT_TOLERANCE


def _points(field: Field) -> dict[str, Score]:
    """Return the points of the learned policy."""
    return {label: s for label, s in field.scores.items() if head_of(label) == LEARNED}
