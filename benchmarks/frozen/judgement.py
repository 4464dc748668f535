"""Who meets on the frozen scenarios, and the suite that ``orchestrator.evaluation`` reports.

Every policy that ships and is the same everywhere runs on validation traces, and the best of them is the best single
policy. It is in force where something is fitted. Then all of them run on the test traces, with what was fitted.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from benchmarks.frozen import DIGEST, SUITE
from benchmarks.frozen.bars import FITS, frozen_claims, joules_less, mean_of, share_of_gap, tuned_label
from benchmarks.frozen.drawing import requests_a_deadline
from benchmarks.frozen.fits import Budget, Fitted
from benchmarks.frozen.page import show_sections
from benchmarks.suites.policies import DEFAULT, FALLBACK, SINGLES
from orchestrator.evaluation.cases import VALIDATION_SEEDS, Case, PolicyEntry, load_case, make_entry
from orchestrator.evaluation.document import round_value
from orchestrator.evaluation.scores import ScenarioScores
from orchestrator.reporting.blocks import Block
from orchestrator.reporting.claim import Claim
from orchestrator.simulation.scenario.digest import digest_scenario

THRIFT: Final = "thrift"


def plan(
    paths: Sequence[Path], traces: int, fits: Mapping[str, Fitted] | None, policies: Sequence[str] = SINGLES
) -> tuple[Case, ...]:
    """Return a case for each scenario: on validation traces without fits, else on test traces with them too.

    Raises:
        ConfigError: when a file or a policy can't be used.
    """
    singles = [make_entry(spec, spec) for spec in policies]
    first = VALIDATION_SEEDS if fits is None else 0
    cases = []
    for path in paths:
        entries = (*singles, *(_entries(fits[path.stem]) if fits else ()))
        digest = digest_scenario(*load_case(path, None))
        cases.append(Case(path.stem, fits is None, path, None, tuple(range(first, first + traces)), entries, digest))
    return tuple(cases)


def _entries(fitted: Fitted) -> Iterator[PolicyEntry]:
    for label in FITS:
        yield make_entry(label, getattr(fitted, label), is_tuned=True)
    for rule, spec in fitted.tuned.items():
        yield make_entry(tuned_label(rule), spec, is_tuned=True)


@dataclass(frozen=True, slots=True)
class FrozenSuite:
    """The frozen test, with all that was found.

    Attributes:
        tests: The test scenarios with every policy; the page shows every figure of some of them alone.
        ranking: Policies that are the same everywhere by their mean utility on validation traces, the best first.
        fits: What was fitted, by scenario.
        bounds: Of each moment, by scenario.
        worlds: Drawn worlds, in which the default meets the fallback.
        budget: That learners, and rules that were tuned by themselves, had each.
    """

    tests: Sequence[ScenarioScores]
    ranking: Sequence[tuple[str, float]]
    fits: Mapping[str, Fitted]
    bounds: Mapping[str, float | None]
    worlds: Sequence[ScenarioScores]
    budget: Budget
    name: str = SUITE
    purpose: str = (
        "What a policy that is fitted to one fleet and its traffic is worth, over scenarios that were committed before "
        "anything was fitted to them."
    )
    command: str = "make bench-frozen"
    policies: tuple[str, ...] = (*SINGLES, *FITS)

    @property
    def single(self) -> str:
        """The best single policy for all."""
        return self.ranking[0][0]

    def narrowed(self) -> list[ScenarioScores]:
        """Return the test scenarios with the policies of which the page shows every figure."""
        shown = dict.fromkeys((self.single, FALLBACK, DEFAULT, THRIFT, *FITS))
        return [replace(test, scores={label: test.scores[label] for label in shown}) for test in self.tests]

    def draw_claims(self, scenarios: Sequence[ScenarioScores]) -> tuple[Claim, ...]:
        """Return the claims, held against what was found."""
        return tuple(frozen_claims(self.tests, self.single, self.bounds, self.worlds, DEFAULT))

    def make_sections(self, scenarios: Sequence[ScenarioScores]) -> dict[str, Any]:
        """Return what is compared, as JSON values."""
        return {
            "scenarios_digest": DIGEST,
            "seconds": self.budget.learner,
            "rule_seconds": self.budget.rule,
            "single": self.single,
            "fallback": FALLBACK,
            "ranking": [{"policy": label, "utility": round_value(mean)} for label, mean in self.ranking],
            "compared": [self._compare(scenario) for scenario in self.tests],
            "worlds": [
                {"world": w.case.stem, **{s: round_value(mean_of(w, s)) for s in (DEFAULT, FALLBACK)}}
                for w in self.worlds
            ],
        }

    def _compare(self, scenario: ScenarioScores) -> dict[str, Any]:
        stem, fitted = scenario.case.stem, self.fits[scenario.case.stem]
        utilities = {label: mean_of(scenario, label) for label in scenario.scores}
        tuned = {label: utilities.pop(label) for label in map(tuned_label, fitted.tuned)}
        best_tuned = max(fitted.tuned, key=lambda rule: tuned[tuned_label(rule)])
        rules = {label: utility for label, utility in utilities.items() if label not in FITS}
        return {
            "scenario": stem,
            "servers": len(scenario.fleet),
            "requests_a_deadline": round_value(requests_a_deadline(scenario.settings, scenario.fleet)),
            "best_unfitted": max(rules, key=lambda label: rules[label]),
            "best_tuned": fitted.tuned[best_tuned],
            "best_tuned_utility": round_value(tuned[tuned_label(best_tuned)]),
            "bound": round_value(self.bounds[stem]),
            "share_of_gap": round_value(share_of_gap(scenario, self.single, self.bounds[stem])),
            "joules_less": round_value(joules_less(scenario, self.single)),
            "specs": {label: getattr(fitted, label) for label in FITS},
            "promoted": fitted.origin,
            "generations": fitted.generations,
            "runs": fitted.runs,
            "choices": fitted.choices,
            "utilities": {label: round_value(utility) for label, utility in utilities.items()},
        }

    def show_sections(self, sections: Mapping[str, Any]) -> Iterator[Block]:
        """Yield what a page shows of these sections."""
        return show_sections(sections)

    def draw_pictures(self, scenarios: Sequence[ScenarioScores]) -> Mapping[str, str]:
        """Return no picture."""
        return {}
