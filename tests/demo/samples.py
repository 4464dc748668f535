"""Comparisons made by hand: baselines whose requests are due at equal distances, and what became of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from orchestrator.demo.baselines import DEFAULT, Baseline
from orchestrator.demo.results import Comparison, Turn
from orchestrator.loadgen.records import OK, Records
from orchestrator.snapshot import Width

DEADLINE_S = 0.1
SECONDS = 2.4
"""So that each part of a timeline is a tenth of a second."""
NARROWEST, PLAIN = "always 25 %", "plain Triton"
BASELINES = (
    Baseline(DEFAULT, "as it comes"),
    Baseline(NARROWEST, "the <narrowest> width", policy="lert:25", width=Width(25)),
    Baseline(PLAIN, "in turn", model="fashion_w100", width=Width(100)),
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
        np.where(answered, "lert", ""),
        np.arange(count) < right,
        np.full(count, np.nan),
        {},
    )


def make_comparison(turns: Sequence[Turn], *, baselines: Sequence[Baseline] = BASELINES, wanted: int = 2) -> Comparison:
    return Comparison(
        setting=("one sentence", "another & more"),
        servers=(("fast", "one core"), ("slow", "emulated 3× slower")),
        widths=(Width(25), Width(100)),
        capacity_rps=50.0,
        seconds=SECONDS,
        deadline_s=DEADLINE_S,
        baselines=tuple(baselines),
        wanted=wanted,
        turns=tuple(turns),
    )


def two_rounds(right: dict[str, tuple[int, int]]) -> Comparison:
    """Return baselines; so many in a thousand requests of each round were right and in time, the others late."""
    turns = [
        Turn(baseline.name, make_records(right=right[baseline.name][number], late=1000 - right[baseline.name][number]))
        for number in range(2)
        for baseline in BASELINES
        if baseline.name in right
    ]
    return make_comparison(turns, baselines=[baseline for baseline in BASELINES if baseline.name in right])
