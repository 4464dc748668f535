"""What figures and words are made of records."""

from __future__ import annotations

import numpy as np
import pytest

from orchestrator.demo.baselines import DEFAULT
from orchestrator.demo.results import BINS, Comparison, Turn, fill_in_width, scores, tell_outcome, timeline
from orchestrator.snapshot import Width
from tests.demo.samples import NARROWEST, PLAIN, make_comparison, make_records, two_rounds


def test_a_score_is_of_all_requests_and_tells_each_round() -> None:
    found = scores(two_rounds({DEFAULT: (900, 700), PLAIN: (100, 300)}))
    assert [(score.baseline.name, score.right_in_time, score.by_round) for score in found] == [
        (DEFAULT, 0.8, (0.9, 0.7)),
        (PLAIN, 0.2, (0.1, 0.3)),
    ]
    assert found[0].missed == pytest.approx(0.2)


def test_a_timeline_tells_the_load_who_answered_and_what_was_missed() -> None:
    records = make_records(right=60, wrong=12, late=24, refused=24, width=25)  # a load of 1 for 2.4 s, 5 in each part
    course = timeline(make_comparison([Turn(DEFAULT, records), Turn(DEFAULT, records)]), DEFAULT)
    assert course.load.tolist() == pytest.approx([1.0] * BINS, abs=0.21)  # one more or less at the edge of a part
    assert course.load.sum() == pytest.approx(BINS)
    assert course.answered[Width(25)][:14].tolist() == [1.0] * 14
    assert not course.answered[Width(100)].any()
    assert course.missed[15:].tolist() == [1.0] * 9
    shares = course.missed + sum(course.answered.values())
    assert np.allclose(shares, 1.0)


def test_a_part_in_which_nothing_was_due_is_empty_and_not_missed() -> None:
    course = timeline(make_comparison([Turn(DEFAULT, make_records(right=2))]), DEFAULT)
    assert course.missed.sum() == 0
    assert course.answered[Width(100)].sum() == 2


@pytest.mark.parametrize(
    ("right", "headline", "sentence"),
    [
        (
            {DEFAULT: (940, 930), NARROWEST: (910, 900), PLAIN: (300, 400)},
            "The default was right and in time more often than any rival",
            "The default answered 93.5% of the requests right and in time, ahead of always 25 % (90.5%) and "
            "plain Triton (35.0%).",
        ),
        (
            {DEFAULT: (940, 930), NARROWEST: (941, 934), PLAIN: (300, 400)},
            "The default was right and in time as often as always 25 %, and nobody more often",
            "The default answered 93.5% of the requests right and in time, level with always 25 % (93.8%), ahead of "
            "plain Triton (35.0%).",
        ),
        (
            {DEFAULT: (940, 930), NARROWEST: (945, 900), PLAIN: (300, 400)},  # each was ahead in one round
            "The default was right and in time as often as always 25 %, and nobody more often",
            "The default answered 93.5% of the requests right and in time, level with always 25 % (92.2%), ahead of "
            "plain Triton (35.0%).",
        ),
        (
            {DEFAULT: (870, 940), NARROWEST: (930, 930), PLAIN: (300, 400)},  # on average is enough to be behind
            "always 25 % was right and in time more often than the default",
            "The default answered 90.5% of the requests right and in time, behind always 25 % (93.0%), ahead of "
            "plain Triton (35.0%).",
        ),
        (
            {DEFAULT: (900, 900), NARROWEST: (930, 930), PLAIN: (990, 990)},
            "plain Triton was right and in time more often than the default",
            "The default answered 90.0% of the requests right and in time, behind always 25 % (93.0%) and "
            "plain Triton (99.0%).",
        ),
        ({NARROWEST: (930, 930), PLAIN: (990, 990)}, "plain Triton: 99.0% right and in time", None),
        ({DEFAULT: (930, 930)}, "default: 93.0% right and in time", None),
    ],
)
def test_the_headline_says_what_the_figures_say_also_where_the_default_is_behind(
    right: dict[str, tuple[int, int]], headline: str, sentence: str | None
) -> None:
    said = tell_outcome(scores(two_rounds(right)))
    assert said[0] == headline
    assert sentence is None or said[1] == sentence


def interrupted_after(turns: int) -> Comparison:
    whole = two_rounds({DEFAULT: (900, 500), NARROWEST: (800, 600), PLAIN: (100, 100)})
    return make_comparison(whole.turns[:turns])


def test_of_an_interrupted_comparison_the_rounds_count_that_met_all() -> None:
    assert [score.by_round for score in scores(interrupted_after(5))] == [(0.9,), (0.8,), (0.1,)]
    assert not interrupted_after(5).is_whole
    assert interrupted_after(6).is_whole


def test_of_a_first_round_that_was_interrupted_counts_what_there_is() -> None:
    assert [score.baseline.name for score in scores(interrupted_after(2))] == [DEFAULT, NARROWEST]


def test_who_has_one_width_and_does_not_say_so_answers_with_that() -> None:
    records = make_records(right=2, refused=1, width=0)
    assert fill_in_width(records, Width(100)).width.tolist() == [100, 100, 0]
    assert fill_in_width(records, None).width.tolist() == [0, 0, 0]
    assert fill_in_width(make_records(right=1, width=50), Width(100)).width.tolist() == [50]
