"""What a learned policy sees of candidates, as arrays, and how its network scores them, by matrix products."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from orchestrator.decision import Candidate
from orchestrator.policies import Situation
from orchestrator.policies.learned.actions import ACTIONS, HOLD_ACTION
from orchestrator.policies.learned.decide import new_view, observe, parse_base
from orchestrator.policies.learned.features import BASE_CHOICE, FEATURES
from orchestrator.policies.learned.network import BASE_HOLDS, HIDDEN
from orchestrator.policies.memory import new_memory
from orchestrator.policies.tables import columns as col
from orchestrator.policies.tables.compiled import new_column, new_table
from orchestrator.policies.tables.row_values import write_candidate, write_query

Floats = NDArray[np.float64]


def seen(
    candidates: Sequence[Candidate],
    situation: Situation,
    *,
    base: str = "lert:slack",
    preference: tuple[float, float, float] = (0.5, 0.3, 0.2),
) -> tuple[Floats, Floats, Floats, list[int]]:
    """Return lines and context and mask, and the rows that are considered."""
    names = sorted({c.server for c in candidates})
    widths = sorted({c.width for c in candidates})
    rows, query, view = (
        new_table(col.ROW_FIELDS, len(candidates)),
        new_column(col.QUERY_FIELDS),
        new_view(len(candidates)),
    )
    for row, candidate in enumerate(candidates):
        write_candidate(rows, row, candidate, names.index(candidate.server), widths.index(candidate.width))
    write_query(query, situation)
    weights = new_column(3)
    for at, value in enumerate(preference):
        weights[at] = value
    considered, allowed = observe(
        parse_base(base).numbers, new_memory(len(names), len(widths)), rows, len(candidates), query, weights, view
    )
    mask = np.array(view.mask)
    assert allowed == mask.sum()
    return (
        np.array(view.lines)[:considered],
        np.array(view.context),
        mask,
        [int(view.chosen[line]) for line in range(considered)],
    )


def numpy_scores(
    weights: Mapping[str, NDArray[np.float32]], lines: NDArray[Any], context: NDArray[Any], strength: float
) -> Floats:
    """Return the scores of all actions, from the features of the candidates that are considered."""
    x, w = lines.astype(np.float32).reshape(-1, FEATURES), weights
    h = np.maximum(x @ w["row_in.weight"] + w["row_in.bias"], 0)
    h = np.maximum(h @ w["row_mid.weight"] + w["row_mid.bias"], 0)
    mean, most = (h.mean(axis=0), h.max(axis=0)) if len(x) else (np.zeros(HIDDEN), np.zeros(HIDDEN))
    g = np.maximum(np.concatenate([mean, most, context]) @ w["pool.weight"] + w["pool.bias"], 0)
    shared = g @ w["score_pool.weight"] + w["score.bias"]
    found = np.maximum(h @ w["score_row.weight"] + shared, 0) @ w["out.weight"] + w["out.bias"]
    scores = np.zeros(ACTIONS)
    scores[: len(x)] = strength * x[:, BASE_CHOICE] + found
    scores[HOLD_ACTION] = strength * context[BASE_HOLDS] + (g @ w["hold.weight"] + w["hold.bias"])[0]
    return scores
