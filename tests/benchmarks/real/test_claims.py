"""What is promised of the default follows from the lines that were measured."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.real.cells import BURSTS, Cell, cells_of
from benchmarks.real.claims import NARROWEST, draw_claims
from benchmarks.real.page import make_page
from benchmarks.real.results import Line, by_widths, decode_line, mean_late_s, missed_part, pressed_widths
from benchmarks.real.testbed import DEFAULT, FIXED, RULES, accuracies_of
from orchestrator.loadgen.records import OK, Records
from orchestrator.loadgen.sample import LabelledSample, load_sample
from orchestrator.reporting.claim import Claim

STEADY = Cell("two unlike", 0, "steady", 0.6, 0.1)
BURST = Cell("two unlike", 0, "burst:1000", 1.0, 0.1)
OTHER = Cell("two unlike", 0, "steady", 0.3, 0.1)
ACCURACIES = {"25": 1.0, "100": 1.0}


def line(cell: Cell, set_up: str, in_time: float, number: int = 0, late: float = 0.0) -> Line:
    """Return a line of which all answers are right."""
    return Line(
        cell,
        number,
        set_up,
        100.0,
        in_time,
        in_time,
        late,
        1 - in_time - late,
        1.0,
        0.005,
        0.01,
        0.0,
        {"25": 1.0},
        late / (in_time + late),
        10,
        0,
        0.1,
    )


def claim(lines: list[Line], words: str, where: str = "on a quiet machine") -> Claim:
    """Return the claim whose name holds these words and ends so."""
    (found,) = (c for c in draw_claims(lines, [], ACCURACIES) if words in c.name and c.name.endswith(where))
    return found


def test_each_size_of_bursts_is_measured_beside_every_hog() -> None:
    for hogs in (0, 1):
        bursts = [cell.workload for cell in cells_of("two unlike", hogs) if cell.is_burst]
        assert bursts == [f"burst:{count}" for count in BURSTS]


def test_only_loads_beyond_full_width_are_measured_again() -> None:
    often = [cell for cell in cells_of("two unlike", 0) if cell.rounds(3) == 3]
    assert {cell.ratio for cell in often} == {1.2, 2.0, 4.0}
    assert STEADY.rounds(3) == 1
    assert BURST.rounds(3) == BURST.rounds(1) > 3


def test_of_bursts_the_worst_size_counts_by_the_means_of_its_rounds() -> None:
    small = Cell("two unlike", 0, "burst:100", 1.0, 0.1)
    lines = [line(small, name, 1.0) for name in (DEFAULT, NARROWEST)]
    for number, (own, narrow) in enumerate([(0.2, 0.5), (0.4, 0.3)]):
        lines += [line(BURST, DEFAULT, own, number), line(BURST, NARROWEST, narrow, number)]
    found = claim(lines, "of a burst")
    assert found.value == pytest.approx(0.75)
    assert not found.is_met
    assert "2 sizes" in (found.note or "")


def test_bursts_count_neither_as_cells_nor_as_loads_where_full_width_fits() -> None:
    names = [DEFAULT, *FIXED, *RULES]
    lines = [line(STEADY, name, 0.9) for name in names] + [line(BURST, name, 1.0) for name in names[1:]]
    lines.append(line(BURST, DEFAULT, 0.1))
    assert claim(lines, "behind the best rival of each").value == pytest.approx(0)


def test_which_images_a_run_sent_decides_nothing() -> None:
    lines = [line(STEADY, name, 0.9) for name in (DEFAULT, *FIXED, *RULES)]
    lucky = [replace(each, right_in_time=0.8) if each.set_up == DEFAULT else each for each in lines]
    assert claim(lucky, "behind the best rival of each").value == pytest.approx(0)


def test_an_answer_counts_for_as_often_as_its_width_is_right() -> None:
    mixed = replace(line(STEADY, DEFAULT, 0.9), widths={"25": 0.5, "100": 0.5})
    unknown = replace(mixed, widths={"25": 0.5, "33": 0.5})
    found = by_widths([mixed, unknown], {"25": 0.8, "100": 0.9})
    assert found[0].accuracy == pytest.approx(0.85)
    assert found[0].right_in_time == pytest.approx(0.85 * 0.9)
    assert found[1] == unknown


def test_how_often_a_width_is_right_is_of_the_images_that_are_sent() -> None:
    sample = load_sample(Path("examples/fashion-mnist/test_1000.npz"))
    none = LabelledSample(sample.images, sample.labels + 10)
    assert set(accuracies_of(Path("model_repository"), none).values()) == {0.0}
    found = accuracies_of(Path("model_repository"), sample)
    assert 0.92 < found["25"] < found["100"] < 0.97


def test_of_several_rounds_the_best_baseline_is_the_best_on_average() -> None:
    names = [DEFAULT, *FIXED, *RULES]
    shares = {DEFAULT: (0.9, 0.6), names[1]: (0.9, 0.5), names[2]: (0.6, 0.9)}
    lines = [
        line(STEADY, name, share, number) for name in names for number, share in enumerate(shares.get(name, (0.1, 0.1)))
    ]
    assert claim(lines, "behind the best rival of each").value == pytest.approx(0)
    late = [line(STEADY, DEFAULT, 0.5, number, late=part) for number, part in enumerate((0.1, 0.3))]
    assert claim([*late, line(OTHER, DEFAULT, 1.0)], "neither answered").value == pytest.approx(10)


def test_a_cell_whose_senders_were_late_is_told_apart() -> None:
    names, late = [DEFAULT, *FIXED, *RULES], Cell("two unlike", 0, "steady", 4.0, 0.1)
    lines = [line(STEADY, name, 0.9) for name in names] + [line(late, name, 0.9) for name in names[1:]]
    lines.append(replace(line(late, DEFAULT, 0.5), sender_late_s=0.02))
    assert claim(lines, "behind the best rival of each").value == pytest.approx(20)
    assert claim(lines, "behind the best rival of each", "quiet machine, senders not late").value == pytest.approx(0)


def test_what_was_late_is_told_of_loads_and_what_was_sent_and_missed_of_bursts_too() -> None:
    lines = [line(STEADY, DEFAULT, 0.6, late=0.2), line(BURST, DEFAULT, 0.5, late=0.5)]
    assert claim(lines, "neither answered").value == pytest.approx(20)
    assert claim(lines, "requests that were sent").value == pytest.approx(25)
    assert claim(lines, "requests in bursts that were sent").value == pytest.approx(50)


def test_answers_wider_than_the_narrowest_count_over_all_answers_under_pressure() -> None:
    lines = [
        replace(line(STEADY, DEFAULT, 0.9, n), pressed=p, pressed_wide=w) for n, (p, w) in enumerate([(90, 0), (10, 5)])
    ]
    assert claim(lines, "wider than the narrowest").value == pytest.approx(5)
    assert claim([replace(lines[0], pressed=0)], "wider than the narrowest").value is None


def records(rows: list[tuple[float, float, str, int]]) -> Records:
    """Records of requests that were due and sent at a time, ended at another, with a status and a width."""
    due_s, ended_s, status, width = (np.array(column) for column in zip(*rows, strict=True))
    none = np.full(len(rows), "")
    return Records(due_s, due_s, ended_s, status, width, none, none, none, np.ones(len(rows)), np.zeros(len(rows)), {})


def test_what_was_refused_was_not_sent_and_what_was_given_up_was() -> None:
    rows = [(0.0, 0.05, OK, 25), (0.0, 0.2, OK, 25), (0.0, 0.1, "DEADLINE_EXCEEDED", 0), (0.0, 0.3, "UNAVAILABLE", 0)]
    assert missed_part(records(rows), 0.1) == pytest.approx(2 / 3)
    assert missed_part(records(rows[3:]), 0.1) is None


def test_how_late_requests_left_is_of_those_that_did() -> None:
    found = records([(0.0, 0.05, OK, 25), (0.1, 0.2, OK, 25), (0.2, 0.3, OK, 25)])
    sent = replace(found, sent_s=np.array([0.01, 0.13, math.nan]))
    assert mean_late_s(sent) == pytest.approx(0.02)
    assert mean_late_s(replace(found, sent_s=np.full(3, math.nan))) == 0


def test_answers_are_under_pressure_that_were_sent_after_a_refusal_and_ended_within_a_second_of_it() -> None:
    refused = (1.0, 1.01, "RESOURCE_EXHAUSTED", 0)
    answers = [(0.9, 1.05, OK, 100), (1.02, 1.05, OK, 50), (1.5, 2.1, OK, 25), (1.98, 2.03, OK, 75), (3.0, 3.1, OK, 75)]
    assert pressed_widths(records([refused, *answers]), 0.7).tolist() == [50]
    assert pressed_widths(records([refused, (1.5, 1.55, OK, 25), (2.005, 2.008, OK, 75)]), 0.1).tolist() == [25, 75]
    assert pressed_widths(records(answers[:2]), 0.5).tolist() == []


def test_lines_come_back_from_the_journal_and_the_page_has_a_table_of_bursts() -> None:
    lines = [decode_line(line(BURST, name, 0.5).encode()) for name in (DEFAULT, NARROWEST)]
    assert lines[0].cell == BURST
    assert any("Bursts" in str(block) for block in make_page(lines, [], [], {}, None))
    assert not any("Bursts" in str(block) for block in make_page([line(STEADY, DEFAULT, 1.0)], [], [], {}, None))
