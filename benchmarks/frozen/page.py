"""What the page of the frozen test shows of what was compared."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from benchmarks.frozen.bars import EVOLUTION, FITTED, PPO
from orchestrator.evaluation.page import format_value
from orchestrator.learning.fitting import PPO_EVOLVED
from orchestrator.reporting.blocks import Block, Bullets, Heading, Table, Text

_LEFT_OUT: Final = (
    "Callers who wait for their answers before they send again, instances that share a device, throttling that comes "
    "of load, and loads and unloads by the controller's plan at their price: the simulator had none of them when the "
    "scenarios were drawn.",
    "Several gateways, but for their late reports: no scenario can say them.",
    "Unlike floors and preferences in one queue. Families have them, each with a queue of its own.",
    "Host watts beside the board's: profiles are computed and know the board alone.",
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
        "deadlines, so days and crowds are compressed there. PPO can't learn of several families; for tenants it "
        f"counts as `{single}`."
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
            *("best unfitted on these traces", "bound", "share %", "joules less %", "promoted", "choices of PPO"),
        ),
        [
            (
                *(row["scenario"], str(row["servers"]), f"{row['requests_a_deadline']:.0f}"),
                *(f"{row['utilities'][name]:.4f}" for name in names),
                f"`{row['best_unfitted']}` {row['utilities'][row['best_unfitted']]:.4f}",
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
