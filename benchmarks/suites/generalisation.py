"""The claims of suite ``generalisation``: one checkpoint where it was not trained, against the guard's fallback.

Number of servers, machine classes, burstiness, deadlines and failures are held out. In none of the scenarios may the
learned policy, guard included, lose more than 5 % of the utility (orchestrator.simulation.utility) that the fallback
has there. How often its guard let the fallback decide is reported beside: a policy that always steps aside would meet
the bar too.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from benchmarks.suites.policies import FALLBACK
from benchmarks.suites.statistics import claim_ratio, estimate_ratio, less
from orchestrator.evaluation.cases import LEARNED
from orchestrator.evaluation.scores import UTILITY, ScenarioScores
from orchestrator.evaluation.statistics import Estimate
from orchestrator.reporting.claim import Claim

LOSS_BAR: Final = 0.05


@dataclass(frozen=True, slots=True)
class Transfer:
    """The learned policy in one held-out scenario.

    Attributes:
        scenario: The held-out scenario.
        loss: What is lost of the fallback's utility, as a ratio; negative when the learned policy has more.
        fallback_ratio: The fallback's share of the decisions; None: the policy has no guard.
    """

    scenario: ScenarioScores
    loss: Estimate
    fallback_ratio: float | None


def draw_transfers(scenarios: Sequence[ScenarioScores]) -> tuple[Transfer, ...]:
    """Return how it went in each test scenario; none where the learned policy or the fallback did not run."""
    found = []
    for scenario in scenarios:
        if scenario.case.is_validation or not {LEARNED, FALLBACK} <= scenario.scores.keys():
            continue
        own, fallback = scenario.scores[LEARNED], scenario.scores[FALLBACK]
        ratio = estimate_ratio(own.figures[UTILITY], fallback.figures[UTILITY])
        share = own.iqm("fallback_ratio")
        found.append(Transfer(scenario, less(ratio), None if math.isnan(share) else share))
    return tuple(found)


def generalisation_claims(scenarios: Sequence[ScenarioScores]) -> Iterator[Claim]:
    """Return the claim over all held-out scenarios."""
    transfers = draw_transfers(scenarios)
    worst = max(transfers, key=lambda t: t.loss.value, default=None)
    shares = [t.fallback_ratio for t in transfers if t.fallback_ratio is not None]
    sizes = [len(t.scenario.fleet) for t in transfers]
    yield claim_ratio(
        f"utility lost at the most: {LEARNED} against {FALLBACK} in any held-out scenario",
        None if worst is None else worst.loss,
        LOSS_BAR,
        is_floor=False,
        note=(
            f"`{LEARNED}` was not run"
            if worst is None
            else f"in {worst.scenario.case.stem}, of {len(transfers)} scenarios of {min(sizes)} to {max(sizes)} "
            f"servers; the guard's fallback made {_share(shares)} of the decisions"
        ),
    )


def _share(shares: Sequence[float]) -> str:
    return f"{min(shares):.1%} to {max(shares):.1%}" if shares else "none"
