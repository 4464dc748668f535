"""What the suites compare, as JSON values by section of the document."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from benchmarks.suites.choices import Ranked, rank_defaults, rank_tested
from benchmarks.suites.paper import BASELINES, gain, left_out, saving
from orchestrator.evaluation.document import encode_estimate, round_value
from orchestrator.evaluation.scores import ScenarioScores


def encode_defaults(scenarios: Sequence[ScenarioScores]) -> list[dict[str, Any]]:
    """Return the ranking of who could be the default as JSON values."""
    return _encode(rank_defaults(scenarios))


def plain_sections(scenarios: Sequence[ScenarioScores]) -> dict[str, Any]:
    """Return the ranking over test scenarios."""
    return {"tested": _encode(rank_tested(scenarios))}


def paper_sections(scenarios: Sequence[ScenarioScores]) -> dict[str, Any]:
    """Return every policy against both readings of random."""
    return {
        "left_out": left_out(scenarios),
        "against_random": {baseline: list(_against_random(scenarios, baseline)) for baseline in BASELINES},
    }


def _encode(ranking: Iterable[Ranked]) -> list[dict[str, Any]]:
    return [
        {
            "policy": ranked.label,
            "utility": encode_estimate(ranked.utility),
            "worst": ranked.worst_scenario,
            "behind": round_value(ranked.worst_loss),
        }
        for ranked in ranking
    ]


def _against_random(scenarios: Sequence[ScenarioScores], baseline: str) -> Iterator[dict[str, Any]]:
    for scenario in scenarios:
        if scenario.case.is_validation or baseline not in scenario.scores:
            continue
        for label in scenario.scores:
            if label == baseline:
                continue
            yield {
                "scenario": scenario.case.stem,
                "load": scenario.load,
                "policy": label,
                "mean_latency_less": encode_estimate(saving(scenario, label, "mean_s", baseline)),
                "p99_latency_less": encode_estimate(saving(scenario, label, "p99_s", baseline)),
                "attributed_energy_less": encode_estimate(saving(scenario, label, "attributed_j", baseline)),
                "true_energy_less": encode_estimate(saving(scenario, label, "joules_per_answer", baseline)),
                "accuracy_more": encode_estimate(gain(scenario, label, "accuracy", baseline)),
            }
