"""What the project's suites compare, as JSON values by section of the document."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from benchmarks.suites.choices import Baselines, rank_defaults
from benchmarks.suites.generalisation import draw_transfers
from benchmarks.suites.oracle_windows import OracleWindow, draw_oracle_windows
from benchmarks.suites.paper import BASELINES, gain, left_out, saving
from benchmarks.suites.standard import Comparison, Verdict, draw_comparisons, improvement, utility_closed
from orchestrator.evaluation.document import encode_estimate, round_value
from orchestrator.evaluation.scores import UTILITY, ScenarioScores
from orchestrator.evaluation.statistics import estimate_iqm


def encode_defaults(scenarios: Sequence[ScenarioScores]) -> list[dict[str, Any]]:
    """Return the ranking of who could be the default as JSON values."""
    return [
        {
            "policy": ranked.label,
            "utility": encode_estimate(ranked.utility),
            "worst": ranked.worst_scenario,
            "behind": round_value(ranked.worst_loss),
        }
        for ranked in rank_defaults(scenarios)
    ]


def paper_sections(scenarios: Sequence[ScenarioScores]) -> dict[str, Any]:
    """Return every policy against both readings of random."""
    return {
        "left_out": left_out(scenarios),
        "against_random": {baseline: list(_against_random(scenarios, baseline)) for baseline in BASELINES},
    }


def generalisation_sections(scenarios: Sequence[ScenarioScores]) -> dict[str, Any]:
    """Return the learned policy against the fallback in each held-out scenario."""
    return {
        "against_fallback": [
            {
                "scenario": transfer.scenario.case.stem,
                "servers": len(transfer.scenario.fleet),
                "utility_lost": encode_estimate(transfer.loss),
                "fallback_ratio": round_value(transfer.fallback_ratio),
            }
            for transfer in draw_transfers(scenarios)
        ]
    }


def standard_sections(scenarios: Sequence[ScenarioScores]) -> dict[str, Any]:
    """Return the learned policy against the best heuristics, and both against a clairvoyant."""
    comparisons = draw_comparisons(scenarios)
    return {
        "by_utility": {
            **{str(verdict): sum(comparison.verdict is verdict for comparison in comparisons) for verdict in Verdict},
            "probability_of_improvement": encode_estimate(improvement(comparisons)),
            "mean_share_of_gap_closed": encode_estimate(utility_closed(comparisons)),
            "scenarios_with_a_gap": sum(comparison.utility_gap is not None for comparison in comparisons),
        },
        "clairvoyant": [_oracle_window(window) for window in draw_oracle_windows(comparisons)],
        "against_best_heuristic": [_comparison(comparison) for comparison in comparisons],
        "against_best_of_literature": [
            _comparison(comparison) for comparison in draw_comparisons(scenarios, Baselines.LITERATURE)
        ],
    }


def _comparison(comparison: Comparison) -> dict[str, Any]:
    held = comparison.scenario.scores[comparison.heuristic]
    return {
        "scenario": comparison.scenario.case.stem,
        "heuristic": comparison.heuristic,
        "spec": held.entry.spec,
        "is_tuned": held.entry.is_tuned,
        "point": comparison.thrifty,
        "joules_less": encode_estimate(estimate_iqm([comparison.saved])),
        "is_equal": comparison.is_equal,
        "most_joules_less_by_fluid_bound": round_value(comparison.most_saved_ratio),
        "share_of_joules_gap_closed": encode_estimate(comparison.joules_closed),
        "accurate_point": comparison.accurate,
        "accuracy_more": encode_estimate(estimate_iqm([comparison.gained])),
        "is_frugal": comparison.is_frugal,
        "best_point": comparison.best,
        "utility": round_value(held.iqm(UTILITY)),
        "utility_more": encode_estimate(comparison.utility_more),
        "verdict": str(comparison.verdict),
        "most_utility_by_fluid_bound": round_value(comparison.scenario.most_utility),
        "share_of_utility_gap_closed": encode_estimate(utility_closed([comparison])),
    }


def _oracle_window(oracle_window: OracleWindow) -> dict[str, Any]:
    comparison, window = oracle_window.comparison, oracle_window.window
    if window is None:
        return {"scenario": comparison.scenario.case.stem, "requests": None, "reason": oracle_window.reason}
    heuristic, point = window.earned
    return {
        "scenario": comparison.scenario.case.stem,
        "requests": window.requests,
        "heuristic": comparison.scenario.scores[comparison.heuristic].entry.spec,
        "point": comparison.best,
        "bound": round_value(window.bound.most),
        "share_of_heuristic": round_value(oracle_window.share(heuristic)),
        "share_of_point": round_value(oracle_window.share(point)),
        "share_of_plan": round_value(oracle_window.share(window.bound.earned)),
    }


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
