"""Both sides held against each other: errors of each policy's figures, and whether the policies rank alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from orchestrator.benchmark.fidelity.twin import mean_of
from orchestrator.benchmark.open_loop import Outcome
from orchestrator.simulation.results import Result
from orchestrator.snapshot import Width

MEAN_BAR, P99_BAR, RANK_BAR = 0.05, 0.10, 0.9


@dataclass(frozen=True, slots=True)
class Figures:
    """What one side says of a policy; means over rounds.

    Attributes:
        mean_s, p99_s: latency of what was answered.
        attainment_ratio: answered within the deadline, of all.
        accuracy: mean of the widths that answered, as the profile says.
        answered_ratio: of all.
    """

    mean_s: float
    p99_s: float
    attainment_ratio: float
    accuracy: float
    answered_ratio: float


@dataclass(frozen=True, slots=True)
class Pair:
    """One policy on both sides.

    Attributes:
        policy: its name.
        real, simulated: what they say.
        spread: of the simulated mean latency over draws of noise, standard deviation over mean: what chance alone does.
    """

    policy: str
    real: Figures
    simulated: Figures
    spread: float

    @property
    def mean_error(self) -> float:
        """Of the simulated mean latency, over the real one."""
        return self.simulated.mean_s / self.real.mean_s - 1

    @property
    def p99_error(self) -> float:
        """Of the simulated 99th percentile, over the real one."""
        return self.simulated.p99_s / self.real.p99_s - 1


def real_figures(rounds: Sequence[Sequence[Outcome]], accuracy_of: Mapping[Width, float]) -> Figures:
    """Return the figures of the real side; every round has an answer at least."""
    answered = [[o for o in each if o.error is None] for each in rounds]
    latencies_s = [np.array([o.latency_s for o in each]) for each in answered]
    return Figures(
        mean_s=mean_of([float(each.mean()) for each in latencies_s]),
        p99_s=mean_of([float(np.quantile(each, 0.99)) for each in latencies_s]),
        attainment_ratio=mean_of([sum(o.is_in_time for o in each) / len(each) for each in rounds]),
        accuracy=mean_of([float(np.mean([accuracy_of[o.width] for o in each if o.width])) for each in answered]),
        answered_ratio=mean_of([len(a) / len(r) for a, r in zip(answered, rounds, strict=True)]),
    )


def simulated_figures(results: Sequence[Result]) -> Figures:
    """Return the figures of the simulated side, over all rounds and draws."""
    return Figures(
        mean_s=mean_of([r.mean_s for r in results]),
        p99_s=mean_of([r.p99_s for r in results]),
        attainment_ratio=mean_of([r.attainment_ratio for r in results]),
        accuracy=mean_of([r.accuracy for r in results]),
        answered_ratio=mean_of([r.answered / r.requests for r in results]),
    )


def pair_up(
    policy: str, rounds: Sequence[Sequence[Outcome]], results: Sequence[Result], accuracy_of: Mapping[Width, float]
) -> Pair:
    """Return what both sides say of a policy."""
    means_s = np.array([r.mean_s for r in results if r.mean_s is not None])
    simulated = simulated_figures(results)
    return Pair(policy, real_figures(rounds, accuracy_of), simulated, float(means_s.std() / means_s.mean()))


def draw_claims(pairs: Sequence[Pair]) -> list[dict[str, object]]:
    """Return the bars and whether they are met, the worst policy first of each."""
    from scipy.stats import kendalltau  # it looks into torch where that is installed; serving must not

    worst_mean = max(pairs, key=lambda p: abs(p.mean_error))
    worst_p99 = max(pairs, key=lambda p: abs(p.p99_error))
    claims: list[dict[str, object]] = [
        _claim(f"mean latency, largest error ({worst_mean.policy})", abs(worst_mean.mean_error), MEAN_BAR),
        _claim(f"p99 latency, largest error ({worst_p99.policy})", abs(worst_p99.p99_error), P99_BAR),
        _claim("mean latency, median error", float(np.median([abs(p.mean_error) for p in pairs])), MEAN_BAR),
        _claim("p99 latency, median error", float(np.median([abs(p.p99_error) for p in pairs])), P99_BAR),
    ]
    for name, pick in (
        ("mean latency", "mean_s"),
        ("p99 latency", "p99_s"),
        ("deadline attainment", "attainment_ratio"),
    ):
        tau = float(
            kendalltau([getattr(p.real, pick) for p in pairs], [getattr(p.simulated, pick) for p in pairs]).statistic
        )
        claims.append(_claim(f"ranking of policies by {name}, Kendall's tau", tau, RANK_BAR, is_floor=True))
    return claims


def _claim(name: str, value: float, bar: float, *, is_floor: bool = False) -> dict[str, object]:
    met = value >= bar if is_floor else value <= bar
    return {"name": name, "value": round(value, 4), "bar": bar, "is_floor": is_floor, "met": bool(met)}
