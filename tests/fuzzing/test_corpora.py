"""What a search for bytes that break a parser has kept, tried anew."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fuzzing.corpus import FOLDER, read_corpus, unpack, write_corpus
from tests.fuzzing.run import choose_kept
from tests.fuzzing.targets import TARGETS


@pytest.mark.parametrize("name", TARGETS)
def test_what_a_search_has_kept_is_understood_or_refused(name: str) -> None:
    inputs = read_corpus(name)
    assert len(inputs) >= 3
    for data in (b"", *inputs):
        TARGETS[name](data)


def test_every_corpus_has_a_target() -> None:
    assert {path.stem for path in FOLDER.iterdir()} == set(TARGETS)


def test_a_corpus_is_read_as_it_was_written(tmp_path: Path) -> None:
    inputs = [b"\0\xff", b"a", b"longer than the others", b"a"]
    write_corpus("some", inputs, tmp_path)
    assert read_corpus("some", tmp_path) == [b"a", b"\0\xff", b"longer than the others"]
    assert read_corpus("other", tmp_path) == []
    (tmp_path / "files").mkdir()
    unpack(inputs, tmp_path / "files")
    assert sorted(path.read_bytes() for path in (tmp_path / "files").iterdir()) == sorted(set(inputs))


def test_what_once_broke_a_parser_stays_whatever_a_search_finds() -> None:
    old, new = [b"x" * 11_990], [b"y" * 12, b"z" * 6, b"w" * 3, b"x" * 11_990]
    assert choose_kept(old, new) == [*old, b"w" * 3, b"z" * 6]
    assert choose_kept([b"x" * 20_000], new[:1]) == [b"x" * 20_000]
