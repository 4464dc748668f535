"""What runs add up to: each policy's figures by trace, and what is known of each scenario beside them.

Seeds of one trace are averaged first, so a trace counts once however many seeds it was run with. A figure that is None
in any run of a trace (the latency of no answer, joules that are unknown) is NaN there, and so is everything made of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from orchestrator.evaluation.cases import Case, PolicyEntry, load_case
from orchestrator.evaluation.figures import FIGURES, RunFigures, Timeline
from orchestrator.evaluation.runs import CellKey, CellResult
from orchestrator.evaluation.statistics import interquartile_mean
from orchestrator.simulation.scenario.capacity import least_joules, most_accuracy, most_utility
from orchestrator.simulation.scenario.fleet import SimulatedServer
from orchestrator.simulation.scenario.settings import ScenarioSettings, fullest_fleet
from orchestrator.simulation.scenario.trace import draw_trace
from orchestrator.simulation.utility import Utility, make_utility

Floats = NDArray[np.float64]
UTILITY: Final = "utility"
"""Name of the figure that orchestrator.simulation.utility makes of the others."""
_ROUNDING: Final = 1e-9
"""A mean of equal accuracies may lie so far above them."""


@dataclass(frozen=True, slots=True, eq=False)
class Score:
    """One policy in one scenario.

    Attributes:
        figures: By name, the utility among them: float64 [traces], NaN for None.
        seeds: How many seeds of random numbers each trace was run with; 1 for a policy that draws none.
        seed_spread: Standard deviation of the utility over seeds, mean of the traces; None with one seed.
        latency_counts: Answers of all traces and seeds, by LATENCY_EDGES_S.
        width_shares, server_shares: Mean shares of the answers by width, and of the items by server.
        family_ratios: Mean parts in time of each of several families; empty when there is one.
        timeline: How the first trace went over time.
        decision_s: Median and p99 of a decision from Python; None when none was timed.
        event_s: Time of one core for a decision with its share of all events, in the compiled loop where the policy is
            one.
    """

    entry: PolicyEntry
    figures: Mapping[str, Floats]
    seeds: int
    seed_spread: float | None
    latency_counts: NDArray[np.int64]
    width_shares: Mapping[int, float]
    server_shares: tuple[float, ...]
    timeline: Timeline | None
    decision_s: tuple[float, float] | None
    event_s: float
    family_ratios: Mapping[str, float] = field(default_factory=dict)

    def iqm(self, name: str) -> float:
        """Return the interquartile mean of a figure over traces."""
        return float(interquartile_mean(self.figures[name]))


@dataclass(frozen=True, slots=True)
class ScenarioScores:
    """A scenario, what it is like, and how every policy did in it.

    Attributes:
        settings: The scenario, with as many requests as a run has.
        fleet: Its servers by name, as in shares.
        rate_rps: Items a second.
        cv2: Squared coefficient of variation of the gaps; as given for gamma, else as found on the first trace.
        utility_scale: What utility is made with.
        most_accuracy: The fluid bound on accuracy at its rate; None when the fleet can't serve it for good, or callers
            wait.
        most_utility: The fluid bound on utility, likewise.
        scores: How each policy did, by its label.
    """

    case: Case
    settings: ScenarioSettings
    fleet: tuple[SimulatedServer, ...]
    rate_rps: float
    cv2: float
    utility_scale: Utility
    most_accuracy: float | None
    most_utility: float | None
    scores: Mapping[str, Score]

    @property
    def load(self) -> str:
        """The load in words."""
        workload = self.settings.workload
        width = "the quickest widths" if workload.load_of_width is None else f"width {workload.load_of_width}"
        return f"{workload.load_ratio:.0%} of the capacity at {width}"

    @property
    def deadline_s(self) -> float:
        """Seconds from a request's arrival to its deadline."""
        return self.settings.objectives.deadline_ms / 1e3

    def bound_j(self, accuracy: float) -> float | None:
        """Return the least joules a request for such a mean accuracy, by the fluid bound; None when there is none.

        A short run that drains after its last arrival may be more accurate than could be gone on with; then it is the
        bound for what could.
        """
        if self.most_accuracy is None:
            return None
        least = min(accuracy, self.most_accuracy) - _ROUNDING
        taken = fullest_fleet(self.settings, self.fleet)
        bound_j = least_joules(taken, self.rate_rps, least, shares=self.settings.family_shares())
        return None if bound_j is None else bound_j * self.settings.workload.items


def score_cases(cases: Sequence[Case], results: Mapping[CellKey, CellResult]) -> tuple[ScenarioScores, ...]:
    """Return how every policy did in each case; results of every cell must be there."""
    return tuple(_scenario(case, results) for case in cases)


def _scenario(case: Case, results: Mapping[CellKey, CellResult]) -> ScenarioScores:
    settings, servers = load_case(case.path, case.requests)
    fleet = tuple(sorted(servers, key=lambda s: s.name))
    trace = draw_trace(settings, fleet, case.traces[0])
    workload, utility_scale = settings.workload, make_utility(settings, fleet)
    taken, shares = fullest_fleet(settings, fleet), settings.family_shares()
    has_bound = workload.callers is None
    gaps_s = np.diff(trace.arrived_s)
    found_cv2 = float(gaps_s.var() / gaps_s.mean() ** 2) if len(gaps_s) and gaps_s.mean() > 0 else 0.0
    scores = {}
    for entry in case.entries:
        cells = [results[case.digest, entry.identity, trace_seed] for trace_seed in case.traces]
        scores[entry.label] = _score(entry, cells, utility_scale)
    return ScenarioScores(
        case=case,
        settings=settings,
        fleet=fleet,
        rate_rps=trace.rate_rps,
        cv2=workload.cv2 if workload.kind == "gamma" else found_cv2,
        utility_scale=utility_scale,
        most_accuracy=most_accuracy(taken, trace.rate_rps, shares=shares) if has_bound else None,
        most_utility=most_utility(
            taken, trace.rate_rps, price=utility_scale.joule_price * workload.items, shares=shares
        )
        if has_bound
        else None,
        scores=scores,
    )


def _score(entry: PolicyEntry, cells: Sequence[CellResult], utility_scale: Utility) -> Score:
    runs = [run for cell in cells for run in cell.runs]
    utilities = [[utility_scale.utility(run.figures) for run in cell.runs] for cell in cells]
    figures = {name: _by_trace(cells, name) for name in FIGURES}
    figures[UTILITY] = np.array([np.mean(values) for values in utilities])
    seeds = max(len(cell.runs) for cell in cells)
    decisions = sum(run.figures["decisions"] or 0.0 for run in runs)
    widths = sorted({width for run in runs for width in run.width_shares})
    return Score(
        entry=entry,
        figures=figures,
        seeds=seeds,
        seed_spread=float(np.mean([np.std(v, ddof=1) for v in utilities if len(v) > 1])) if seeds > 1 else None,
        latency_counts=np.sum([run.latency_counts for run in runs], axis=0),
        width_shares={w: float(np.mean([run.width_shares.get(w, 0.0) for run in runs])) for w in widths},
        server_shares=tuple(float(s) for s in np.mean([run.server_shares for run in runs], axis=0)),
        timeline=cells[0].timeline,
        decision_s=cells[0].decision_s,
        event_s=_middle_event_s(cells) if decisions else 0.0,
        family_ratios={
            name: float(np.mean([run.family_ratios[name] for run in runs if name in run.family_ratios]))
            for name in sorted({name for run in runs for name in run.family_ratios})
        },
    )


def _by_trace(cells: Sequence[CellResult], name: str) -> Floats:
    def value(run: RunFigures) -> float:
        found = run.figures[name]
        return np.nan if found is None else found

    return np.array([np.mean([value(run) for run in cell.runs]) for cell in cells])


def _middle_event_s(cells: Sequence[CellResult]) -> float:
    """Return the processor time of a decision of the middle cell; the first ones may have compiled."""
    shares = [cell.cpu_s / max(1.0, sum(run.figures["decisions"] or 0.0 for run in cell.runs)) for cell in cells]
    return float(np.median(shares))
