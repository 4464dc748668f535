"""The claims of suite ``standard``: the learned policy against the best tuned heuristic of each scenario.

The best heuristic of a scenario has the most utility on its validation file; the learned policy's operating point is
chosen there too (orchestrator.evaluation.choices). On the test scenario the two then meet trace by trace:

- joules a request, where the learned point is in time as often (within 0.1 points) and as accurate (within 0.2 points);
- served accuracy, at arrivals of CV² ≥ 4, where it is in time as often and takes no more joules (within 1 %);
- the hypervolume that the learned policy's points dominate (accuracy, requests in time, joules; reference point in
  orchestrator.simulation.yardstick) over that of all tuned heuristics together, and over that of the best one alone.

The first two stand for each other; both are reported. The first of the hypervolumes is the harder: one checkpoint, at a
handful of preferences, against the front of two dozen tuned policies.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from orchestrator.evaluation.choices import (
    ACCURACY_TOLERANCE,
    JOULES_TOLERANCE,
    best_heuristic,
    is_as_timely,
    middle,
    most_accurate_point,
    thriftiest_point,
)
from orchestrator.evaluation.claim import Claim
from orchestrator.evaluation.contenders import LEARNED, head_of, is_learned
from orchestrator.evaluation.standings import UTILITY, Field, Floats
from orchestrator.evaluation.statistics import (
    Estimate,
    estimate_difference,
    estimate_iqm,
    hypervolume,
    probability_of_improvement,
)

JOULES_BAR: Final = 0.15
ACCURACY_BAR: Final = 0.02
HYPERVOLUME_BAR: Final = 0.10
BURSTY_CV2: Final = 4.0


@dataclass(frozen=True, slots=True)
class Duel:
    """The learned policy against the best heuristic of one scenario.

    Attributes:
        field: the test scenario.
        heuristic: the best on validation.
        thrifty: the learned point that is held to joules.
        accurate: the learned point that is held to accuracy.
        saved: joules a request, as a ratio by trace.
        gained: accuracy by trace.
        utility_gained: of the thrifty point, by trace.
        is_equal: whether the thrifty point is as timely and as accurate.
        is_frugal: whether the accurate one is as timely and takes no more joules.
    """

    field: Field
    heuristic: str
    thrifty: str
    accurate: str
    saved: Floats
    gained: Floats
    utility_gained: Floats
    is_equal: bool
    is_frugal: bool


def draw_duels(fields: Sequence[Field]) -> tuple[Duel, ...]:
    """Return a duel for each test scenario; none where the learned policy did not run."""
    validation = {field.case.stem: field for field in fields if field.case.is_validation}
    return tuple(
        _duel(field, validation.get(field.case.stem))
        for field in fields
        if not field.case.is_validation and LEARNED in field.standings
    )


def standard_claims(fields: Sequence[Field]) -> Iterator[Claim]:
    """Return the claims over all test scenarios."""
    duels = draw_duels(fields)
    if not duels:
        yield from _unknown()
        return
    equal = [duel for duel in duels if duel.is_equal]
    yield Claim(
        f"joules a request less: {LEARNED} against the best tuned heuristic at equal attainment and accuracy",
        estimate_iqm([duel.saved for duel in equal]) if equal else None,
        JOULES_BAR,
        "ratio",
        holds=len(equal) == len(duels),
        note=f"equal in {len(equal)} of {len(duels)} scenarios: {_stems(equal)}; the value is over these",
    )
    bursty = [duel for duel in duels if duel.field.cv2 >= BURSTY_CV2]
    frugal = [duel for duel in bursty if duel.is_frugal]
    yield Claim(
        f"served accuracy more: {LEARNED} against the best tuned heuristic at equal attainment and joules, CV² ≥ 4",
        estimate_iqm([duel.gained for duel in frugal]) if frugal else None,
        ACCURACY_BAR,
        "ratio",
        holds=len(frugal) == len(bursty),
        note=f"equal in {len(frugal)} of {len(bursty)} scenarios: {_stems(frugal)}; the value is over these",
    )
    tests = [duel.field for duel in duels]
    yield Claim(
        f"hypervolume more: {LEARNED} over all tuned heuristics together",
        _hypervolume_gain(tests, lambda field: [label for label in field.standings if not is_learned(label)]),
        HYPERVOLUME_BAR,
        "ratio",
        is_certain=True,
        note=f"{_points(duels)} points against the front of {_heuristics(duels)} policies",
    )
    best = {duel.field.case.key: duel.heuristic for duel in duels}
    yield Claim(
        f"hypervolume more: {LEARNED} over the best tuned heuristic alone",
        _hypervolume_gain(tests, lambda field: [best[field.case.key]]),
        HYPERVOLUME_BAR,
        "ratio",
        is_certain=True,
        note=f"{_points(duels)} points against one",
    )


def _unknown() -> Iterator[Claim]:
    """Return the claims without values, for nobody ran the learned policy."""
    for what, bar in (
        ("joules a request less, at equal attainment and accuracy, against the best tuned heuristic", JOULES_BAR),
        ("served accuracy more, at equal attainment and joules, CV² ≥ 4, against it", ACCURACY_BAR),
        ("hypervolume more over all tuned heuristics together", HYPERVOLUME_BAR),
        ("hypervolume more over the best tuned heuristic alone", HYPERVOLUME_BAR),
    ):
        yield Claim(f"{LEARNED}: {what}", None, bar, "ratio", note=f"`{LEARNED}` was not run")


def improvement(duels: Sequence[Duel]) -> Estimate | None:
    """Return how likely the learned point has more utility than the best heuristic, on a trace drawn by lot."""
    if not duels:
        return None
    return probability_of_improvement(
        [duel.utility_gained for duel in duels], [np.zeros_like(duel.utility_gained) for duel in duels]
    )


def accuracy_difference(duel: Duel, label: str) -> Estimate:
    """Return by how much more accurate a point is than the heuristic of a duel."""
    own, held = (duel.field.standings[each].figures["accuracy"] for each in (label, duel.heuristic))
    return estimate_difference(own, held)


def _duel(field: Field, validation: Field | None) -> Duel:
    heuristic = best_heuristic(validation)
    thrifty, accurate = thriftiest_point(validation, heuristic), most_accurate_point(validation, heuristic)
    held, own, wide = (field.standings[label] for label in (heuristic, thrifty, accurate))
    lost = middle(held, "accuracy") - middle(own, "accuracy")
    most_j = middle(held, "joules_per_answer") * (1 + JOULES_TOLERANCE)
    return Duel(
        field=field,
        heuristic=heuristic,
        thrifty=thrifty,
        accurate=accurate,
        saved=1 - own.figures["joules_per_answer"] / held.figures["joules_per_answer"],
        gained=wide.figures["accuracy"] - held.figures["accuracy"],
        utility_gained=own.figures[UTILITY] - held.figures[UTILITY],
        is_equal=is_as_timely(own, held) and lost <= ACCURACY_TOLERANCE,
        is_frugal=is_as_timely(wide, held) and middle(wide, "joules_per_answer") <= most_j,
    )


def _hypervolume_gain(fields: Sequence[Field], against: Callable[[Field], Sequence[str]]) -> Estimate | None:
    """Return by how much more the learned points dominate than others do, by trace, over scenarios."""
    gains = []
    for field in fields:
        own = [label for label in field.standings if head_of(label) == LEARNED]
        volumes = np.array([_volumes(field, labels) for labels in (own, against(field))])
        if (volumes[1] <= 0).any():
            return None
        gains.append(volumes[0] / volumes[1] - 1)
    return estimate_iqm(gains) if gains else None


def _volumes(field: Field, labels: Sequence[str]) -> Floats:
    places = np.array([field.standings[label].places for label in labels])
    return np.array([hypervolume(places[:, trace]) for trace in range(places.shape[1])])


def _stems(duels: Sequence[Duel]) -> str:
    return ", ".join(duel.field.case.stem for duel in duels) or "none"


def _points(duels: Sequence[Duel]) -> int:
    return sum(head_of(label) == LEARNED for label in duels[0].field.standings) if duels else 0


def _heuristics(duels: Sequence[Duel]) -> int:
    return sum(not is_learned(label) for label in duels[0].field.standings) if duels else 0
