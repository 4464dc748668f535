from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from orchestrator.errors import ConfigError, NotKeptError
from orchestrator.reporting.journal import Journal, differences


def read(path: Path) -> list[Any]:
    found: list[Any] = []
    Journal(path, lambda number, values: found.append((number, int(values["x"]))), remedy="remove it")
    return found


def test_lines_are_there_again_and_one_that_was_cut_off_is_written_over(tmp_path: Path) -> None:
    path = tmp_path / "new" / "journal"
    with Journal(path, lambda number, values: None, remedy="") as journal:
        assert journal.is_new
        for value in range(3):
            journal.write({"x": value})
    whole = path.read_text()
    path.write_text(whole[:-3])
    with Journal(path, lambda number, values: None, remedy="") as journal:
        assert not journal.is_new
        journal.write({"x": 7})
    assert read(path) == [(1, 0), (2, 1), (3, 7)]


def test_one_alone_writes_it(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    with Journal(path, lambda number, values: None, remedy="") as journal:
        journal.write({"x": 1})
        with (
            pytest.raises(ConfigError, match=r"another run writes .*journal; wait until it has ended"),
            Journal(path, lambda number, values: None, remedy=""),
        ):
            pytest.fail("it was opened twice")
        journal.write({"x": 2})
    assert read(path) == [(1, 1), (2, 2)]


def test_a_damaged_line_is_named_with_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    for text in ("no json", "{}", "[]", '{"x": Infinity}', "[" * 100_000):
        text = f'{{"x": 1}}\n{text}\n'
        path.write_text(text)
        with pytest.raises(ConfigError, match=r"line 2 is damaged .*; remove it"):
            read(path)


def test_differences_are_named_by_the_path_of_their_leaf() -> None:
    found, wanted = {"a": {"b": [1, 2]}, "c": 3}, {"a": {"b": [1, 4]}, "d": 5}
    assert list(differences(found, wanted)) == [("a.b[1]", 2, 4), ("c", 3, None), ("d", None, 5)]
    assert not list(differences(wanted, wanted))


def test_a_full_disk_is_told_with_what_to_do(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal", lambda number, values: None, remedy="")
    journal.path.symlink_to("/dev/full")
    with pytest.raises(NotKeptError, match=r"can't write .*journal \(No space left on device\); free space"), journal:
        journal.write({"x": 1})


def test_who_is_refused_cuts_nothing_off_that_another_is_writing(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    with Journal(path, lambda number, values: None, remedy="") as journal:
        journal.write({"x": 1})
        with path.open("a") as half:
            half.write('{"x": ')  # as it is seen between two parts of one write
        with pytest.raises(ConfigError, match="another run writes"), Journal(path, lambda *_: None, remedy=""):
            pytest.fail("it was opened twice")
        with path.open("a") as half:
            half.write("2}\n")
        journal.write({"x": 3})
    assert read(path) == [(1, 1), (2, 2), (3, 3)]


def test_what_another_run_did_between_reading_and_writing_is_told(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    with Journal(path, lambda number, values: None, remedy="") as journal:
        journal.write({"x": 1})
        late = Journal(path, lambda number, values: None, remedy="")
    path.unlink()  # as a run does that has ended
    with pytest.raises(ConfigError, match=r"another run has written .*journal meanwhile; give the command again"), late:
        pytest.fail("it would go on in a file that lacks its first lines")


def test_a_line_that_was_cut_off_stays_where_nothing_is_to_be_written(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    path.write_text('{"x": 1}\n{"x"')
    assert read(path) == [(1, 1)]
    assert path.read_text() == '{"x": 1}\n{"x"'
