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

from orchestrator.evaluation.claim import Claim
from orchestrator.evaluation.policy_entries import LEARNED
from orchestrator.evaluation.scores import UTILITY, Field
from orchestrator.evaluation.statistics import Estimate, estimate_ratio, less
from orchestrator.evaluation.suites.choices import middle
from orchestrator.evaluation.suites.plan import FALLBACK

LOSS_BAR: Final = 0.05


@dataclass(frozen=True, slots=True)
class Transfer:
    """The learned policy in one held-out scenario.

    Attributes:
        field: the scenario.
        loss: of the fallback's utility, as a ratio; negative when the learned policy has more.
        fallback_ratio: of the decisions, those of the fallback; None: the policy has no guard.
    """

    field: Field
    loss: Estimate
    fallback_ratio: float | None


def draw_transfers(fields: Sequence[Field]) -> tuple[Transfer, ...]:
    """Return how it went in each test scenario; none where the learned policy or the fallback did not run."""
    found = []
    for field in fields:
        if field.case.is_validation or not {LEARNED, FALLBACK} <= field.scores.keys():
            continue
        own, fallback = field.scores[LEARNED], field.scores[FALLBACK]
        ratio = estimate_ratio(own.figures[UTILITY], fallback.figures[UTILITY])
        share = middle(own, "fallback_ratio")
        found.append(Transfer(field, less(ratio), None if math.isnan(share) else share))
    return tuple(found)


def generalisation_claims(fields: Sequence[Field]) -> Iterator[Claim]:
    """Return the claim over all held-out scenarios."""
    transfers = draw_transfers(fields)
    worst = max(transfers, key=lambda t: t.loss.value, default=None)
    shares = [t.fallback_ratio for t in transfers if t.fallback_ratio is not None]
    sizes = [t.field.servers for t in transfers]
    yield Claim(
        f"utility lost at the most: {LEARNED} against {FALLBACK} in any held-out scenario",
        None if worst is None else worst.loss,
        LOSS_BAR,
        "ratio",
        is_floor=False,
        note=(
            f"`{LEARNED}` was not run"
            if worst is None
            else f"in {worst.field.case.stem}, of {len(transfers)} scenarios of {min(sizes)} to {max(sizes)} servers; "
            f"the guard's fallback made {_share(shares)} of the decisions"
        ),
    )


def _share(shares: Sequence[float]) -> str:
    return f"{min(shares):.1%} to {max(shares):.1%}" if shares else "none"
