from __future__ import annotations

import os
from pathlib import Path

import pytest

from orchestrator.files import read_file, write_atomically


def test_a_file_is_replaced_as_a_whole_and_nothing_is_left_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "file"
    for content in ("one", b"two", "drei ±"):
        write_atomically(path, content)
        assert path.read_bytes() == (content.encode() if isinstance(content, str) else content)
    assert list(tmp_path.iterdir()) == [path]


def test_what_can_not_be_written_leaves_the_old_file_and_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "folder"
    path.mkdir()
    (path / "kept").touch()
    with pytest.raises(OSError, match="folder"):
        write_atomically(path, "new")
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(FileNotFoundError):
        write_atomically(tmp_path / "no" / "file", "new")


def test_what_is_no_file_or_too_large_is_refused_at_once(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(2**20))
    assert read_file(path, most_bytes=2**20) == bytes(2**20)
    with pytest.raises(OSError, match="larger than 0 MiB"):
        read_file(path, most_bytes=2**20 - 1)
    os.mkfifo(tmp_path / "pipe")  # which nobody writes
    for other in (tmp_path / "pipe", Path("/dev/zero"), tmp_path, tmp_path / "\0"):
        with pytest.raises(OSError, match=r"no regular file|Is a directory|null byte"):
            read_file(other, most_bytes=2**20)
