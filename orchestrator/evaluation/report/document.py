"""A suite's results as one JSON document, claims first; the page and the pictures show the same numbers.

Everything in it but ``measured`` is the same on every machine for the same scenarios, specs and extent.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from orchestrator.evaluation.claim import Claim
from orchestrator.evaluation.figures import FIGURES
from orchestrator.evaluation.scores import UTILITY, Field, Score
from orchestrator.evaluation.statistics import CONFIDENCE, RESAMPLES, Estimate, estimate_iqm, hypervolume
from orchestrator.evaluation.suites.choices import Baselines, middle, rank_defaults
from orchestrator.evaluation.suites.generalisation import draw_transfers, generalisation_claims
from orchestrator.evaluation.suites.oracle_windows import OracleWindow, draw_oracle_windows
from orchestrator.evaluation.suites.paper import BASELINES, describe_load, gain, left_out, paper_claims, saving
from orchestrator.evaluation.suites.plan import Extent, Suite
from orchestrator.evaluation.suites.standard import (
    Comparison,
    Verdict,
    draw_comparisons,
    improvement,
    standard_claims,
    utility_closed,
)

_DIGITS: Final = 6
"""Significant ones."""


@dataclass(frozen=True, slots=True)
class Measured:
    """What differs from machine to machine.

    Attributes:
        machine: in words.
        versions: of what took part.
        took_s: of the start that ended the campaign.
        taken_at: when it ended.
    """

    machine: str
    versions: dict[str, str]
    took_s: float
    taken_at: str


def draw_claims(suite: Suite, fields: Sequence[Field]) -> tuple[Claim, ...]:
    """Return the claims of a suite."""
    draw = {
        Suite.PAPER: paper_claims,
        Suite.STANDARD: standard_claims,
        Suite.GENERALISATION: generalisation_claims,
    }[suite]
    return tuple(draw(fields))


def make_document(suite: Suite, extent: Extent, fields: Sequence[Field], measured: Measured) -> dict[str, Any]:
    """Return the document, as JSON values."""
    tests = [field for field in fields if not field.case.is_validation]
    document = {
        "suite": str(suite),
        "claims": [_claim(claim) for claim in draw_claims(suite, fields)],
        "extent": asdict(extent),
        "method": {
            "centre": "interquartile mean over traces; seeds of one trace are averaged first",
            "interval": f"{CONFIDENCE:.0%} percentile bootstrap over traces by scenario, {RESAMPLES} resamples",
            "utility": "effective accuracy - (0.02/0.15) * joules a request / most joules",
            "hypervolume": "unit cube of accuracy from a spread below the narrowest width to the widest, "
            "requests in time, 1 - joules / (2 * most joules)",
        },
        "default": [
            {
                "policy": r.label,
                "utility": _estimate(r.utility),
                "worst": r.worst_scenario,
                "behind": _round(r.worst_loss),
            }
            for r in rank_defaults(fields)
        ],
        **_comparisons(suite, fields),
        "scenarios": [_scenario(field) for field in tests],
        "validation": [_scenario(field, is_brief=True) for field in fields if field.case.is_validation],
        "measured": asdict(measured)
        | {
            "decision_us": {
                field.case.stem: {label: _decision(score) for label, score in field.scores.items()} for field in tests
            }
        },
    }
    return document


def _comparisons(suite: Suite, fields: Sequence[Field]) -> dict[str, Any]:
    if suite is Suite.PAPER:
        return {
            "left_out": left_out(fields),
            "against_random": {baseline: list(_against_random(fields, baseline)) for baseline in BASELINES},
        }
    if suite is Suite.GENERALISATION:
        return {
            "against_fallback": [
                {
                    "scenario": t.field.case.stem,
                    "servers": t.field.servers,
                    "utility_lost": _estimate(t.loss),
                    "fallback_ratio": _round(t.fallback_ratio),
                }
                for t in draw_transfers(fields)
            ]
        }
    comparisons = draw_comparisons(fields)
    return {
        "by_utility": {
            **{str(verdict): sum(comparison.verdict is verdict for comparison in comparisons) for verdict in Verdict},
            "probability_of_improvement": _estimate(improvement(comparisons)),
            "mean_share_of_gap_closed": _estimate(utility_closed(comparisons)),
            "scenarios_with_a_gap": sum(comparison.utility_gap is not None for comparison in comparisons),
        },
        "clairvoyant": [_oracle_window(oracle_window) for oracle_window in draw_oracle_windows(comparisons)],
        "against_best_heuristic": [_comparison(comparison) for comparison in comparisons],
        "against_best_of_literature": [
            _comparison(comparison) for comparison in draw_comparisons(fields, Baselines.LITERATURE)
        ],
    }


def _comparison(comparison: Comparison) -> dict[str, Any]:
    held = comparison.field.scores[comparison.heuristic]
    return {
        "scenario": comparison.field.case.stem,
        "heuristic": comparison.heuristic,
        "spec": held.entry.spec,
        "is_tuned": held.entry.is_tuned,
        "point": comparison.thrifty,
        "joules_less": _estimate(estimate_iqm([comparison.saved])),
        "is_equal": comparison.is_equal,
        "most_joules_less_by_fluid_bound": _round(comparison.most_saved_ratio),
        "share_of_joules_gap_closed": _estimate(comparison.joules_closed),
        "accurate_point": comparison.accurate,
        "accuracy_more": _estimate(estimate_iqm([comparison.gained])),
        "is_frugal": comparison.is_frugal,
        "best_point": comparison.best,
        "utility": _round(middle(held, UTILITY)),
        "utility_more": _estimate(comparison.utility_more),
        "verdict": str(comparison.verdict),
        "most_utility_by_fluid_bound": _round(comparison.field.most_utility),
        "share_of_utility_gap_closed": _estimate(utility_closed([comparison])),
    }


def _oracle_window(oracle_window: OracleWindow) -> dict[str, Any]:
    comparison, window = oracle_window.comparison, oracle_window.window
    if window is None:
        return {"scenario": comparison.field.case.stem, "requests": None, "reason": oracle_window.reason}
    heuristic, point = window.earned
    return {
        "scenario": comparison.field.case.stem,
        "requests": window.requests,
        "heuristic": comparison.field.scores[comparison.heuristic].entry.spec,
        "point": comparison.best,
        "bound": _round(window.bound.most),
        "share_of_heuristic": _round(oracle_window.share(heuristic)),
        "share_of_point": _round(oracle_window.share(point)),
        "share_of_plan": _round(oracle_window.share(window.bound.earned)),
    }


def _against_random(fields: Sequence[Field], baseline: str) -> Iterator[dict[str, Any]]:
    for field in fields:
        if field.case.is_validation or baseline not in field.scores:
            continue
        for label in field.scores:
            if label == baseline:
                continue
            yield {
                "scenario": field.case.stem,
                "load": describe_load(field),
                "policy": label,
                "mean_latency_less": _estimate(saving(field, label, "mean_s", baseline)),
                "p99_latency_less": _estimate(saving(field, label, "p99_s", baseline)),
                "attributed_energy_less": _estimate(saving(field, label, "attributed_j", baseline)),
                "true_energy_less": _estimate(saving(field, label, "joules_per_answer", baseline)),
                "accuracy_more": _estimate(gain(field, label, "accuracy", baseline)),
            }


def _claim(claim: Claim) -> dict[str, Any]:
    return {
        "name": claim.name,
        "value": _round(claim.value),
        "bar": claim.bar,
        "bar_is": "at least" if claim.is_floor else "at most",
        "unit": claim.unit,
        "met": claim.is_met,
        "interval": None if claim.interval is None else [_round(claim.interval.low), _round(claim.interval.high)],
        "is_equal_elsewhere": claim.holds,
        "note": claim.note,
    }


def _scenario(field: Field, *, is_brief: bool = False) -> dict[str, Any]:
    utility_scale = field.utility_scale
    return {
        "scenario": field.case.stem,
        "digest": field.case.digest,
        "servers": field.servers,
        "arrivals": field.kind,
        "cv2": _round(field.cv2),
        "load": describe_load(field),
        "rate_rps": _round(field.rate_rps),
        "deadline_s": field.deadline_s,
        "requests": field.requests,
        "traces": len(field.case.traces),
        "most_accuracy_by_fluid_bound": _round(field.most_accuracy),
        "most_utility_by_fluid_bound": _round(field.most_utility),
        "most_joules": _round(utility_scale.most_j),
        "policies": [_policy(field, score, is_brief=is_brief) for score in field.scores.values()],
    }


def _policy(field: Field, score: Score, *, is_brief: bool) -> dict[str, Any]:
    entry = score.entry

    def figure(name: str) -> Any:
        found = estimate_iqm([score.figures[name]], is_sure=not is_brief)
        return _round(found.value) if is_brief else _estimate(found)

    accuracy = estimate_iqm([score.figures["accuracy"]], is_sure=False).value
    bound_j = None if math.isnan(accuracy) else field.bound_j(accuracy)
    return {
        "policy": entry.label,
        "spec": entry.spec,
        "is_tuned": entry.is_tuned,
        "seeds": score.seeds,
        "figures": {name: figure(name) for name in (UTILITY, *FIGURES)},
        "utility_spread_over_seeds": _round(score.seed_spread),
        "least_joules_by_fluid_bound": _round(bound_j),
        "hypervolume": _round(hypervolume(score.places.mean(axis=0, keepdims=True))),
        "width_shares": {str(width): _round(share) for width, share in score.width_shares.items()},
    }


def _decision(score: Score) -> dict[str, Any]:
    median_s, p99_s = score.decision_s or (None, None)
    return {
        "p50": None if median_s is None else _round(1e6 * median_s),
        "p99": None if p99_s is None else _round(1e6 * p99_s),
        "with_events": _round(1e6 * score.event_s),
    }


def _estimate(found: Estimate | None) -> dict[str, Any] | None:
    if found is None or math.isnan(found.value):
        return None
    ends = found.interval
    interval = None if ends is None else [_round(ends.low), _round(ends.high)]
    return {"value": _round(found.value), "interval": interval}


def _round(value: float | None) -> float | None:
    """Return a number to so many significant digits; None for what is none."""
    return None if value is None or math.isnan(value) else float(f"{value:.{_DIGITS}g}")
