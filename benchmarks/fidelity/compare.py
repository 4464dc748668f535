"""Both sides held against each other: errors of each policy's figures, and whether the policies rank alike.

A ranking is asked about pairs of policies that differ on the real side: by more than twice the standard error of their
difference over the rounds, in each of which both met the same arrivals. Of the others nobody knows the order, and a
simulator that "got it wrong" or right would be judged by a coin. Among pairs that differ, Kendall's tau is concordant
less discordant over all; a pair between which the simulated side sees no such difference counts as neither. The plain
tau over all pairs, noise included, stands beside it.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from benchmarks.fidelity.open_loop import Outcome
from orchestrator.reporting.claim import Claim, Interval
from orchestrator.simulation.results import Result
from orchestrator.snapshot import Width

MEAN_BAR, P99_BAR, RANK_BAR = 0.05, 0.10, 0.9
TIE_ERRORS = 2.0
"""Differences of so many standard errors and less are chance."""
_DRAWS = 200
"""Of rounds, for intervals."""
RANKED = (("mean latency", "mean_s"), ("p99 latency", "p99_s"), ("deadline attainment", "attainment_ratio"))


@dataclass(frozen=True, slots=True)
class Figures:
    """What one side says of a policy.

    Attributes:
        mean_s, p99_s: Latency of what was answered, since the router was given it.
        attainment_ratio: Share of all that was answered within the deadline.
        accuracy: Mean of the widths that answered, as the profile says.
        answered_ratio: Share of all that was answered.
    """

    mean_s: float
    p99_s: float
    attainment_ratio: float
    accuracy: float
    answered_ratio: float


@dataclass(frozen=True, slots=True)
class Round:
    """One policy under one round's arrivals, on both sides.

    Attributes:
        policy: The policy's name.
        number: The number of the round; the same arrivals for all policies.
        real: Figures that were measured once.
        simulated: Means over draws of noise and random numbers.
    """

    policy: str
    number: int
    real: Figures
    simulated: Figures


@dataclass(frozen=True, slots=True)
class Pair:
    """One policy on both sides, its rounds by number."""

    policy: str
    rounds: tuple[Round, ...]

    @property
    def real(self) -> Figures:
        """Means over rounds."""
        return _mean_figures([each.real for each in self.rounds])

    @property
    def simulated(self) -> Figures:
        """Means over rounds."""
        return _mean_figures([each.simulated for each in self.rounds])

    @property
    def mean_error(self) -> float:
        """Of the simulated mean latency, over the real one."""
        return self.simulated.mean_s / self.real.mean_s - 1

    @property
    def p99_error(self) -> float:
        """Of the simulated 99th percentile, over the real one."""
        return self.simulated.p99_s / self.real.p99_s - 1

    @property
    def mean_error_chance(self) -> float:
        """Standard error of ``mean_error`` by the rounds; NaN with one."""
        return standard_error([r.simulated.mean_s - r.real.mean_s for r in self.rounds]) / self.real.mean_s


def real_figures(outcomes: Sequence[Outcome], accuracy_of: Mapping[Width, float]) -> Figures:
    """Return the figures of a real round, which has an answer at least."""
    answered = [o for o in outcomes if o.error is None]
    latencies_s = np.array([o.latency_s - o.late_s for o in answered])
    return Figures(
        mean_s=float(latencies_s.mean()),
        p99_s=float(np.quantile(latencies_s, 0.99)),
        attainment_ratio=sum(o.is_in_time for o in outcomes) / len(outcomes),
        accuracy=float(np.mean([accuracy_of[o.width] for o in answered if o.width])),
        answered_ratio=len(answered) / len(outcomes),
    )


def simulated_figures(results: Sequence[Result]) -> Figures:
    """Return the figures of a simulated round, over all draws."""
    return Figures(
        mean_s=_mean_of([r.mean_s for r in results]),
        p99_s=_mean_of([r.p99_s for r in results]),
        attainment_ratio=_mean_of([r.attainment_ratio for r in results]),
        accuracy=_mean_of([r.accuracy for r in results]),
        answered_ratio=_mean_of([r.answered / r.requests for r in results]),
    )


def pair_up(rounds: Sequence[Round]) -> tuple[Pair, ...]:
    """Return the rounds of each policy together, policies in the order they first come."""
    by_policy: dict[str, list[Round]] = {}
    for each in rounds:
        by_policy.setdefault(each.policy, []).append(each)
    return tuple(Pair(name, tuple(sorted(of, key=lambda r: r.number))) for name, of in by_policy.items())


Measure = Callable[[Sequence[Pair]], float | None]
"""Of all policies together; None where it can't be said."""


def draw_claims(pairs: Sequence[Pair]) -> list[Claim]:
    """Return what is promised, the worst policy first of each.

    Each has a 95 % interval: percentiles of the value over draws of the rounds, the same for all policies, with
    replacement; None with one round.
    """
    worst_mean = max(pairs, key=lambda p: abs(p.mean_error))
    worst_p99 = max(pairs, key=lambda p: abs(p.p99_error))
    measures: list[tuple[str, Measure, float, bool]] = [
        (f"mean latency, largest error ({worst_mean.policy})", lambda ps: max(_mean_errors(ps)), MEAN_BAR, False),
        (f"p99 latency, largest error ({worst_p99.policy})", lambda ps: max(_p99_errors(ps)), P99_BAR, False),
        ("mean latency, median error", lambda ps: float(np.median(_mean_errors(ps))), MEAN_BAR, False),
        ("p99 latency, median error", lambda ps: float(np.median(_p99_errors(ps))), P99_BAR, False),
    ]
    for name, figure in RANKED:
        differing = tau_beyond_chance(pairs, figure)[1]
        what = f"ranking of policies by {name}, Kendall's tau over the {differing} pairs that differ beyond chance"
        measures.append((what, lambda ps, f=figure: tau_beyond_chance(ps, f)[0], RANK_BAR, True))  # type: ignore[misc]
    for name, figure in RANKED:
        what = f"ranking of policies by {name}, plain Kendall's tau"
        measures.append((what, lambda ps, f=figure: plain_tau(ps, f), RANK_BAR, True))  # type: ignore[misc]
    drawn = _draw_rounds(pairs)
    claims = []
    for what, measure, bar, is_floor in measures:
        value = measure(pairs)
        if value is not None:
            others = [v for v in (measure(again) for again in drawn) if v is not None]
            interval = Interval(*(float(end) for end in np.quantile(others, (0.025, 0.975)))) if others else None
            claims.append(Claim(what, value, "", bar, is_floor, interval))
    return claims


def _mean_errors(pairs: Sequence[Pair]) -> list[float]:
    return [abs(p.mean_error) for p in pairs]


def _p99_errors(pairs: Sequence[Pair]) -> list[float]:
    return [abs(p.p99_error) for p in pairs]


def _draw_rounds(pairs: Sequence[Pair]) -> list[tuple[Pair, ...]]:
    """Return pairs of rounds drawn with replacement, of those that all policies have; none where that is one round."""
    numbered = [{each.number: each for each in pair.rounds} for pair in pairs]
    common = sorted(set.intersection(*(set(rounds) for rounds in numbered))) if numbered else []
    if len(common) < 2:
        return []
    rng = np.random.default_rng(0)
    drawn = []
    for _ in range(_DRAWS):
        numbers = [common[at] for at in rng.integers(len(common), size=len(common))]
        drawn.append(
            tuple(
                Pair(pair.policy, tuple(replace(rounds[n], number=at) for at, n in enumerate(numbers)))
                for pair, rounds in zip(pairs, numbered, strict=True)
            )
        )
    return drawn


def plain_tau(pairs: Sequence[Pair], figure: str) -> float | None:
    """Return Kendall's tau-b of a figure's means over rounds; None where a side has but one value."""
    from scipy.stats import kendalltau  # it looks into torch where that is installed; serving must not

    real, simulated = ([getattr(side, figure) for side in sides] for sides in zip(*map(_sides, pairs), strict=True))
    if len(set(real)) < 2 or len(set(simulated)) < 2:
        return None
    return float(kendalltau(real, simulated).statistic)


def _sides(pair: Pair) -> tuple[Figures, Figures]:
    return pair.real, pair.simulated


def tau_beyond_chance(pairs: Sequence[Pair], figure: str) -> tuple[float | None, int]:
    """Return Kendall's tau over the pairs of policies that differ on the real side, and how many those are.

    See the module. None where no pair does, or there is one round only and nothing is known of chance.
    """
    agreements = []
    for one, other in itertools.combinations(pairs, 2):
        real = _sign([getattr(a.real, figure) - getattr(b.real, figure) for a, b in _matched(one, other)])
        simulated = _sign(
            [getattr(a.simulated, figure) - getattr(b.simulated, figure) for a, b in _matched(one, other)]
        )
        if real:
            agreements.append(real * simulated)
    return (sum(agreements) / len(agreements) if agreements else None), len(agreements)


def standard_error(values: Sequence[float]) -> float:
    """Return the standard error of a mean; NaN for less than two values."""
    return float(np.std(values, ddof=1) / np.sqrt(len(values))) if len(values) > 1 else float("nan")


def _matched(one: Pair, other: Pair) -> list[tuple[Round, Round]]:
    numbered = {each.number: each for each in other.rounds}
    return [(each, numbered[each.number]) for each in one.rounds if each.number in numbered]


def _sign(differences: Sequence[float]) -> int:
    """Return whether differences are above 0 or below on average; 0 when that may be chance."""
    mean, error = float(np.mean(differences)), standard_error(differences)
    return int(np.sign(mean)) if abs(mean) > TIE_ERRORS * error else 0  # never beyond NaN


def _mean_figures(figures: Sequence[Figures]) -> Figures:
    names = Figures.__dataclass_fields__
    return Figures(**{name: float(np.mean([getattr(each, name) for each in figures])) for name in names})


def _mean_of(values: Sequence[float | None]) -> float:
    known = [v for v in values if v is not None]
    return float(np.mean(known)) if known else float("nan")
