"""What a learned policy sees of candidates, as arrays, and how its network scores them, by matrix products."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from orchestrator.decision import Candidate
from orchestrator.policies.fleet.row_values import write_candidate, write_query
from orchestrator.policies.learned import features as feat
from orchestrator.policies.learned.actions import ACTIONS, BATCHES, FIRST_SEND, HOLD_ACTION, REJECT_ACTION
from orchestrator.policies.learned.decide import choose_base, look, new_room, parse_base, preference_of, view_of
from orchestrator.policies.learned.network import HIDDEN
from orchestrator.policies.protocol import Situation
from orchestrator.policies.tables import columns as col
from orchestrator.policies.tables.compiled import new_column, new_table
from orchestrator.policies.tables.memory import new_memory

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
        view_of(new_room(len(candidates))),
    )
    for row, candidate in enumerate(candidates):
        write_candidate(rows, row, candidate, names.index(candidate.server), widths.index(candidate.width))
    write_query(query, situation)
    numbers = np.concatenate([parse_base(base).numbers, preference])
    memory = new_memory(len(names), len(widths))
    preferred, count = preference_of(numbers), len(candidates)
    choose_base(numbers, memory, rows, count, query, preferred, view)
    considered, allowed = look(memory, rows, count, query, preferred, view)
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
    x, w = lines.astype(np.float32).reshape(-1, feat.FEATURES), weights
    h = np.maximum(x @ w["row_in.weight"] + w["row_in.bias"], 0)
    h = np.maximum(h @ w["row_mid.weight"] + w["row_mid.bias"], 0)
    mean, most = (h.mean(axis=0), h.max(axis=0)) if len(x) else (np.zeros(HIDDEN), np.zeros(HIDDEN))
    g = np.maximum(np.concatenate([mean, most, context]) @ w["pool.weight"] + w["pool.bias"], 0)
    shared = g @ w["score_pool.weight"] + w["score.bias"]
    found = np.maximum(h @ w["score_row.weight"] + shared, 0) @ w["out.weight"] + w["out.bias"]
    scores = np.zeros(ACTIONS)
    found[:, 0] += strength * x[:, feat.BASE_CHOICE]
    scores[FIRST_SEND : FIRST_SEND + BATCHES * len(x)] = found.reshape(-1)
    scores[:FIRST_SEND] = g @ w["unsent.weight"] + w["unsent.bias"]
    scores[HOLD_ACTION] += strength * context[feat.CONTEXT_BASE_HOLDS]
    scores[REJECT_ACTION] += strength * context[feat.CONTEXT_BASE_REJECTS]
    return scores
