from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.router.servers.probing import ReferenceConsensus, Scores, agree, read_scores
from orchestrator.snapshot import ServerName

A, B, C, D = (ServerName(name) for name in "abcd")
RIGHT, NEARLY, WRONG, OTHER = (1.0, -8.0, 3.0), (1.01, -7.95, 3.02), (3.0, 1.0, -8.0), (0.0, 0.0, 1.0)
TOLERANCE = 0.02


def answered(
    *answers: tuple[ServerName, Scores | None], consensus: ReferenceConsensus | None = None, is_alone: bool = True
) -> ReferenceConsensus:
    consensus = consensus or ReferenceConsensus()
    for server, scores in answers:
        consensus = consensus.after_answer(server, scores, TOLERANCE, is_alone=is_alone)
    return consensus


@pytest.mark.parametrize(
    ("answers", "wrong"),
    [
        ([(A, RIGHT)], set()),
        ([(A, RIGHT), (A, RIGHT), (A, WRONG)], {A}),
        ([(A, RIGHT), (B, NEARLY)], set()),
        ([(A, RIGHT), (B, WRONG)], set()),
        ([(A, WRONG), (B, RIGHT), (C, NEARLY)], {A}),
        ([(A, RIGHT), (B, WRONG), (C, OTHER)], set()),
        ([(A, RIGHT), (B, RIGHT), (B, WRONG)], {B}),
        ([(A, RIGHT), (A, RIGHT), (B, WRONG)], {B}),
        ([(A, RIGHT), (B, RIGHT), (C, WRONG), (D, WRONG)], {C, D}),
        ([(A, WRONG), (A, WRONG), (B, RIGHT), (C, RIGHT)], {A}),
        ([(A, RIGHT), (B, WRONG), (B, RIGHT)], set()),
        ([(A, None)], {A}),
        ([(A, RIGHT), (B, None)], {B}),
        ([(A, RIGHT), (B, RIGHT[:2])], set()),
    ],
)
def test_who_contradicts_what_was_agreed_or_gives_no_answer_is_wrong(
    answers: Sequence[tuple[ServerName, Scores | None]], wrong: set[ServerName]
) -> None:
    assert answered(*answers).wrong(TOLERANCE) == wrong


def test_a_contradiction_that_nobody_can_decide_is_seen() -> None:
    assert answered((A, RIGHT), (B, WRONG)).is_disputed
    assert not answered((A, RIGHT), (B, WRONG), (C, RIGHT)).is_disputed
    assert not answered((A, RIGHT), (A, RIGHT), (B, WRONG)).is_disputed
    assert not answered((A, None), (B, RIGHT)).is_disputed


def test_an_answer_given_twice_decides_nothing_while_another_server_is_still_to_answer() -> None:
    assert answered((A, WRONG), (A, WRONG), (B, RIGHT), is_alone=False).is_disputed


def test_the_reference_outlives_the_servers_that_gave_it() -> None:
    alone = answered((A, RIGHT), (B, RIGHT)).without([A, B])
    assert answered((C, WRONG), consensus=alone).wrong(TOLERANCE) == {C}
    assert answered((C, NEARLY), consensus=alone).wrong(TOLERANCE) == frozenset()


scores = st.tuples(*[st.floats(-100, 100)] * 3)


@given(right=scores, wrong=scores, size=st.integers(2, 6), order=st.permutations(range(7)))
def test_one_against_many_is_always_the_wrong_one(
    right: Scores, wrong: Scores, size: int, order: Sequence[int]
) -> None:
    if agree(right, wrong, TOLERANCE):
        return
    answers = [(ServerName(f"s{n}"), right) for n in range(size)] + [(ServerName("odd"), wrong)]
    ordered = [answers[n] for n in order if n < len(answers)]
    assert answered(*ordered).wrong(TOLERANCE) == {"odd"}


@given(st.lists(st.tuples(st.sampled_from([A, B, C]), st.none() | scores), max_size=20))
def test_never_is_everybody_wrong_who_gave_an_answer_that_a_majority_gave(
    answers: list[tuple[ServerName, Scores | None]],
) -> None:
    consensus = answered(*answers)
    valid = {name: scores for name, scores in consensus.answers.items() if scores is not None}
    wrong = consensus.wrong(TOLERANCE)
    for name, scores in valid.items():
        agreeing = [other for other in valid.values() if agree(scores, other, TOLERANCE)]
        if len(agreeing) == len(valid) >= 2 and all(
            agree(a, b, TOLERANCE) for a in valid.values() for b in valid.values()
        ):
            assert name not in wrong or consensus.reference is not None
            assert not (wrong >= valid.keys())


def test_scores_that_are_too_many_or_not_finite_are_no_answer() -> None:
    assert read_scores([1, 2], 2) == (1.0, 2.0)
    assert read_scores([1, 2, 3], 2) is None
    assert read_scores([1, math.nan], 2) is None
    assert read_scores([1, math.inf], 2) is None
