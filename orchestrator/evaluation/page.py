"""A suite's document as the blocks of a page, and the files of its report: the same numbers, for readers."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from orchestrator.evaluation.suite import Suite
from orchestrator.installed.extras import check_extra
from orchestrator.reporting.blocks import Block, Heading, Picture, Table, Text, render_html, render_markdown
from orchestrator.reporting.outputs import check_folder, write_report

_REMEDY: Final = "name another with --out"
_COLUMNS: Final = (
    ("in time %", "attainment_ratio", 1e2, 2),
    ("accuracy %", "accuracy", 1e2, 2),
    ("effective %", "effective_accuracy", 1e2, 2),
    ("mean ms", "mean_s", 1e3, 2),
    ("its deviation", "std_s", 1e3, 2),
    ("p50 ms", "p50_s", 1e3, 2),
    ("p99 ms", "p99_s", 1e3, 2),
    ("goodput/s", "goodput_rps", 1, 0),
    ("J/request", "joules_per_answer", 1, 4),
    ("deviation of J above idle", "std_j", 1, 4),
    ("latency-attributed J", "attributed_j", 1, 4),
    ("utilisation variance", "utilisation_variance", 1, 4),
    ("batch", "mean_batch", 1, 2),
    ("utility", "utility", 1, 4),
)
_READING: Final = (
    "Interquartile means over traces, ± half of the 95 % interval. Accuracy is of what was answered; effective "
    "accuracy counts late and lost requests as 0. J/request is all energy of the fleet, idle included, over the "
    "answers; the latency-attributed one is no energy that anybody pays, see the method. A policy with several seeds "
    "draws random numbers. The bound is the least energy for the accuracy of that row, were work a fluid. `µs` is the "
    "median time of one decision from Python, and of one with its share of all events in the simulator."
)


def check_outputs(folder: Path) -> None:
    """Check, before the long work, that a report could be drawn and written.

    Raises:
        ConfigError: when a package is missing or the folder can't be written.
    """
    check_extra("an evaluation", "sim", "matplotlib", "scipy")
    check_folder(folder, _REMEDY)


def write_outputs(suite: Suite, document: Mapping[str, Any], pictures: Mapping[str, str], folder: Path) -> list[Path]:
    """Write document, page, and page with pictures, and return their paths.

    Raises:
        ConfigError: when one can't be written.
    """
    stem, page = f"evaluation-{suite.name}", make_page(suite, document, pictures)
    contents: dict[str, str | bytes] = {
        f"{stem}.json": json.dumps(document, ensure_ascii=False, allow_nan=False, separators=(",", ":")) + "\n",
        f"{stem}.md": render_markdown(page),
        f"{stem}.html": render_html(page),
    }
    return write_report(folder, contents, _REMEDY)


def make_page(suite: Suite, document: Mapping[str, Any], pictures: Mapping[str, str]) -> list[Block]:
    """Return the page of a suite's document, with pictures as SVG by scenario."""
    name = suite.name
    blocks: list[Block] = [
        Heading(1, f"Evaluation: {name}"),
        Text(
            f"{suite.purpose} Written by `{suite.command}`; the same numbers are in "
            f"[evaluation-{name}.json](evaluation-{name}.json), the method is in [evaluation.md](../evaluation.md)."
        ),
        Text(_extent(document)),
        *_claims(document["claims"]),
        *suite.show_sections(document),
        Heading(2, "Every figure of every policy"),
        Text(_READING),
    ]
    for scenario in document["scenarios"]:
        stem = scenario["scenario"]
        blocks += _scenario(scenario, document["measured"]["decision_us"][stem], pictures.get(stem))
    return blocks


def _claims(claims: Sequence[Mapping[str, Any]]) -> Iterator[Block]:
    if claims:
        yield Heading(2, f"Claims: {sum(claim['met'] for claim in claims)} of {len(claims)} met")
        yield Table(("claim", "value", "95 % interval", "bar", "", "note"), [claim_cells(claim) for claim in claims])


def _extent(document: Mapping[str, Any]) -> str:
    extent, measured = document["extent"], document["measured"]
    requests = "" if extent["requests"] is None else f", at most {extent['requests']:,} requests a run"
    versions = ", ".join(f"{name} {number}" for name, number in sorted(measured["versions"].items()))
    return (
        f"{extent['traces']} traces a scenario, common to all policies, {extent['seeds']} seeds for policies that draw "
        f"random numbers{requests}; {extent['validation_traces']} traces of each validation file. Taken at "
        f"{measured['taken_at']} on {measured['machine']}; {versions}. Learned policies have one checkpoint each, so "
        "nothing is said of the spread over training seeds."
    )


def claim_cells(claim: Mapping[str, Any]) -> tuple[str, ...]:
    """Return a claim of a document as a row: name, value, interval, bar, whether it is met, and note."""
    sign = "≥" if claim["bar_is"] == "at least" else "≤"
    interval = claim["interval"]
    return (
        claim["name"],
        "none" if claim["value"] is None else f"{claim['value']:.2%}",
        "" if interval is None else f"{interval[0]:.2%} to {interval[1]:.2%}",
        f"{sign} {claim['bar']:.2%}",
        "met" if claim["met"] else "**not met**",
        claim["note"],
    )


def _scenario(
    scenario: Mapping[str, Any], decisions: Mapping[str, Mapping[str, Any]], picture: str | None
) -> Iterator[Block]:
    bound, most_utility = scenario["most_accuracy_by_fluid_bound"], scenario["most_utility_by_fluid_bound"]
    yield Heading(3, scenario["scenario"])
    yield Text(
        f"{scenario['servers']} servers, {scenario['arrivals']} arrivals of CV² {scenario['cv2']:.3g}, load "
        f"{scenario['load']} ({scenario['rate_rps']:,.0f} items/s), deadline {scenario['deadline_s'] * 1e3:g} ms, "
        f"{scenario['requests']:,} requests a run. "
        + (
            f"{scenario['callers']:,} callers send them, who wait for their answers, so the load is the most there is."
            if scenario.get("callers") is not None
            else "No policy can serve all of it for good."
            if bound is None
            else f"Fluid bound on accuracy {bound:.2%}, on utility {format_value(most_utility, 1, 4)}."
        )
    )
    head = ("policy", *(name for name, *_ in _COLUMNS), "seeds", "bound on J", "µs", "fallback %")
    rows = []
    for policy in scenario["policies"]:
        figures = policy["figures"]
        timed = decisions[policy["policy"]]
        name = f"`{policy['policy']}`" + (f" as `{policy['spec']}`" if policy["is_tuned"] else "")
        rows.append(
            (
                name,
                *(format_estimate(figures[key], scale, digits) for _, key, scale, digits in _COLUMNS),
                str(policy["seeds"]),
                format_value(policy["least_joules_by_fluid_bound"], 1, 4),
                f"{format_value(timed['p50'], 1, 0)}; {format_value(timed['with_events'], 1, 1)}",
                format_estimate(figures["fallback_ratio"], 1e2, 2),
            )
        )
    if picture is not None:
        yield Picture(picture)
    yield Table(head, rows)


def format_estimate(found: Mapping[str, Any] | None, scale: float, digits: int) -> str:
    """Return a number with half of its interval."""
    if found is None:
        return "–"
    text = f"{found['value'] * scale:,.{digits}f}"
    interval = found["interval"]
    return text if interval is None else f"{text} ±{(interval[1] - interval[0]) / 2 * scale:,.{digits}f}"


def format_value(value: float | None, scale: float, digits: int) -> str:
    """Return a number in another unit; a dash for None."""
    return "–" if value is None else f"{value * scale:,.{digits}f}"
