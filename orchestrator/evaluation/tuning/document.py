"""The two files that tuning leaves: the best of each policy, and every trial with how all was done.

FILE maps the stem of a scenario to policies to ``{"spec": …}`` with its figures: what ``slimsched evaluate`` reads.
Beside it FILE's ``.trials.json`` holds ``provenance`` and of every trial its spec, its utility and its figures, in the
order that ``columns`` says.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from orchestrator.errors import ConfigError
from orchestrator.evaluation.tuning.campaign import FIGURES, FIRST_SEED, Extent, Trial, Trials, best_of
from orchestrator.evaluation.tuning.space import BUCKETS, RANKS, SEARCHED
from orchestrator.files import write_atomically
from orchestrator.simulation.utility import EXCHANGE

_DIGITS = 6


def trials_path(path: Path) -> Path:
    """Return where the trials of a file of tuned policies lie."""
    return path.with_suffix(".trials.json")


def describe_tuning(
    scenarios: Sequence[Path], policies: Sequence[str], extent: Extent, out: Path, *, duration_s: float, processes: int
) -> dict[str, Any]:
    """Return how a file of tuned policies came about, as JSON values: the command that makes it again, and what it did.

    Scenarios (files and folders) and policies are those that were asked for; no policies: all.
    """
    parts = ["slimsched tune", *(f"--scenario {s}" for s in scenarios), *(f"--policy {p}" for p in policies)]
    parts += [f"--{key} {value}" for key, value in asdict(extent).items() if value is not None]
    return {
        "command": " ".join([*parts, f"--out {out}"]),
        **asdict(extent),
        "trace_seeds": [FIRST_SEED + at for at in range(extent.traces)],
        "utility": f"effective accuracy - {EXCHANGE:.4g} * joules an answer / most joules a request",
        "searched": {**SEARCHED, "buckets": BUCKETS, "numbers of a knob of servers": RANKS},
        "duration_s": round(duration_s),
        "processes": processes,
    }


def write_tuned(path: Path, trials: Trials, provenance: Mapping[str, Any]) -> None:
    """Write both files, each as a whole or not at all.

    Raises:
        ConfigError: when one can't be written.
    """
    best: dict[str, dict[str, Any]] = {}
    every: dict[str, dict[str, Any]] = {}
    for (stem, policy), own in trials.items():
        chosen = best_of(own)
        best.setdefault(stem, {})[policy] = {"spec": chosen.spec, **_figures(chosen)}
        every.setdefault(stem, {})[policy] = [[trial.spec, *_figures(trial).values()] for trial in own]
    _write(trials_path(path), {"provenance": provenance, "columns": ["spec", "utility", *FIGURES], "trials": every}, 3)
    _write(path, best, 2)


def _figures(trial: Trial) -> dict[str, float | None]:
    figures = dict(zip(("utility", *FIGURES), (trial.utility, *trial.figures), strict=True))
    return {name: None if value is None else float(f"{value:.{_DIGITS}g}") for name, value in figures.items()}


def _write(path: Path, values: Mapping[str, Any], depth: int) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, _render(values, depth) + "\n")
    except OSError as exc:
        raise ConfigError(f"can't write {path} ({exc}); choose another place with --out") from exc


def _render(values: Any, depth: int, indent: str = "") -> str:
    """Return JSON that is spread over lines down to a depth and has one line for each value below it."""
    if depth == 0 or not values or not isinstance(values, dict | list):
        return json.dumps(values, ensure_ascii=False, allow_nan=False)
    inner = indent + " "
    if isinstance(values, list):
        rows = [_render(value, depth - 1, inner) for value in values]
        return "[\n" + ",\n".join(inner + row for row in rows) + f"\n{indent}]"
    rows = [f"{json.dumps(key)}: {_render(value, depth - 1, inner)}" for key, value in values.items()]
    return "{\n" + ",\n".join(inner + row for row in rows) + f"\n{indent}}}"
