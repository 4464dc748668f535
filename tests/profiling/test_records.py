from __future__ import annotations

import json
from pathlib import Path

import pytest

from orchestrator.errors import ConfigError
from orchestrator.profiling.records import Before, Cycle, Records
from orchestrator.profiling.sampling import Cell, Visit, Window
from orchestrator.snapshot import ModelName
from tests.profiling.worlds import A

M = ModelName("m")
CELL = Cell(A, M, 4)
VISIT = Visit((0.1, 0.2), Window(3.0, 1.5, "rapl"))
BEFORE = Before(instances=2, preferred_sizes=(4, 8), delay_us=100, nonce="n")
CYCLE = Cycle(1.0, 2.0, 3.0, 4.0, 5.0, None, "none", "no telemetry")
BINDING = {"servers": {"a": {"triton_version": "2.51.0", "models": {"m": {"sha256": "abc", "batches": [1, 2]}}}}}


def begun(path: Path) -> Records:
    with Records(path) as records:
        records.bind(BINDING)
        records.add_visit(CELL, VISIT)
        records.add_visit(CELL, Visit((0.3,), None, (0.4, 0.5), (0.1,)))
        records.add_idle(A, Window(None, 2.0, "none", "no counter"))
        records.add_before((A, M), BEFORE)
        records.add_cycle((A, M), CYCLE)
    return records


def test_what_was_noted_is_there_again(tmp_path: Path) -> None:
    written = begun(tmp_path / "p")
    read = Records(tmp_path / "p")
    assert read.visits == written.visits == {CELL: [VISIT, Visit((0.3,), None, (0.4, 0.5), (0.1,))]}
    assert read.idles == written.idles == {A: [Window(None, 2.0, "none", "no counter")]}
    assert read.cycles == written.cycles == {(A, M): [CYCLE]}
    assert read.unrestored == {(A, M): BEFORE}
    with read:
        read.bind(BINDING)
        read.note_restored((A, M))
    assert Records(tmp_path / "p").unrestored == {}


def test_a_last_line_that_was_cut_off_is_dropped_and_written_over(tmp_path: Path) -> None:
    path = tmp_path / "p"
    begun(path)
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:2]) + lines[2][:-9])
    records = Records(path)
    assert records.visits == {CELL: [VISIT]}
    with records:
        records.add_visit(CELL, Visit((0.4,)))
    assert Records(path).visits == {CELL: [VISIT, Visit((0.4,))]}


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (("sha256", "def"), "servers.a.models.m.sha256 = 'abc', now it is 'def'"),
        (("batches", [1, 4]), r"servers.a.models.m.batches\[1\] = 2, now it is 4"),
        (("batches", [1]), r"servers.a.models.m.batches\[1\] = 2, now it is None"),
    ],
)
def test_two_halves_of_different_things_make_no_whole(tmp_path: Path, change: tuple[str, object], problem: str) -> None:
    begun(tmp_path / "p")
    other = json.loads(json.dumps(BINDING))
    other["servers"]["a"]["models"]["m"].update([change])
    with (
        Records(tmp_path / "p") as records,
        pytest.raises(ConfigError, match=f"was begun with {problem}; remove .* or give --restart"),
    ):
        records.bind(other)


@pytest.mark.parametrize(
    "text",
    [
        "{}\n",
        "[]\n",
        "no json\n",
        '{"kind": "visit"}\n',
        '{"kind": "binding"}\n{"kind": "x", "server": "a", "model": "m"}\n',
    ],
)
def test_a_damaged_journal_is_refused_with_its_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "p"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"line \d is damaged .*; remove .* or give --restart"):
        Records(path)


def test_a_place_that_can_not_be_used_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="can't read"):
        Records(tmp_path)
    with pytest.raises(ConfigError, match="can't write"), Records(tmp_path / "no" / "p"):
        pass
