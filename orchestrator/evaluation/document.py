"""A suite's results as one JSON document, claims first; the page and the pictures show the same numbers.

Everything in it but ``measured`` is the same on every machine for the same scenarios, specs and extent.
"""

from __future__ import annotations

import math
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final

from orchestrator.evaluation.cases import Extent
from orchestrator.evaluation.figures import FIGURES
from orchestrator.evaluation.scores import UTILITY, ScenarioScores, Score
from orchestrator.evaluation.statistics import CONFIDENCE, RESAMPLES, Estimate, estimate_iqm
from orchestrator.evaluation.suite import Suite
from orchestrator.reporting.claim import Claim, Interval

_DIGITS: Final = 6
"""Significant ones."""
_PACKAGES: Final = ("slim-scheduler", "numpy", "scipy", "numba")


def describe_machine(took_s: float) -> dict[str, Any]:
    """Return what differs from machine to machine, as JSON values, for a campaign that took so long and ends now."""
    versions = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    machine = f"{platform.machine()}, {len(os.sched_getaffinity(0))} cores, {platform.system()} {platform.release()}"
    taken_at = datetime.now(UTC).isoformat(timespec="seconds")
    return {"machine": machine, "versions": versions, "took_s": round(took_s, 1), "taken_at": taken_at}


def make_document(
    suite: Suite, extent: Extent, scenarios: Sequence[ScenarioScores], measured: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the document, as JSON values."""
    tests = [scenario for scenario in scenarios if not scenario.case.is_validation]
    timed = {s.case.stem: {label: _decision(score) for label, score in s.scores.items()} for s in tests}
    return {
        "suite": suite.name,
        "claims": [_claim(claim) for claim in suite.draw_claims(scenarios)],
        "extent": asdict(extent),
        "method": {
            "centre": "interquartile mean over traces; seeds of one trace are averaged first",
            "interval": f"{CONFIDENCE:.0%} percentile bootstrap over traces by scenario, {RESAMPLES} resamples",
            "utility": "effective accuracy - (0.02/0.15) * joules a request / most joules",
        },
        **suite.make_sections(scenarios),
        "scenarios": [_scenario(scenario) for scenario in tests],
        "validation": [_scenario(scenario, is_brief=True) for scenario in scenarios if scenario.case.is_validation],
        "measured": {**measured, "decision_us": timed},
    }


def _claim(claim: Claim) -> dict[str, Any]:
    return {
        "name": claim.name,
        "value": round_value(claim.value),
        "bar": claim.bar,
        "bar_is": "at least" if claim.is_floor else "at most",
        "unit": claim.unit,
        "met": claim.is_met,
        "interval": _interval(claim.interval),
        "note": claim.note,
    }


def _scenario(scenario: ScenarioScores, *, is_brief: bool = False) -> dict[str, Any]:
    return {
        "scenario": scenario.case.stem,
        "digest": scenario.case.digest,
        "servers": len(scenario.fleet),
        "arrivals": scenario.settings.workload.kind,
        "cv2": round_value(scenario.cv2),
        "load": scenario.load,
        "rate_rps": round_value(scenario.rate_rps),
        "deadline_s": scenario.deadline_s,
        "requests": scenario.settings.workload.requests,
        "callers": scenario.settings.workload.callers,
        "traces": len(scenario.case.traces),
        "most_accuracy_by_fluid_bound": round_value(scenario.most_accuracy),
        "most_utility_by_fluid_bound": round_value(scenario.most_utility),
        "most_joules": round_value(scenario.utility_scale.most_j),
        "policies": [_policy(scenario, score, is_brief=is_brief) for score in scenario.scores.values()],
    }


def _policy(scenario: ScenarioScores, score: Score, *, is_brief: bool) -> dict[str, Any]:
    entry = score.entry

    def figure(name: str) -> Any:
        found = estimate_iqm([score.figures[name]], is_sure=not is_brief)
        return round_value(found.value) if is_brief else encode_estimate(found)

    accuracy = estimate_iqm([score.figures["accuracy"]], is_sure=False).value
    bound_j = None if math.isnan(accuracy) else scenario.bound_j(accuracy)
    families = {name: round_value(ratio) for name, ratio in score.family_ratios.items()}
    return {
        "policy": entry.label,
        "spec": entry.spec,
        "is_tuned": entry.is_tuned,
        "seeds": score.seeds,
        "figures": {name: figure(name) for name in (UTILITY, *FIGURES)},
        "utility_spread_over_seeds": round_value(score.seed_spread),
        "least_joules_by_fluid_bound": round_value(bound_j),
        "width_shares": {str(width): round_value(share) for width, share in score.width_shares.items()},
    } | ({"in_time_of_families": families} if families else {})


def _decision(score: Score) -> dict[str, Any]:
    median_s, p99_s = score.decision_s or (None, None)
    return {
        "p50": None if median_s is None else round_value(1e6 * median_s),
        "p99": None if p99_s is None else round_value(1e6 * p99_s),
        "with_events": round_value(1e6 * score.event_s),
    }


def encode_estimate(found: Estimate | None) -> dict[str, Any] | None:
    """Return an estimate as JSON values; None for what is none."""
    if found is None or math.isnan(found.value):
        return None
    return {"value": round_value(found.value), "interval": _interval(found.interval)}


def _interval(found: Interval | None) -> list[float | None] | None:
    return None if found is None else [round_value(found.low), round_value(found.high)]


def round_value(value: float | None) -> float | None:
    """Return a number to six significant digits; None for what is none or unbounded, which JSON has no number for."""
    return None if value is None or not math.isfinite(value) else float(f"{value:.{_DIGITS}g}")
