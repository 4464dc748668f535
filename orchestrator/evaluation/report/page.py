"""A suite's document as the blocks of a page: the same numbers, for readers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from orchestrator.evaluation.report.blocks import Block, Grid, Heading, Picture, Text

_COLUMNS: Final = (
    ("in time %", "attainment_ratio", 1e2, 2),
    ("accuracy %", "accuracy", 1e2, 2),
    ("effective %", "effective_accuracy", 1e2, 2),
    ("mean ms", "mean_s", 1e3, 2),
    ("p50 ms", "p50_s", 1e3, 2),
    ("p99 ms", "p99_s", 1e3, 2),
    ("goodput/s", "goodput_rps", 1, 0),
    ("J/request", "joules_per_answer", 1, 4),
    ("latency-attributed J", "attributed_j", 1, 4),
    ("utilisation variance", "utilisation_variance", 1, 4),
    ("batch", "mean_batch", 1, 2),
    ("utility", "utility", 1, 4),
)
_PURPOSE: Final = {
    "paper": "What arXiv 2510.09018 reports against random routing, at three loads.",
    "standard": "The learned policy against heuristics whose knobs were tuned on each scenario's validation file.",
    "generalisation": "One checkpoint where it was not trained, against the guard's fallback.",
}
_READING: Final = (
    "Interquartile means over traces, ± half of the 95 % interval. Accuracy is of what was answered; effective "
    "accuracy counts late and lost requests as 0. J/request is all energy of the fleet, idle included, over the "
    "answers; the latency-attributed one is no energy that anybody pays, see the method. A policy with several seeds "
    "draws lots. The bound is the least energy for the accuracy of that row, were work a fluid. `µs` is the median "
    "time of one decision from Python, and of one with its share of all events in the simulator."
)


def make_page(document: Mapping[str, Any], pictures: Mapping[str, str]) -> list[Block]:
    """Return the page.

    Args:
        document: of the suite.
        pictures: SVG by scenario.
    """
    claims = document["claims"]
    met = sum(claim["met"] for claim in claims)
    suite = document["suite"]
    blocks: list[Block] = [
        Heading(1, f"Evaluation: {suite}"),
        Text(
            f"{_PURPOSE[suite]} Written by `slimsched evaluate --suite {suite}`; the same numbers are in "
            f"[evaluation-{suite}.json](evaluation-{suite}.json), the method is in [evaluation.md](../evaluation.md)."
        ),
        Text(_extent(document)),
        Heading(2, f"Claims: {met} of {len(claims)} met"),
        Grid(("claim", "value", "95 % interval", "bar", "", "note"), [_claim(claim) for claim in claims]),
        *_default(document),
        *_comparison(document),
        Heading(2, "Every figure of every policy"),
        Text(_READING),
    ]
    for scenario in document["scenarios"]:
        stem = scenario["scenario"]
        blocks += _scenario(scenario, document["measured"]["decision_us"][stem], pictures.get(stem))
    return blocks


def _extent(document: Mapping[str, Any]) -> str:
    extent, measured = document["extent"], document["measured"]
    requests = "" if extent["requests"] is None else f", at most {extent['requests']:,} requests a run"
    versions = ", ".join(f"{name} {number}" for name, number in sorted(measured["versions"].items()))
    return (
        f"{extent['traces']} traces a scenario, common to all policies, {extent['seeds']} seeds for policies that draw "
        f"lots{requests}; {extent['validation_traces']} traces of each validation file. Taken at "
        f"{measured['taken_at']} on {measured['machine']}; {versions}. Learned policies have one checkpoint each, so "
        "nothing is said of the spread over training seeds."
    )


def _claim(claim: Mapping[str, Any]) -> tuple[str, ...]:
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


def _default(document: Mapping[str, Any]) -> Iterator[Block]:
    ranking = document["default"]
    if not ranking:
        return
    yield Heading(2, "Who would be the default")
    yield Text(
        f"By the utility over all validation scenarios, each policy with its own defaults: "
        f"**`{ranking[0]['policy']}`**. Test scenarios have no say in it."
    )
    rows = [
        (f"`{r['policy']}`", str(at), _pm(r["utility"], 1, 4), r["worst"], f"{r['behind']:.4f}")
        for at, r in enumerate(ranking, 1)
    ]
    yield Grid(("policy", "", "utility", "furthest behind the best in", "by"), rows)


def _comparison(document: Mapping[str, Any]) -> Iterator[Block]:
    if "against_random" in document:
        yield from _against_random(document)
    if "against_fallback" in document:
        yield Heading(2, "Against the fallback")
        yield Grid(
            ("scenario", "servers", "utility lost %", "decisions of the guard's fallback %"),
            [
                (r["scenario"], str(r["servers"]), _pm(r["utility_lost"], 1e2, 2), _number(r["fallback_ratio"], 1e2, 2))
                for r in document["against_fallback"]
            ],
        )
    if "against_best_heuristic" in document:
        yield from _comparisons(document)


def _against_random(document: Mapping[str, Any]) -> Iterator[Block]:
    for baseline, compared in document["against_random"].items():
        yield Heading(2, f"Against `{baseline}`")
        reading = "By how much less or more than it on the same traces; positive is better in every column."
        yield Text(" ".join(filter(None, (reading, document["left_out"]))))
        names = ("mean_latency_less", "p99_latency_less", "attributed_energy_less", "true_energy_less", "accuracy_more")
        rows = [
            (row["scenario"], f"`{row['policy']}`", *(_pm(row[name], 1e2, 2) for name in names)) for row in compared
        ]
        head = ("mean latency %", "p99 %", "latency-attributed energy %", "true energy %", "accuracy points")
        yield Grid(("scenario", "policy", *head), rows)


_BASELINES: Final = (
    ("against_best_heuristic", "Against the best tuned heuristic of all"),
    ("against_best_of_literature", "Against the best tuned heuristic of the literature"),
)


def _comparisons(document: Mapping[str, Any]) -> Iterator[Block]:
    yield Heading(2, "Against the best tuned heuristic of each scenario")
    yield Text(
        "Heuristics and operating points were chosen on the validation file. The best point is the one of the most "
        "utility there, the thrifty one that of the least joules that equals the heuristic's attainment and accuracy, "
        "the accurate one the most accurate that equals its attainment and joules. Bounds are fluid: no policy gets "
        "there, and how near one can get is not known."
    )
    by_utility, comparisons = document["by_utility"], document["against_best_heuristic"]
    closed = _pm(by_utility["mean_share_of_gap_closed"], 1e2, 1)
    yield Text(
        f"By utility the best point is ahead of the best tuned heuristic of all in **{by_utility['higher']}** of "
        f"{len(comparisons)} scenarios with the interval above 0, behind in **{by_utility['lower']}** with it below "
        f"0, and "
        f"undecided in **{by_utility['undecided']}**. On a trace drawn by lot it has more with a probability of "
        f"{_pm(by_utility['probability_of_improvement'], 1, 3)}. Of what lies between that heuristic and the bound it "
        f"gains {closed} %, mean of the {by_utility['scenarios_with_a_gap']} scenarios where anything does."
    )
    for key, title in _BASELINES:
        rows = document[key]
        yield Heading(3, title)
        yield Grid(
            ("scenario", "best heuristic", "its utility", "best point", "utility more", "", "bound", "share gained %"),
            [_by_utility(row) for row in rows],
        )
        yield Grid(
            (
                *("scenario", "thrifty point", "joules less %", "equal terms"),
                *(
                    "most that could be saved %",
                    "share saved %",
                    "accurate point",
                    "accuracy points more",
                    "equal terms",
                ),
            ),
            [_on_equal_terms(row) for row in rows],
        )

    yield from _oracle_windows(document["clairvoyant"])


def _oracle_windows(rows: Sequence[Mapping[str, Any]]) -> Iterator[Block]:
    seen = [row for row in rows if row["requests"] is not None]
    reasons: dict[str, list[str]] = {}
    for row in rows:
        if row["requests"] is None:
            reasons.setdefault(row["reason"], []).append(row["scenario"])
    yield Heading(3, "What a clairvoyant would make of the first requests")
    skipped = "; ".join(f"{', '.join(stems)}: {reason}" for reason, stems in reasons.items())
    yield Text(
        "Accuracy of answers in time less the price of joules above idle, of one window whose servers start empty, "
        "without noise, faults or late reports; in parts of the most that anybody could earn who knew all arrivals. "
        "The plan is the best that was found." + (f" Not planned: {skipped}." if skipped else "")
    )
    if seen:
        yield Grid(
            ("scenario", "requests", "best heuristic", "of the bound %", "best point", "of the bound %", "plan %"),
            [
                (
                    *(row["scenario"], str(row["requests"])),
                    *(f"`{row['heuristic']}`", _number(row["share_of_heuristic"], 1e2, 1)),
                    *(f"`{row['point']}`", _number(row["share_of_point"], 1e2, 1)),
                    _number(row["share_of_plan"], 1e2, 1),
                )
                for row in seen
            ],
        )


def _by_utility(row: Mapping[str, Any]) -> tuple[str, ...]:
    return (
        row["scenario"],
        f"`{row['spec']}`" + ("" if row["is_tuned"] else " (not tuned)"),
        _number(row["utility"], 1, 4),
        f"`{row['best_point']}`",
        _pm(row["utility_more"], 1, 4),
        row["verdict"],
        _number(row["most_utility_by_fluid_bound"], 1, 4),
        _pm(row["share_of_utility_gap_closed"], 1e2, 1),
    )


def _on_equal_terms(row: Mapping[str, Any]) -> tuple[str, ...]:
    return (
        row["scenario"],
        f"`{row['point']}`",
        _pm(row["joules_less"], 1e2, 2),
        "yes" if row["is_equal"] else "no",
        _number(row["most_joules_less_by_fluid_bound"], 1e2, 2),
        _pm(row["share_of_joules_gap_closed"], 1e2, 1),
        f"`{row['accurate_point']}`",
        _pm(row["accuracy_more"], 1e2, 2),
        "yes" if row["is_frugal"] else "no",
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
            "No policy can serve all of it for good."
            if bound is None
            else f"Fluid bound on accuracy {bound:.2%}, on utility {_number(most_utility, 1, 4)}."
        )
    )
    head = ("policy", *(name for name, *_ in _COLUMNS), "seeds", "bound on J", "hypervolume", "µs", "fallback %")
    rows = []
    for policy in scenario["policies"]:
        figures = policy["figures"]
        timed = decisions[policy["policy"]]
        name = f"`{policy['policy']}`" + (f" as `{policy['spec']}`" if policy["is_tuned"] else "")
        rows.append(
            (
                name,
                *(_pm(figures[key], scale, digits) for _, key, scale, digits in _COLUMNS),
                str(policy["seeds"]),
                _number(policy["least_joules_by_fluid_bound"], 1, 4),
                _number(policy["hypervolume"], 1, 3),
                f"{_number(timed['p50'], 1, 0)}; {_number(timed['with_events'], 1, 1)}",
                _pm(figures["fallback_ratio"], 1e2, 2),
            )
        )
    if picture is not None:
        yield Picture(picture)
    yield Grid(head, rows)


def _pm(found: Mapping[str, Any] | None, scale: float, digits: int) -> str:
    """Return a number with half of its interval."""
    if found is None:
        return "–"
    text = f"{found['value'] * scale:,.{digits}f}"
    interval = found["interval"]
    return text if interval is None else f"{text} ±{(interval[1] - interval[0]) / 2 * scale:,.{digits}f}"


def _number(value: float | None, scale: float, digits: int) -> str:
    return "–" if value is None else f"{value * scale:,.{digits}f}"
