"""What the best heuristic and the learned policy leave to who knows the future, on the first requests of a scenario.

The fluid bound says what is out of reach for good; a clairvoyant (simulation.bounds.clairvoyant) says what could
have been made of the very same few arrivals. One window of each comparison's test scenario, met by servers that start
empty, without noise, faults or late reports. It can be planned for three servers at the most, so most scenarios have
none; the reason stands in its place.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from benchmarks.suites.standard import Comparison
from orchestrator.errors import ConfigError
from orchestrator.evaluation.cases import load_case, open_own_policy
from orchestrator.simulation.bounds.overview import Window, measure_window

REQUESTS: Final = 24
"""Of a window; some seconds of search. With 40 it may be a minute and a half."""


@dataclass(frozen=True, slots=True)
class OracleWindow:
    """One window, or why there is none.

    Attributes:
        comparison: The comparison whose scenario, heuristic and best point meet on it.
        window: What they earned, in this order, and the bound; None: it can't be planned.
        reason: Why there is none; empty when there is a window.
    """

    comparison: Comparison
    window: Window | None
    reason: str = ""

    def share(self, earned: float) -> float | None:
        """Return a part of the bound; None where there is none above 0."""
        return earned / self.window.bound.most if self.window is not None and self.window.bound.most > 0 else None


def draw_oracle_windows(comparisons: Sequence[Comparison]) -> tuple[OracleWindow, ...]:
    """Return a window for each comparison, or why there is none."""
    return tuple(map(_oracle_window, comparisons))


def _oracle_window(comparison: Comparison) -> OracleWindow:
    case = comparison.scenario.case
    policies = [
        open_own_policy(comparison.scenario.scores[label].entry.spec)
        for label in (comparison.heuristic, comparison.best)
    ]
    settings, servers = load_case(case.path, case.requests)
    requests = min(REQUESTS, settings.workload.requests)
    try:
        return OracleWindow(
            comparison, measure_window(settings, servers, policies, requests=requests, seed=case.traces[0])
        )
    except ConfigError as exc:
        return OracleWindow(comparison, None, str(exc))
