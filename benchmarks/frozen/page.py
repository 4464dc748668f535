"""What the page of the frozen test shows of what was compared."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from benchmarks.frozen.bars import EVOLUTION, FITTED, PPO
from orchestrator.evaluation.page import format_value
from orchestrator.learning.fitting import PPO_EVOLVED
from orchestrator.reporting.blocks import Block, Bullets, Heading, Table, Text

_LEFT_OUT: Final = (
    "What other gateways do: of several only that servers go to them and come back, and that reports come late.",
    "What machines really take: profiles are computed, and of few kinds held against published figures "
    "([profiles.md](../profiles.md#synthetic-profiles)).",
    "Real servers (`make bench-real`) and the time of a decision (`make bench-decisions`) have pages of their own.",
)


def show_sections(sections: Mapping[str, Any]) -> Iterator[Block]:
    """Yield what a page shows of a document's sections."""
    single, fallback, compared = sections["single"], sections["fallback"], sections["compared"]
    yield Heading(2, "What was done")
    yield Text(
        "`benchmarks/frozen/drawing.py` drew the scenarios, two of each kind, and they were committed with the digest "
        f"`{sections['scenarios_digest']}` before anything was fitted to them. This is the first run on them, and "
        "nothing was tuned after it."
    )
    yield Text(
        f"Every policy that ships ran on validation traces. `{single}` has the most mean utility there and is the best "
        "single policy for all. It was in force where policies were fitted, as `slimsched train-router` does it: "
        f"`{EVOLUTION}` is the best rule that was evolved, `{PPO}` what PPO made of the best rule as it is, each in "
        f"{sections['seconds']:g} s of processor time on one core; `{PPO_EVOLVED}` learned as long again on top of the "
        f"former. `{FITTED}` is what of all these was promoted on held-out traces, else `{single}`. Validation, "
        "learning, promotion and the judgement have traces of seeds of their own. A fit learns from windows of 60 "
        "deadlines, so days and crowds are compressed there. By itself each rule that a fit tries was tuned, by CMA-ES "
        f"over four traces a generation, in {sections['rule_seconds']:g} s of processor time each."
    )
    yield Heading(2, "Utility in each scenario")
    yield Text(
        "Means over traces, to judge by. The bound is that of each moment: ten deadlines at a time, without failures "
        "and throttling. The share is the part of what lies between the best single policy and the bound."
    )
    names = (single, fallback, *(name for name in (EVOLUTION, PPO, FITTED)))
    yield Table(
        (
            *("scenario", "servers", "requests a deadline", *(f"`{name}`" for name in names)),
            *(
                "best unfitted on these traces",
                "best tuned rule on these traces",
                "bound",
                "share %",
                "joules less %",
                "promoted",
                "choices of PPO",
            ),
        ),
        [
            (
                *(row["scenario"], str(row["servers"]), f"{row['requests_a_deadline']:.0f}"),
                *(f"{row['utilities'][name]:.4f}" for name in names),
                f"`{row['best_unfitted']}` {row['utilities'][row['best_unfitted']]:.4f}",
                f"`{row['best_tuned']}` {row['best_tuned_utility']:.4f}",
                *(format_value(row["bound"], 1, 4), format_value(row["share_of_gap"], 1e2, 0)),
                format_value(row["joules_less"], 1e2, 1),
                *(f"`{row['specs'][FITTED]}` ({row['promoted']})", f"{row['choices']:,}"),
            )
            for row in compared
        ],
    )
    yield Text("Joules less are told where accuracy is within 0.2 points and the part in time within 0.1 points.")
    yield Heading(2, "Every policy that ships")
    ranked = [row["policy"] for row in sections["ranking"]]
    means = {row["policy"]: row["utility"] for row in sections["ranking"]}
    tested = {name: sum(row["utilities"][name] for row in compared) / len(compared) for name in ranked}
    yield Table(
        ("policy", "mean utility on validation traces", "on test traces"),
        [(f"`{name}`", f"{means[name]:.4f}", f"{tested[name]:.4f}") for name in ranked],
    )
    yield Bullets("What the scenarios do not say", _LEFT_OUT)
