"""What the pages of suites show of what was compared."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from orchestrator.evaluation.page import format_estimate
from orchestrator.reporting.blocks import Block, Heading, Table, Text


def show_sections(sections: Mapping[str, Any]) -> Iterator[Block]:
    """Yield what a page shows of a document's sections; those that a suite has not are left out."""
    if sections.get("tested"):
        yield Heading(2, "Policies over all scenarios")
        yield _ranking(sections["tested"])
    if sections["default"]:
        yield Heading(2, "Who would be the default")
        yield Text(
            f"By the utility over all validation scenarios, each policy with its own defaults: "
            f"**`{sections['default'][0]['policy']}`**. Test scenarios have no say in it."
        )
        yield _ranking(sections["default"])
    if "against_random" in sections:
        yield from _against_random(sections)


def _ranking(ranking: Sequence[Mapping[str, Any]]) -> Table:
    rows = [
        (f"`{r['policy']}`", str(at), format_estimate(r["utility"], 1, 4), r["worst"], f"{r['behind']:.4f}")
        for at, r in enumerate(ranking, 1)
    ]
    return Table(("policy", "", "utility", "furthest behind the best in", "by"), rows)


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
