"""The claims of suite ``paper``: what arXiv 2510.09018 reports against random routing, reproduced and put in its place.

Its two points, against a uniformly random server and width:

1. at the slimmest width, 96.45 % less mean latency and 97.31 % less energy, which must be latency-attributed: no
   machine with idle power saves that much a request (see orchestrator.evaluation.figures);
2. with no less accuracy, less latency and less energy.

What a random policy does depends on the load most of all: it overloads the slow machine, and then its latency grows
for as long as a run lasts. So every load is tabled, each claim names the lightest one at which its point holds, and
true energy stands beside. Heuristics and learned policies are held to both points apart; which of them is held to one
was chosen on the validation file of that load.

There are two readings of "random". ``random`` draws server and width as a request arrives; batches form from whatever
waits there, as under every early binding. ``random-batch`` draws the size of the batch too, as the paper's actions have
it; who decides on batches decides when one can go, so it binds late, and what waits for a slow machine waits in one
queue, in which its batches grow: it is the quicker of the two under load. Both points are held against both.
``ppo-paper`` runs where one ships with the project.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

from benchmarks.suites.policies import RANDOM, RANDOM_BATCH
from benchmarks.suites.statistics import claim_ratio, estimate_difference, estimate_ratio, less
from orchestrator.evaluation.cases import LEARNED, head_of, is_learned
from orchestrator.evaluation.scores import ScenarioScores
from orchestrator.evaluation.statistics import Estimate
from orchestrator.policies.learned.policy import has_shipped
from orchestrator.policies.learned.policy_file import PAPER
from orchestrator.reporting.claim import Claim

LATENCY_BAR: Final = 0.9645
ENERGY_BAR: Final = 0.9731
BASELINES: Final = (RANDOM, RANDOM_BATCH)
_ALL_SLIM: Final = 0.999
"""Of the answers at the slimmest width."""
_WHO: Final[dict[str, tuple[str, str]]] = {
    "heuristic": ("lert:narrowest", "lert:75"),
    "learned policy": (f"{LEARNED},accuracy=0,latency=0,energy=1", f"{LEARNED},accuracy=1,latency=0,energy=0"),
}
"""Who is held to the two points where there is no validation file."""


@dataclass(frozen=True, slots=True)
class _Held:
    """Who is held to a point at one load, with what came of it.

    Attributes:
        scenario: The test scenario.
        label: The policy.
        claims: The claims of the point.
        baseline: The policy that it is held against.
    """

    scenario: ScenarioScores
    label: str
    claims: tuple[Claim, ...]
    baseline: str

    @property
    def is_met(self) -> bool:
        """Whether the whole point holds."""
        return all(claim.is_met for claim in self.claims)


def paper_claims(scenarios: Sequence[ScenarioScores]) -> Iterator[Claim]:
    """Return both points' claims against each baseline, at the lightest load where each holds, else at the heaviest.

    And that ``ppo-paper`` is slower than no baseline at any load, where it was run.
    """
    for baseline in BASELINES:
        yield from _claims_against(baseline, scenarios)
    for scenario in scenarios:
        for label in scenario.scores if not scenario.case.is_validation else ():
            if head_of(label) == PAPER:
                for baseline in BASELINES:
                    found = saving(scenario, label, "mean_s", baseline)
                    yield claim_ratio(
                        f"`{label}` at {scenario.load}, against {baseline}: mean latency less", found, 0.0
                    )


def _claims_against(baseline: str, scenarios: Sequence[ScenarioScores]) -> Iterator[Claim]:
    validation = {scenario.case.stem: scenario for scenario in scenarios if scenario.case.is_validation}
    tests = sorted((f for f in scenarios if not f.case.is_validation), key=lambda f: f.settings.workload.load_ratio)
    for who, defaults in _WHO.items():
        for draw, choose, default in (
            (_slimmest_point, _choose_slimmest, defaults[0]),
            (_accurate_point, _choose_accurate, defaults[1]),
        ):
            held = []
            for scenario in tests:
                known = validation.get(scenario.case.stem)
                label = (None if known is None else choose(known, who, baseline)) or default
                held.append(_Held(scenario, label, tuple(draw(scenario, label, who, baseline)), baseline))
            yield from _stated(held)


def saving(scenario: ScenarioScores, label: str, name: str, baseline: str = RANDOM) -> Estimate | None:
    """Return by how much less of a figure a policy has than a baseline, as a ratio; None when either has none."""
    if not {label, baseline} <= scenario.scores.keys():
        return None
    ratio = estimate_ratio(scenario.scores[label].figures[name], scenario.scores[baseline].figures[name])
    return None if math.isnan(ratio.value) else less(ratio)


def gain(scenario: ScenarioScores, label: str, name: str, baseline: str = RANDOM) -> Estimate | None:
    """Return by how much more of a figure a policy has than a baseline; None when either has none."""
    if not {label, baseline} <= scenario.scores.keys():
        return None
    return estimate_difference(scenario.scores[label].figures[name], scenario.scores[baseline].figures[name])


def left_out(scenarios: Sequence[ScenarioScores]) -> str | None:
    """Return why ``ppo-paper`` did not run; None where it did."""
    if any(head_of(label) == PAPER for scenario in scenarios for label in scenario.scores):
        return None
    why = "it was not asked for" if has_shipped(PAPER) else "none ships with the project"
    return f"`{PAPER}` was left out: {why}; `--policy {PAPER}:FILE` runs another."


def _stated(held: Sequence[_Held]) -> Iterator[Claim]:
    if not held:
        return
    holds = [each for each in held if each.is_met]
    stated = holds[0] if holds else held[-1]
    loads = ", ".join(f"{each.scenario.settings.workload.load_ratio:.0%}" for each in holds) or "none"
    note = f"`{stated.label}` at {stated.scenario.load}; the whole point holds at loads: {loads}"
    for label in (stated.label, stated.baseline):
        if label not in stated.scenario.scores:
            note = f"`{label}` was not run"
    for claim in stated.claims:
        yield replace(claim, note=note + claim.note)


def _slimmest_point(scenario: ScenarioScores, label: str, who: str, baseline: str) -> Iterator[Claim]:
    at = f"slimmest width, {who} against {baseline}"
    true = saving(scenario, label, "joules_per_answer", baseline)
    beside = "" if true is None else f"; true energy {true.value:.2%} less"
    yield claim_ratio(f"{at}: mean latency less", saving(scenario, label, "mean_s", baseline), LATENCY_BAR)
    found = saving(scenario, label, "attributed_j", baseline)
    yield claim_ratio(f"{at}: latency-attributed energy less", found, ENERGY_BAR, note=beside)


def _accurate_point(scenario: ScenarioScores, label: str, who: str, baseline: str) -> Iterator[Claim]:
    at = f"no less accurate, {who} against {baseline}"
    yield claim_ratio(f"{at}: accuracy more", gain(scenario, label, "accuracy", baseline), 0.0)
    for what, name in (("mean latency", "mean_s"), ("true energy", "joules_per_answer")):
        yield claim_ratio(f"{at}: {what} less", saving(scenario, label, name, baseline), 0.0, is_certain=True)


def _choose_slimmest(scenario: ScenarioScores, who: str, baseline: str) -> str | None:
    """Return who of those that answer at the slimmest width alone has the least mean latency, whatever the baseline."""
    slimmest = min(model.width for server in scenario.fleet for model in server.models)
    slim = [
        label for label in _labels(scenario, who) if scenario.scores[label].width_shares.get(slimmest, 0.0) >= _ALL_SLIM
    ]
    return min(slim, key=_figure(scenario, "mean_s"), default=None)


def _choose_accurate(scenario: ScenarioScores, who: str, baseline: str) -> str | None:
    """Return who of those that are no less accurate and no slower than a baseline takes the fewest joules."""
    if baseline not in scenario.scores:
        return None
    least, most_s = scenario.scores[baseline].iqm("accuracy"), scenario.scores[baseline].iqm("mean_s")
    accuracy, mean_s = _figure(scenario, "accuracy"), _figure(scenario, "mean_s")
    good = [label for label in _labels(scenario, who) if accuracy(label) >= least and mean_s(label) < most_s]
    return min(good, key=_figure(scenario, "joules_per_answer"), default=None)


def _labels(scenario: ScenarioScores, who: str) -> list[str]:
    others = [label for label in scenario.scores if label not in BASELINES]
    return [label for label in others if is_learned(label) == (who != "heuristic")]


def _figure(scenario: ScenarioScores, name: str) -> Callable[[str], float]:
    return lambda label: scenario.scores[label].iqm(name)
