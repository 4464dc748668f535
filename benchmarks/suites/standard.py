"""The claims of suite ``standard``: the learned policy against the best tuned heuristic of each scenario.

The best heuristic of a scenario has the most utility on its validation file; the learned policy's operating points are
chosen there too (``choices``). On the test scenario the two then meet trace by trace:

- joules a request, where the learned point is in time as often (within 0.1 points) and as accurate (within 0.2 points);
- served accuracy, at arrivals of CV² ≥ 4, where it is in time as often and takes no more joules (within 1 %);
- the hypervolume that the learned policy's points dominate (accuracy, requests in time, joules; reference point in
  orchestrator.simulation.utility) over that of all tuned heuristics together, and over that of the best one alone.

The first two stand for each other; both are reported, and both twice: against the best of all heuristics, which is the
stricter, and against the best of the literature, which leaves out what this project has made itself. The first of the
hypervolumes is the harder: one checkpoint, at a handful of preferences, against the front of two dozen tuned policies.

Beside each comparison stands what there is to gain at all: the joules that would be saved at the fluid bound for the
least accuracy that counts as equal, and the utility at the fluid bound; and which share of the way to them the learned
policy goes. No policy gets there, for work is no fluid; how far one could get nobody knows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

import numpy as np

from benchmarks.suites.choices import (
    ACCURACY_TOLERANCE,
    JOULES_TOLERANCE,
    Baselines,
    best_heuristic,
    best_point,
    is_as_timely,
    most_accurate_point,
    thriftiest_point,
)
from benchmarks.suites.policies import OWN_HEURISTICS
from benchmarks.suites.statistics import claim_ratio, estimate_closed, probability_of_improvement
from orchestrator.evaluation.cases import LEARNED, head_of, is_learned
from orchestrator.evaluation.scores import UTILITY, Floats, ScenarioScores
from orchestrator.evaluation.statistics import Estimate, estimate_iqm, hypervolume
from orchestrator.reporting.claim import Claim

JOULES_BAR: Final = 0.15
ACCURACY_BAR: Final = 0.02
HYPERVOLUME_BAR: Final = 0.10
BURSTY_CV2: Final = 4.0
BASELINES: Final[dict[Baselines, str]] = {
    Baselines.ALL: "the best tuned heuristic of all",
    Baselines.LITERATURE: f"the best tuned heuristic of the literature (all but {', '.join(sorted(OWN_HEURISTICS))})",
}
LEAST_GAP: Final = 0.002
"""Of utility, 0.2 points of accuracy; a heuristic that is nearer to the bound leaves nothing to gain."""


_NOT_RUN: Final = f"`{LEARNED}` was not run, or no heuristic was"


class Verdict(StrEnum):
    """What an interval says of a difference."""

    HIGHER = "higher"
    LOWER = "lower"
    UNDECIDED = "undecided"


@dataclass(frozen=True, slots=True)
class Comparison:
    """The learned policy against the best heuristic of one scenario.

    Attributes:
        scenario: The test scenario.
        heuristic: The best heuristic on validation.
        thrifty: The learned point that is held to joules.
        accurate: The learned point that is held to accuracy.
        best: The learned point that is held to utility.
        saved: Joules a request that the thrifty point saves, as a ratio by trace.
        gained: Accuracy that the accurate point gains, by trace.
        utility_gained: Utility that the best point gains, by trace.
        is_equal: Whether the thrifty point is as timely and as accurate.
        is_frugal: Whether the accurate one is as timely and takes no more joules.
        least_j: Least joules a request, by the fluid bound at the least accuracy that counts as equal; None: unknown.
    """

    scenario: ScenarioScores
    heuristic: str
    thrifty: str
    accurate: str
    best: str
    saved: Floats
    gained: Floats
    utility_gained: Floats
    is_equal: bool
    is_frugal: bool
    least_j: float | None

    @property
    def most_saved_ratio(self) -> float | None:
        """Of the heuristic's joules, what the fluid bound leaves to save; None: it is unknown."""
        return None if self.least_j is None else 1 - self.least_j / self._held_j

    @property
    def joules_closed(self) -> Estimate | None:
        """Of what could be saved at the most, the share that the thrifty point saves; None where there is nothing."""
        if self.least_j is None or self.least_j >= self._held_j:
            return None
        joules = [self.scenario.scores[label].figures["joules_per_answer"] for label in (self.thrifty, self.heuristic)]
        return estimate_closed([(joules[0], joules[1], self.least_j)])

    @property
    def utility_gap(self) -> tuple[Floats, Floats, float] | None:
        """The best point's utility and the heuristic's by trace, and the bound; None where there is nothing to gain."""
        own, held = (self.scenario.scores[label] for label in (self.best, self.heuristic))
        bound = self.scenario.most_utility
        if bound is None or not bound - held.iqm(UTILITY) >= LEAST_GAP:
            return None
        return own.figures[UTILITY], held.figures[UTILITY], bound

    @property
    def utility_more(self) -> Estimate:
        """Of the best point, with its interval over traces."""
        return estimate_iqm([self.utility_gained])

    @property
    def verdict(self) -> Verdict:
        """Whether the best point's utility is higher; undecided where the interval holds 0, or there is none."""
        ends = self.utility_more.interval
        if ends is None or ends.low <= 0 <= ends.high:
            return Verdict.UNDECIDED
        return Verdict.HIGHER if ends.low > 0 else Verdict.LOWER

    @property
    def _held_j(self) -> float:
        return self.scenario.scores[self.heuristic].iqm("joules_per_answer")


def draw_comparisons(
    scenarios: Sequence[ScenarioScores], baselines: Baselines = Baselines.ALL
) -> tuple[Comparison, ...]:
    """Return a comparison for each test scenario; none where the learned policy or no heuristic ran."""
    validation = {scenario.case.stem: scenario for scenario in scenarios if scenario.case.is_validation}
    return tuple(
        _comparison(scenario, validation.get(scenario.case.stem), heuristic)
        for scenario in scenarios
        if not scenario.case.is_validation
        for heuristic in [best_heuristic(validation.get(scenario.case.stem), baselines)]
        if {LEARNED, heuristic} <= scenario.scores.keys()
    )


def standard_claims(scenarios: Sequence[ScenarioScores]) -> Iterator[Claim]:
    """Return the claims over all test scenarios."""
    for baselines in Baselines:
        yield from _comparison_claims(draw_comparisons(scenarios, baselines), BASELINES[baselines])
    comparisons = draw_comparisons(scenarios)
    tests = [comparison.scenario for comparison in comparisons]
    best = {comparison.scenario.case.key: comparison.heuristic for comparison in comparisons}
    for whom, against, note in (
        (
            "all tuned heuristics together",
            lambda scenario: [label for label in scenario.scores if not is_learned(label)],
            f"{_points(comparisons)} points against the front of {_heuristics(comparisons)} policies",
        ),
        (
            f"{BASELINES[Baselines.ALL]}, alone",
            lambda scenario: [best[scenario.case.key]],
            f"{_points(comparisons)} points against one",
        ),
    ):
        yield claim_ratio(
            f"hypervolume more: {LEARNED} over {whom}",
            _hypervolume_gain(tests, against),
            HYPERVOLUME_BAR,
            is_certain=True,
            note=note if comparisons else _NOT_RUN,
        )


def _comparison_claims(comparisons: Sequence[Comparison], against: str) -> Iterator[Claim]:
    """Return the claims of equal terms; without values where nobody ran."""
    equal = [comparison for comparison in comparisons if comparison.is_equal]
    bursty = [comparison for comparison in comparisons if comparison.scenario.cv2 >= BURSTY_CV2]
    frugal = [comparison for comparison in bursty if comparison.is_frugal]
    yield claim_ratio(
        f"joules a request less: {LEARNED} against {against}, at equal attainment and accuracy",
        estimate_iqm([comparison.saved for comparison in equal]) if equal else None,
        JOULES_BAR,
        holds=len(equal) == len(comparisons),
        note=_equal_in(equal, comparisons),
    )
    yield claim_ratio(
        f"served accuracy more: {LEARNED} against {against}, at equal attainment and joules, CV² ≥ 4",
        estimate_iqm([comparison.gained for comparison in frugal]) if frugal else None,
        ACCURACY_BAR,
        holds=len(frugal) == len(bursty),
        note=_equal_in(frugal, bursty),
    )


def _equal_in(equal: Sequence[Comparison], comparisons: Sequence[Comparison]) -> str:
    if not comparisons:
        return _NOT_RUN
    return f"equal in {len(equal)} of {len(comparisons)} scenarios: {_stems(equal)}; the value is over these"


def improvement(comparisons: Sequence[Comparison]) -> Estimate | None:
    """Return how likely the best point has more utility than the best heuristic, on a random trace."""
    if not comparisons:
        return None
    return probability_of_improvement(
        [comparison.utility_gained for comparison in comparisons],
        [np.zeros_like(comparison.utility_gained) for comparison in comparisons],
    )


def utility_closed(comparisons: Sequence[Comparison]) -> Estimate | None:
    """Return which share of the utility between heuristic and bound the best point gains, mean over scenarios.

    Scenarios that have nothing to gain, or no bound, are left out.
    """
    gaps = [gap for comparison in comparisons if (gap := comparison.utility_gap) is not None]
    return estimate_closed(gaps) if gaps else None


def _comparison(scenario: ScenarioScores, validation: ScenarioScores | None, heuristic: str) -> Comparison:
    thrifty, accurate = thriftiest_point(validation, heuristic), most_accurate_point(validation, heuristic)
    best = best_point(validation)
    held, own, wide = (scenario.scores[label] for label in (heuristic, thrifty, accurate))
    accuracy = held.iqm("accuracy")
    most_j = held.iqm("joules_per_answer") * (1 + JOULES_TOLERANCE)
    return Comparison(
        scenario=scenario,
        heuristic=heuristic,
        thrifty=thrifty,
        accurate=accurate,
        best=best,
        saved=1 - own.figures["joules_per_answer"] / held.figures["joules_per_answer"],
        gained=wide.figures["accuracy"] - held.figures["accuracy"],
        utility_gained=scenario.scores[best].figures[UTILITY] - held.figures[UTILITY],
        is_equal=is_as_timely(own, held) and accuracy - own.iqm("accuracy") <= ACCURACY_TOLERANCE,
        is_frugal=is_as_timely(wide, held) and wide.iqm("joules_per_answer") <= most_j,
        least_j=None if np.isnan(accuracy) else scenario.bound_j(accuracy - ACCURACY_TOLERANCE),
    )


def _hypervolume_gain(
    scenarios: Sequence[ScenarioScores], against: Callable[[ScenarioScores], Sequence[str]]
) -> Estimate | None:
    """Return by how much more the learned points dominate than others do, by trace, over scenarios."""
    gains = []
    for scenario in scenarios:
        own = [label for label in scenario.scores if head_of(label) == LEARNED]
        volumes = np.array([_volumes(scenario, labels) for labels in (own, against(scenario))])
        if (volumes[1] <= 0).any():
            return None
        gains.append(volumes[0] / volumes[1] - 1)
    return estimate_iqm(gains) if gains else None


def _volumes(scenario: ScenarioScores, labels: Sequence[str]) -> Floats:
    places = np.array([scenario.scores[label].places for label in labels])
    return np.array([hypervolume(places[:, trace]) for trace in range(places.shape[1])])


def _stems(comparisons: Sequence[Comparison]) -> str:
    return ", ".join(comparison.scenario.case.stem for comparison in comparisons) or "none"


def _points(comparisons: Sequence[Comparison]) -> int:
    return sum(head_of(label) == LEARNED for label in comparisons[0].scenario.scores) if comparisons else 0


def _heuristics(comparisons: Sequence[Comparison]) -> int:
    return sum(not is_learned(label) for label in comparisons[0].scenario.scores) if comparisons else 0
