"""What is promised of the default follows from the lines that were measured."""

from __future__ import annotations

from dataclasses import replace

import pytest

from benchmarks.real.cells import BURSTS, Cell, cells_of
from benchmarks.real.claims import NARROWEST, draw_claims
from benchmarks.real.page import make_page
from benchmarks.real.results import Line, by_widths, decode_line
from benchmarks.real.testbed import DEFAULT, FIXED, RULES
from orchestrator.reporting.claim import Claim

STEADY = Cell("two unlike", 0, "steady", 0.6, 0.1)
BURST = Cell("two unlike", 0, "burst:1000", 1.0, 0.1)


def line(cell: Cell, set_up: str, in_time: float, number: int = 0, late: float = 0.0) -> Line:
    """Return a line of which all answers are right."""
    return Line(
        cell, number, set_up, 100.0, in_time, in_time, late, 1 - in_time - late, 1.0, 0.005, 0.01, 0.0, {"25": 1.0}
    )


def claim(lines: list[Line], words: str, where: str = "on a quiet machine") -> Claim:
    """Return the claim whose name holds these words and ends so."""
    (found,) = (c for c in draw_claims(lines, []) if words in c.name and c.name.endswith(where))
    return found


def test_each_size_of_bursts_is_measured_beside_every_hog() -> None:
    for hogs in (0, 1):
        bursts = [cell.workload for cell in cells_of("two unlike", hogs) if cell.is_burst]
        assert bursts == [f"burst:{count}" for count in BURSTS]


def test_of_bursts_the_worst_size_counts_by_the_means_of_its_rounds() -> None:
    small = Cell("two unlike", 0, "burst:100", 1.0, 0.1)
    lines = [line(small, name, 1.0) for name in (DEFAULT, NARROWEST)]
    for number, (own, narrow) in enumerate([(0.2, 0.5), (0.4, 0.3)]):
        lines += [line(BURST, DEFAULT, own, number), line(BURST, NARROWEST, narrow, number)]
    found = claim(lines, "burst")
    assert found.value == pytest.approx(0.75)
    assert not found.is_met
    assert "2 sizes" in (found.note or "")


def test_bursts_count_neither_as_cells_nor_as_loads_where_full_width_fits() -> None:
    names = [DEFAULT, *FIXED, *RULES]
    lines = [line(STEADY, name, 0.9) for name in names] + [line(BURST, name, 1.0) for name in names[1:]]
    lines.append(line(BURST, DEFAULT, 0.1))
    assert claim(lines, "behind the best rival of each").value == pytest.approx(0)


def test_which_images_a_run_sent_decides_nothing() -> None:
    names, other = [DEFAULT, *FIXED, *RULES], Cell("two unlike", 0, "steady", 0.3, 0.1)
    lines = [replace(line(cell, name, 0.9), right_in_time=0.8) for cell in (STEADY, other) for name in names]
    lucky = [replace(each, right_in_time=0.9) if each == lines[2] else each for each in lines]
    assert claim(lucky, "behind the best rival of each").value == pytest.approx(0)
    assert {round(each.right_in_time, 9) for each in by_widths(lucky, {"25": NARROWEST})} == {0.8}


def test_a_cell_whose_senders_were_late_is_told_apart() -> None:
    names, late = [DEFAULT, *FIXED, *RULES], Cell("two unlike", 0, "steady", 4.0, 0.1)
    lines = [line(STEADY, name, 0.9) for name in names] + [line(late, name, 0.9) for name in names[1:]]
    lines.append(replace(line(late, DEFAULT, 0.5), sender_late_s=0.02))
    assert claim(lines, "behind the best rival of each").value == pytest.approx(20)
    assert claim(lines, "behind the best rival of each", "quiet machine, senders not late").value == pytest.approx(0)


def test_what_a_burst_leaves_neither_answered_nor_refused_counts_as_late() -> None:
    assert claim([line(BURST, DEFAULT, 0.5, late=0.2)], "neither answered").value == pytest.approx(20)


def test_lines_come_back_from_the_journal_and_the_page_has_a_table_of_bursts() -> None:
    lines = [decode_line(line(BURST, name, 0.5).encode()) for name in (DEFAULT, NARROWEST)]
    assert lines[0].cell == BURST
    assert any("Bursts" in str(block) for block in make_page(lines, [], {}, None))
    assert not any("Bursts" in str(block) for block in make_page([line(STEADY, DEFAULT, 1.0)], [], {}, None))
