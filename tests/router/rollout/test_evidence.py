"""How sure a difference is, whenever one looks."""

from __future__ import annotations

import math
import statistics

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from pytest import approx

from orchestrator.router.rollout.evidence import Evidence

DIFFERENCES = st.lists(st.floats(-1, 1), min_size=3, max_size=50)


def shown(differences: list[float]) -> Evidence:
    evidence = Evidence()
    for difference in differences:
        evidence = evidence.added(difference, 10)
    return evidence


@given(DIFFERENCES)
def test_mean_and_variance_are_those_of_all_blocks(differences: list[float]) -> None:
    evidence = shown(differences)
    assert (evidence.blocks, evidence.requests) == (len(differences), 10 * len(differences))
    assert evidence.mean == approx(statistics.fmean(differences), abs=1e-12)
    assert evidence.squares / (len(differences) - 1) == approx(statistics.variance(differences), abs=1e-12)


@given(DIFFERENCES, st.floats(-0.5, 0.5))
def test_the_interval_does_not_depend_on_the_mean_and_narrows_as_the_same_goes_on(
    differences: list[float], shift: float
) -> None:
    assert shown([each + shift for each in differences]).half == approx(shown(differences).half, abs=1e-9)
    assert shown(differences * 4).half < shown(differences).half


def test_fewer_than_three_blocks_say_nothing() -> None:
    assert shown([]).half == shown([-1.0, -1.0]).half == math.inf
    assert shown([-1.0] * 3).mean + shown([-1.0] * 3).half < 0


def test_who_looks_after_every_block_is_misled_in_no_more_than_one_of_twenty_runs() -> None:
    """1,000 runs of 200 blocks each, of what is no better and no worse; by a 95 % interval of one look it is half."""
    rng = np.random.default_rng(0)
    for scale in (0.01, 0.05, 0.2):
        misled = 0
        for run in rng.normal(0.0, scale, (300, 200)):
            evidence = Evidence()
            for difference in run.tolist():
                evidence = evidence.added(difference, 1)
                if abs(evidence.mean) > evidence.half:
                    misled += 1
                    break
        assert misled <= 0.05 * 300
