"""What a learned policy sees of candidates, as arrays."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from orchestrator.decision import Candidate
from orchestrator.policies import Situation
from orchestrator.policies.learned.decide import new_view, observe, parse_base
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
