from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from orchestrator.config import load_fleet
from orchestrator.config.tenants import load_tenants
from orchestrator.errors import SlimError
from orchestrator.files import read_file, write_atomically
from orchestrator.policies.learned.policy_file import read_policy_file
from orchestrator.profile.document import read_profile
from orchestrator.triton.protocol_key import read_protocol_key


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


@pytest.mark.parametrize("load", [load_fleet, load_tenants, read_protocol_key, read_profile, read_policy_file])
def test_no_settings_are_waited_for_or_read_without_end(load: Callable[[Path], object], tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero"), Path("a\0b")):
        with pytest.raises(SlimError) as caught:
            load(path)
        assert "\n" not in str(caught.value)


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
