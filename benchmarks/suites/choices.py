"""Who is best over scenarios, and what is chosen: on validation scenarios alone.

Where a scenario has no validation file, what is written down in this module beforehand is taken.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from benchmarks.suites.policies import FALLBACK
from orchestrator.evaluation.cases import LEARNED, UNTUNED, head_of, is_learned
from orchestrator.evaluation.scores import UTILITY, ScenarioScores, Score
from orchestrator.evaluation.statistics import Estimate, estimate_iqm


@dataclass(frozen=True, slots=True)
class Ranked:
    """How a policy did over scenarios.

    Attributes:
        label: The policy.
        utility: Its interquartile mean over scenarios and traces.
        worst_scenario: The scenario where it trails the best of them most.
        worst_loss: How much utility it trails by there.
    """

    label: str
    utility: Estimate
    worst_scenario: str
    worst_loss: float


def rank_tested(scenarios: Sequence[ScenarioScores]) -> tuple[Ranked, ...]:
    """Return how policies did on test scenarios, as they ran there, best first."""
    tests = [scenario for scenario in scenarios if not scenario.case.is_validation]
    return _rank(tests, [scenario.scores for scenario in tests])


def rank_defaults(scenarios: Sequence[ScenarioScores]) -> tuple[Ranked, ...]:
    """Return who could be a default, best first, by the utility on validation scenarios.

    A default is one spec for all scenarios, so policies are taken as they come, not tuned. Nothing is ranked where
    there are no validation scenarios.
    """
    validation = [scenario for scenario in scenarios if scenario.case.is_validation]
    comes = [
        {label.removesuffix(UNTUNED): s for label, s in scenario.scores.items() if not s.entry.is_tuned}
        for scenario in validation
    ]
    return _rank(validation, comes)


def _rank(scenarios: Sequence[ScenarioScores], scores: Sequence[Mapping[str, Score]]) -> tuple[Ranked, ...]:
    """Return those who are scored in all scenarios, best first."""
    if not scenarios:
        return ()
    best = [max(s.iqm(UTILITY) for s in scenario.scores.values()) for scenario in scenarios]
    ranked = []
    for label in [label for label in scores[0] if all(label in each for each in scores)]:
        own = [each[label] for each in scores]
        losses = [most - score.iqm(UTILITY) for most, score in zip(best, own, strict=True)]
        worst = max(range(len(losses)), key=lambda at: losses[at])
        utility = estimate_iqm([s.figures[UTILITY] for s in own])
        ranked.append(Ranked(label, utility, scenarios[worst].case.stem, losses[worst]))
    return tuple(sorted(ranked, key=lambda r: (-r.utility.value, r.label)))


def best_heuristic(validation: ScenarioScores | None) -> str:
    """Return the heuristic of the most utility on a scenario's validation file, tuned where it was.

    The first of equals; without such a file, or any of them on it, it is the guard's fallback.
    """
    if validation is None:
        return FALLBACK
    own = {
        label: score.iqm(UTILITY)
        for label, score in validation.scores.items()
        if not is_learned(label) and not label.endswith(UNTUNED)
    }
    return max(own, key=lambda label: own[label], default=FALLBACK)


def best_point(validation: ScenarioScores | None) -> str:
    """Return the learned point of the most utility; without a validation file the checkpoint as it comes."""
    if validation is None:
        return LEARNED
    points = {label: s.iqm(UTILITY) for label, s in validation.scores.items() if head_of(label) == LEARNED}
    return max(points, key=lambda label: points[label], default=LEARNED)
