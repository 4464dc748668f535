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
from orchestrator.evaluation.scores import UTILITY, Field, Standing
from orchestrator.evaluation.statistics import CONFIDENCE, RESAMPLES, Estimate, estimate_iqm, hypervolume
from orchestrator.evaluation.suites.choices import Rivals, middle, rank_defaults
from orchestrator.evaluation.suites.generalisation import draw_transfers, generalisation_claims
from orchestrator.evaluation.suites.oracle_windows import Glimpse, draw_glimpses
from orchestrator.evaluation.suites.paper import BASELINES, describe_load, gain, left_out, paper_claims, saving
from orchestrator.evaluation.suites.plan import Extent, Suite
from orchestrator.evaluation.suites.standard import (
    Duel,
    Verdict,
    draw_duels,
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
                field.case.stem: {label: _decision(standing) for label, standing in field.standings.items()}
                for field in tests
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
    duels = draw_duels(fields)
    return {
        "by_utility": {
            **{str(verdict): sum(duel.verdict is verdict for duel in duels) for verdict in Verdict},
            "probability_of_improvement": _estimate(improvement(duels)),
            "mean_share_of_gap_closed": _estimate(utility_closed(duels)),
            "scenarios_with_a_gap": sum(duel.utility_gap is not None for duel in duels),
        },
        "clairvoyant": [_glimpse(glimpse) for glimpse in draw_glimpses(duels)],
        "against_best_heuristic": [_duel(duel) for duel in duels],
        "against_best_of_literature": [_duel(duel) for duel in draw_duels(fields, Rivals.LITERATURE)],
    }


def _duel(duel: Duel) -> dict[str, Any]:
    held = duel.field.standings[duel.heuristic]
    return {
        "scenario": duel.field.case.stem,
        "heuristic": duel.heuristic,
        "spec": held.contender.spec,
        "is_tuned": held.contender.is_tuned,
        "point": duel.thrifty,
        "joules_less": _estimate(estimate_iqm([duel.saved])),
        "is_equal": duel.is_equal,
        "most_joules_less_by_fluid_bound": _round(duel.most_saved_ratio),
        "share_of_joules_gap_closed": _estimate(duel.joules_closed),
        "accurate_point": duel.accurate,
        "accuracy_more": _estimate(estimate_iqm([duel.gained])),
        "is_frugal": duel.is_frugal,
        "best_point": duel.best,
        "utility": _round(middle(held, UTILITY)),
        "utility_more": _estimate(duel.utility_more),
        "verdict": str(duel.verdict),
        "most_utility_by_fluid_bound": _round(duel.field.most_utility),
        "share_of_utility_gap_closed": _estimate(utility_closed([duel])),
    }


def _glimpse(glimpse: Glimpse) -> dict[str, Any]:
    duel, window = glimpse.duel, glimpse.window
    if window is None:
        return {"scenario": duel.field.case.stem, "requests": None, "reason": glimpse.reason}
    heuristic, point = window.earned
    return {
        "scenario": duel.field.case.stem,
        "requests": window.requests,
        "heuristic": duel.field.standings[duel.heuristic].contender.spec,
        "point": duel.best,
        "bound": _round(window.bound.most),
        "share_of_heuristic": _round(glimpse.share(heuristic)),
        "share_of_point": _round(glimpse.share(point)),
        "share_of_plan": _round(glimpse.share(window.bound.earned)),
    }


def _against_random(fields: Sequence[Field], baseline: str) -> Iterator[dict[str, Any]]:
    for field in fields:
        if field.case.is_validation or baseline not in field.standings:
            continue
        for label in field.standings:
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
    yardstick = field.yardstick
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
        "most_joules": _round(yardstick.most_j),
        "policies": [_policy(field, standing, is_brief=is_brief) for standing in field.standings.values()],
    }


def _policy(field: Field, standing: Standing, *, is_brief: bool) -> dict[str, Any]:
    contender = standing.contender

    def figure(name: str) -> Any:
        found = estimate_iqm([standing.figures[name]], is_sure=not is_brief)
        return _round(found.value) if is_brief else _estimate(found)

    accuracy = estimate_iqm([standing.figures["accuracy"]], is_sure=False).value
    bound_j = None if math.isnan(accuracy) else field.bound_j(accuracy)
    return {
        "policy": contender.label,
        "spec": contender.spec,
        "is_tuned": contender.is_tuned,
        "seeds": standing.seeds,
        "figures": {name: figure(name) for name in (UTILITY, *FIGURES)},
        "utility_spread_over_seeds": _round(standing.seed_spread),
        "least_joules_by_fluid_bound": _round(bound_j),
        "hypervolume": _round(hypervolume(standing.places.mean(axis=0, keepdims=True))),
        "width_shares": {str(width): _round(share) for width, share in standing.width_shares.items()},
    }


def _decision(standing: Standing) -> dict[str, Any]:
    median_s, p99_s = standing.decision_s or (None, None)
    return {
        "p50": None if median_s is None else _round(1e6 * median_s),
        "p99": None if p99_s is None else _round(1e6 * p99_s),
        "with_events": _round(1e6 * standing.event_s),
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
