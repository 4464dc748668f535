"""The report of real traffic as a page, and as JSON."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

from orchestrator.reporting.blocks import Block, Heading, Table, Text, render_html, render_markdown, say_figure
from orchestrator.traffic.recorded import Recorded, TrafficFigures, figures_of
from orchestrator.traffic.replay import errors_of

_COLUMNS: tuple[tuple[str, str, float, str], ...] = (
    ("right in time", "effective_accuracy", 1.0, ".4f"),
    ("in time", "attainment_ratio", 1.0, ".2%"),
    ("accuracy", "accuracy", 1.0, ".4f"),
    ("mean ms", "mean_s", 1e3, ".2f"),
    ("p50 ms", "p50_s", 1e3, ".2f"),
    ("p99 ms", "p99_s", 1e3, ".2f"),
    ("batch", "mean_batch", 1.0, ".2f"),
    ("J/answer", "joules_per_answer", 1.0, ".3g"),
)
_AS_RECORDED = "as recorded"
_BELIEVABLE = {"attainment_ratio": 0.02, "accuracy": 0.01, "mean_s": 0.1, "p99_s": 0.2}
"""How far the simulator may be off before the page says so."""


def render_report(
    traffic: Recorded, sample_ratio: float, replayed: Mapping[str, TrafficFigures], no_replay: str
) -> dict[str, str]:
    """Return the files of the report by name; ``no_replay`` says what was not replayed and why, if any."""
    blocks = list(_blocks(traffic, sample_ratio, replayed, no_replay))
    document: dict[str, Any] = {
        "family": traffic.family,
        "sample_ratio": sample_ratio,
        "requests": len(traffic.items),
        "batches": traffic.batches,
        "failed_batches": traffic.failed_batches,
        "duration_s": traffic.duration_s,
        "refused": traffic.refused.counts,
        "counts": traffic.counts,
        "recorded": asdict(figures_of(traffic)),
        "replayed": {name: asdict(figures) for name, figures in replayed.items()},
        "no_replay": no_replay,
    }
    return {
        "traffic.md": render_markdown(blocks),
        "traffic.html": render_html(blocks),
        "traffic.json": json.dumps(document, indent=1) + "\n",
    }


def decided_mostly(traffic: Recorded) -> str:
    """Return the policy that has decided about most requests."""
    return next(iter(traffic.counts["policy"]))


def _blocks(
    traffic: Recorded, sample_ratio: float, replayed: Mapping[str, TrafficFigures], no_replay: str
) -> Iterator[Block]:
    recorded, refused = figures_of(traffic), len(traffic.refused.items)
    came = len(traffic.items) + refused
    began, ended = (time.strftime("%Y-%m-%d %H:%M", time.gmtime(traffic.arrived_unix_s[at])) for at in (0, -1))
    logged = "all" if sample_ratio == 1 else f"{sample_ratio:.3g} of the"
    yield Heading(1, f"Traffic of {traffic.family}")
    yield Text(
        f"{len(traffic.items):,} requests in {traffic.batches:,} batches from {began} to {ended} UTC, of a log of "
        f"{logged} decisions; {traffic.failed_batches:,} batches failed. {refused:,} more were refused "
        f"for load, {refused / came:.1%} of all; they count as not in time. What is above a quota is not in the log."
    )
    yield Table(("", *(title for title, *_ in _COLUMNS)), [[_AS_RECORDED, *_cells(recorded)]])
    if refused:
        rows = [[reason, f"{count:,}", f"{count / came:.1%}"] for reason, count in traffic.refused.counts.items()]
        yield Table(("refused", "requests", "part of all"), rows)
    for kind in ("width", "server", "policy", "reason", "fault"):
        if counts := traffic.counts[kind]:
            rows = [[name, f"{count:,}", f"{count / len(traffic.items):.1%}"] for name, count in counts.items()]
            yield Table((kind, "requests", "part"), rows)
    yield Heading(2, "What other policies would have made of it")
    if not replayed:
        yield Text(f"Nothing was replayed: {no_replay}.")
        return
    yield Text(
        "The recorded arrivals, sizes and deadlines in the simulator, on the servers of `router.profile`."
        + ("" if sample_ratio == 1 else " Their times are compressed to the load that there was.")
        + " Simulated joules include idling; recorded ones are above idle."
    )
    own = [[f"`{name}`", *_cells(figures)] for name, figures in replayed.items()]
    yield Table(("policy", *(title for title, *_ in _COLUMNS)), [[_AS_RECORDED, *_cells(recorded)], *own])
    if no_replay:
        yield Text(f"Not replayed: {no_replay}.")
    yield Heading(2, "How far the simulator can be believed")
    yield from _fidelity(decided_mostly(traffic), recorded, replayed)


def _fidelity(policy: str, recorded: TrafficFigures, replayed: Mapping[str, TrafficFigures]) -> Iterator[Block]:
    if policy not in replayed:
        yield Text(f"That is not known: `{policy}`, which decided, was not replayed.")
        return
    errors = errors_of(recorded, replayed[policy])
    words = {name: (title, scale, form) for title, name, scale, form in _COLUMNS}
    rows = []
    for name, error in errors.items():
        title, scale, form = words[name]
        real, simulated = (getattr(each, name) for each in (recorded, replayed[policy]))
        off = "-" if error is None else f"{error:+.1%}" if name.endswith("_s") else f"{error:+.4f}"
        rows.append([title, *(say_figure(value, form, scale) for value in (real, simulated)), off])
    yield Table(("", "recorded", f"`{policy}` simulated", "off by"), rows)
    far = [words[name][0] for name, error in errors.items() if error is None or abs(error) > _BELIEVABLE[name]]
    yield Text(
        f"The simulator is far off in {', '.join(far)}: differences between policies of that size say nothing."
        if far
        else "The simulator gives what was recorded; differences well above these errors can be believed."
    )


def _cells(figures: TrafficFigures) -> list[str]:
    return [say_figure(getattr(figures, name), form, scale) for _, name, scale, form in _COLUMNS]
