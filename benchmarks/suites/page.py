"""What the pages of the project's suites show of what was compared."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from orchestrator.evaluation.page import format_estimate, format_value
from orchestrator.reporting.blocks import Block, Heading, Table, Text


def show_sections(sections: Mapping[str, Any]) -> Iterator[Block]:
    """Yield what a page shows of a document's sections; those that a suite has not are left out."""
    yield from _default(sections)
    if "against_random" in sections:
        yield from _against_random(sections)
    if "against_fallback" in sections:
        yield from _against_fallback(sections)
    if "against_best_heuristic" in sections:
        yield from _comparisons(sections)


def _default(sections: Mapping[str, Any]) -> Iterator[Block]:
    ranking = sections["default"]
    if not ranking:
        return
    yield Heading(2, "Who would be the default")
    yield Text(
        f"By the utility over all validation scenarios, each policy with its own defaults: "
        f"**`{ranking[0]['policy']}`**. Test scenarios have no say in it."
    )
    rows = [
        (f"`{r['policy']}`", str(at), format_estimate(r["utility"], 1, 4), r["worst"], f"{r['behind']:.4f}")
        for at, r in enumerate(ranking, 1)
    ]
    yield Table(("policy", "", "utility", "furthest behind the best in", "by"), rows)


def _against_fallback(sections: Mapping[str, Any]) -> Iterator[Block]:
    yield Heading(2, "Against the fallback")
    yield Table(
        ("scenario", "servers", "utility lost %", "decisions of the guard's fallback %"),
        [
            (
                *(row["scenario"], str(row["servers"])),
                *(format_estimate(row["utility_lost"], 1e2, 2), format_value(row["fallback_ratio"], 1e2, 2)),
            )
            for row in sections["against_fallback"]
        ],
    )


def _against_random(sections: Mapping[str, Any]) -> Iterator[Block]:
    for baseline, compared in sections["against_random"].items():
        yield Heading(2, f"Against `{baseline}`")
        reading = "By how much less or more than it on the same traces; positive is better in every column."
        yield Text(" ".join(filter(None, (reading, sections["left_out"]))))
        names = ("mean_latency_less", "p99_latency_less", "attributed_energy_less", "true_energy_less", "accuracy_more")
        rows = [
            (row["scenario"], f"`{row['policy']}`", *(format_estimate(row[name], 1e2, 2) for name in names))
            for row in compared
        ]
        head = ("mean latency %", "p99 %", "latency-attributed energy %", "true energy %", "accuracy points")
        yield Table(("scenario", "policy", *head), rows)


_BASELINES: Final = (
    ("against_best_heuristic", "Against the best tuned heuristic of all"),
    ("against_best_of_literature", "Against the best tuned heuristic of the literature"),
)


def _comparisons(sections: Mapping[str, Any]) -> Iterator[Block]:
    yield Heading(2, "Against the best tuned heuristic of each scenario")
    yield Text(
        "Heuristics and operating points were chosen on the validation file. The best point is the one of the most "
        "utility there, the thrifty one that of the least joules that equals the heuristic's attainment and accuracy, "
        "the accurate one the most accurate that equals its attainment and joules. Bounds are fluid: no policy gets "
        "there, and how near one can get is not known."
    )
    by_utility, comparisons = sections["by_utility"], sections["against_best_heuristic"]
    closed = format_estimate(by_utility["mean_share_of_gap_closed"], 1e2, 1)
    yield Text(
        f"By utility the best point is ahead of the best tuned heuristic of all in **{by_utility['higher']}** of "
        f"{len(comparisons)} scenarios with the interval above 0, behind in **{by_utility['lower']}** with it below "
        f"0, and undecided in **{by_utility['undecided']}**. On a random trace it has more with a probability of "
        f"{format_estimate(by_utility['probability_of_improvement'], 1, 3)}. Of what lies between that heuristic and "
        f"the bound it gains {closed} %, mean of the {by_utility['scenarios_with_a_gap']} scenarios where anything "
        "does."
    )
    for key, title in _BASELINES:
        rows = sections[key]
        yield Heading(3, title)
        yield Table(
            ("scenario", "best heuristic", "its utility", "best point", "utility more", "", "bound", "share gained %"),
            [_by_utility(row) for row in rows],
        )
        yield Table(
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

    yield from _oracle_windows(sections["clairvoyant"])


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
        yield Table(
            ("scenario", "requests", "best heuristic", "of the bound %", "best point", "of the bound %", "plan %"),
            [
                (
                    *(row["scenario"], str(row["requests"])),
                    *(f"`{row['heuristic']}`", format_value(row["share_of_heuristic"], 1e2, 1)),
                    *(f"`{row['point']}`", format_value(row["share_of_point"], 1e2, 1)),
                    format_value(row["share_of_plan"], 1e2, 1),
                )
                for row in seen
            ],
        )


def _by_utility(row: Mapping[str, Any]) -> tuple[str, ...]:
    return (
        row["scenario"],
        f"`{row['spec']}`" + ("" if row["is_tuned"] else " (not tuned)"),
        format_value(row["utility"], 1, 4),
        f"`{row['best_point']}`",
        format_estimate(row["utility_more"], 1, 4),
        row["verdict"],
        format_value(row["most_utility_by_fluid_bound"], 1, 4),
        format_estimate(row["share_of_utility_gap_closed"], 1e2, 1),
    )


def _on_equal_terms(row: Mapping[str, Any]) -> tuple[str, ...]:
    return (
        row["scenario"],
        f"`{row['point']}`",
        format_estimate(row["joules_less"], 1e2, 2),
        "yes" if row["is_equal"] else "no",
        format_value(row["most_joules_less_by_fluid_bound"], 1e2, 2),
        format_estimate(row["share_of_joules_gap_closed"], 1e2, 1),
        f"`{row['accurate_point']}`",
        format_estimate(row["accuracy_more"], 1e2, 2),
        "yes" if row["is_frugal"] else "no",
    )
