"""Comparisons made by hand: rivals whose requests are due at equal distances, and what became of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from orchestrator.demo.results import Comparison, Turn
from orchestrator.demo.rivals import DEFAULT, Rival
from orchestrator.loadgen.records import OK, Records
from orchestrator.snapshot import Width

DEADLINE_S = 0.1
SECONDS = 2.4
"""So that each part of a timeline is a tenth of a second."""
NARROWEST, PLAIN = "always 25 %", "plain Triton"
RIVALS = (
    Rival(DEFAULT, "as it comes"),
    Rival(NARROWEST, "the <narrowest> width", policy="lert:25", width=Width(25)),
    Rival(PLAIN, "in turn", model="fashion_w100", width=Width(100)),
)


def make_records(
    *, right: int, wrong: int = 0, late: int = 0, refused: int = 0, width: int = 100, server: str = "fast"
) -> Records:
    """Return records of so many requests, in that order over the whole time."""
    count = right + wrong + late + refused
    due_s = np.arange(count) * SECONDS / count
    took_s = np.repeat([0.02, 0.02, 0.5, 0.001], [right, wrong, late, refused])
    status = np.repeat([OK, OK, OK, "RESOURCE_EXHAUSTED"], [right, wrong, late, refused])
    answered = status == OK
    return Records(
        due_s,
        due_s,
        due_s + took_s,
        status,
        np.where(answered, width, 0),
        np.where(answered, server, ""),
        np.where(answered, "a-1", ""),
        np.arange(count) < right,
        np.full(count, np.nan),
        {},
    )


def make_comparison(turns: Sequence[Turn], *, rivals: Sequence[Rival] = RIVALS, wanted: int = 2) -> Comparison:
    return Comparison(
        setting=("one sentence", "another & more"),
        servers=(("fast", "one core"), ("slow", "emulated 3× slower")),
        widths=(Width(25), Width(100)),
        capacity_rps=50.0,
        seconds=SECONDS,
        deadline_s=DEADLINE_S,
        rivals=tuple(rivals),
        wanted=wanted,
        turns=tuple(turns),
    )


def two_rounds(right: dict[str, tuple[int, int]]) -> Comparison:
    """Return rivals of which so many in a thousand requests were right and in time in each round, the others late."""
    turns = [
        Turn(rival.name, make_records(right=right[rival.name][number], late=1000 - right[rival.name][number]))
        for number in range(2)
        for rival in RIVALS
        if rival.name in right
    ]
    return make_comparison(turns, rivals=[rival for rival in RIVALS if rival.name in right])
