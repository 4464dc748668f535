from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from export.errors import RepositoryError
from export.repository.model_files import (
    CONFIG_FILE,
    LABELS_FILE,
    Files,
    Swap,
    exchange,
    is_being_written,
    leftovers,
    other_widths,
    read_model,
    require_writable,
    swap_by_renames,
    write_models,
)
from tests.export.repository.crash_driver import NEW, OLD, write_model

NAME = "toys_w025"


def times(folder: Path) -> dict[str, tuple[int, int]]:
    return {str(path): (path.stat().st_mtime_ns, path.stat().st_ino) for path in (folder, *folder.rglob("*"))}


def run_python(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False, timeout=60)


def test_a_model_is_written_where_triton_looks(tmp_path: Path) -> None:
    assert write_model(tmp_path / "deep" / "models", NAME, NEW)
    assert read_model(tmp_path / "deep" / "models" / NAME) == NEW
    assert os.listdir(tmp_path / "deep") == ["models"]
    assert os.listdir(tmp_path / "deep" / "models") == [NAME]


@pytest.mark.parametrize("swap", [None, swap_by_renames])
def test_an_older_model_is_replaced(swap: Swap | None, tmp_path: Path) -> None:
    write_model(tmp_path / "models", NAME, OLD)
    assert write_model(tmp_path / "models", NAME, NEW, swap=swap)
    assert read_model(tmp_path / "models" / NAME) == NEW
    assert os.listdir(tmp_path) == ["models"]


def test_a_swap_the_file_system_lacks_falls_back_to_renames(tmp_path: Path) -> None:
    def lacking(first: Path, second: Path) -> None:
        raise OSError(22, "Invalid argument", str(first))

    write_model(tmp_path / "models", NAME, OLD)
    assert write_model(tmp_path / "models", NAME, NEW, swap=lacking)
    assert read_model(tmp_path / "models" / NAME) == NEW


def test_equal_files_are_not_touched(tmp_path: Path) -> None:
    write_model(tmp_path / "models", NAME, NEW)
    before = times(tmp_path / "models")
    assert not write_model(tmp_path / "models", NAME, NEW)
    assert times(tmp_path / "models") == before


def test_other_models_are_not_touched(tmp_path: Path) -> None:
    write_model(tmp_path / "models", "other", OLD)
    before = times(tmp_path / "models" / "other")
    write_model(tmp_path / "models", NAME, NEW)
    assert times(tmp_path / "models" / "other") == before


def test_files_nobody_exported_are_kept_and_named(tmp_path: Path) -> None:
    write_model(tmp_path / "models", NAME, OLD)
    mine = tmp_path / "models" / NAME / "2" / "model.onnx"
    mine.parent.mkdir()
    mine.write_bytes(b"mine")
    with pytest.raises(RepositoryError, match=r"holds 2/model\.onnx, which no export wrote"):
        write_model(tmp_path / "models", NAME, NEW)
    assert read_model(tmp_path / "models" / NAME) == {**OLD, "2/model.onnx": b"mine"}


def test_what_a_crashed_export_left_is_removed(tmp_path: Path) -> None:
    stale = tmp_path / ".models.partial-abc" / NAME
    stale.mkdir(parents=True)
    (stale / "config.pbtxt").write_text("half")
    others = tmp_path / ".elsewhere.partial-abc"
    others.mkdir()
    assert [path.name for path in leftovers(tmp_path / "models")] == [".models.partial-abc"]
    write_model(tmp_path / "models", NAME, NEW)
    assert sorted(os.listdir(tmp_path)) == [".elsewhere.partial-abc", "models"]


@pytest.mark.parametrize("how", ["exchange", "renames"])
def test_a_crash_at_any_step_leaves_the_old_or_the_new_model_whole(how: str, tmp_path: Path) -> None:
    done = run_python("-m", "tests.export.repository.crash_driver", str(tmp_path), how)
    assert done.returncode == 0, done.stderr
    replacing, fresh = done.stdout.splitlines()
    assert "b'old'" in replacing and "b'new'" in replacing
    assert "b'new'" in fresh and "None" in fresh
    assert int(replacing.split()[2]) >= 10


@pytest.mark.parametrize("place", ["up", "up/models", f"up/models/{NAME}"])
def test_a_file_in_the_way_is_an_error_and_stays(place: str, tmp_path: Path) -> None:
    blocked = tmp_path / place
    blocked.parent.mkdir(parents=True, exist_ok=True)
    blocked.write_text("mine")
    with pytest.raises(RepositoryError, match="can't write") as caught:
        write_model(tmp_path / "up" / "models", NAME, NEW)
    assert "\n" not in str(caught.value)
    assert blocked.read_text() == "mine"
    assert not list(tmp_path.rglob(".*"))


FULL_DISK = """
import resource, sys
from pathlib import Path
from export.errors import RepositoryError
from tests.export.repository.crash_driver import NEW, OLD, write_model
repository = Path(sys.argv[1])
write_model(repository, "toys_w025", OLD)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    write_model(repository, "toys_w025", NEW)
except RepositoryError as exc:
    print(exc)
"""

NOBODY = """
import os, sys
from pathlib import Path
from export.errors import RepositoryError
from export.repository.model_files import read_model
from tests.export.repository.crash_driver import NEW, write_model
parent = Path(sys.argv[1])
if os.getuid() == 0:
    os.setgid(65534)
    os.setuid(65534)
try:
    write_model(parent / "models", "toys_w025", NEW)
    assert read_model(parent / "models" / "toys_w025") == NEW
    print("written")
except RepositoryError as exc:
    print(exc)
"""


def test_a_disk_that_fills_up_leaves_the_old_model_and_nothing_else(tmp_path: Path) -> None:
    """The limit on file sizes makes the kernel refuse the third file half-way, as a full disk does."""
    done = run_python("-c", FULL_DISK, str(tmp_path / "models"))
    assert "can't write" in done.stdout and "free space" in done.stdout, done.stderr
    assert read_model(tmp_path / "models" / NAME) == OLD
    assert os.listdir(tmp_path) == ["models"]


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that every user may enter and read, with an empty repository in it."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        (folder / "models").mkdir()
        yield folder
        folder.chmod(0o755)


def test_a_read_only_repository_is_an_error(open_folder: Path) -> None:
    (open_folder / "models").chmod(0o555)
    open_folder.chmod(0o555)
    done = run_python("-c", NOBODY, str(open_folder))
    assert "Permission denied" in done.stdout, done.stderr
    assert os.listdir(open_folder) == ["models"]
    assert os.listdir(open_folder / "models") == []


def test_where_the_parent_can_not_be_written_the_repository_itself_is_used(open_folder: Path) -> None:
    (open_folder / "models").chmod(0o777)
    open_folder.chmod(0o555)
    done = run_python("-c", NOBODY, str(open_folder))
    assert done.stdout == "written\n", done.stdout + done.stderr
    assert os.listdir(open_folder / "models") == [NAME]


@pytest.mark.parametrize("swap", [None, swap_by_renames])
def test_models_are_written_all_or_none(tmp_path: Path, swap: Swap | None) -> None:
    """The second of three can't be put in its place; the first, replaced, and what was there are as before."""
    repository = tmp_path / "models"
    write_models(repository, {"a": OLD, "b": OLD})
    calls = []

    def failing(first: Path, second: Path) -> None:
        calls.append(second.name)
        if second.name == "b":
            raise OSError(errno.EIO, "the disk is broken")
        (swap or exchange)(first, second)

    with pytest.raises(RepositoryError, match="the disk is broken"):
        write_models(repository, {"a": NEW, "b": NEW, "new": NEW}, swap=failing)
    assert calls == ["a", "b", "a"]
    assert read_model(repository / "a") == read_model(repository / "b") == dict(OLD)
    assert not (repository / "new").exists()
    assert leftovers(repository) == []


def test_an_interrupt_between_models_puts_new_ones_away_again(tmp_path: Path) -> None:
    repository = tmp_path / "models"
    write_models(repository, {"b": OLD})

    def interrupted(first: Path, second: Path) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_models(repository, {"a": NEW, "b": NEW}, swap=interrupted)
    assert [path.name for path in repository.iterdir()] == ["b"]
    assert read_model(repository / "b") == dict(OLD)


def test_a_foreign_empty_folder_is_refused(tmp_path: Path) -> None:
    write_model(tmp_path / "models", NAME, OLD)
    (tmp_path / "models" / NAME / "2").mkdir()
    with pytest.raises(RepositoryError, match="holds 2, which no export wrote"):
        write_model(tmp_path / "models", NAME, NEW)


@pytest.mark.parametrize("target", ["elsewhere", "nowhere"])
@pytest.mark.parametrize("files", [OLD, NEW])
def test_a_version_that_is_linked_in_is_kept_and_named(files: Files, target: str, tmp_path: Path) -> None:
    """Triton follows the link, and serves the highest version."""
    write_model(tmp_path / "models", NAME, OLD)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "model.onnx").write_bytes(b"mine")
    link = tmp_path / "models" / NAME / "2"
    link.symlink_to(tmp_path / target)
    with pytest.raises(RepositoryError, match="holds 2, which no export wrote"):
        write_model(tmp_path / "models", NAME, files)
    assert link.is_symlink()
    assert read_model(tmp_path / "models" / NAME) == OLD


def test_a_pipe_is_kept_and_named(tmp_path: Path) -> None:
    write_model(tmp_path / "models", NAME, OLD)
    os.mkfifo(tmp_path / "models" / NAME / "pipe")
    with pytest.raises(RepositoryError, match="holds pipe, which no export wrote"):
        write_model(tmp_path / "models", NAME, NEW)


def test_a_place_that_plainly_cant_be_written_is_refused_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file", tmp_path / "file" / "models"):
        with pytest.raises(RepositoryError, match=r"file is a file or read-only\); choose another --repository"):
            require_writable(place)
    require_writable(tmp_path / "new" / "models")
    assert not (tmp_path / "new").exists()


def test_models_have_the_group_of_a_repository_that_hands_it_down(tmp_path: Path) -> None:
    if os.getuid() != 0:
        pytest.skip("only root may give a folder to a group that is not its own")
    repository = tmp_path / "models"
    repository.mkdir()
    os.chown(repository, -1, 12345)
    repository.chmod(0o2750)
    write_model(repository, NAME, OLD)
    write_model(repository, NAME, NEW)
    made = [repository / NAME, *(repository / NAME).rglob("*")]
    assert {path.stat().st_gid for path in made} == {12345}
    assert all(path.stat().st_mode & stat.S_ISGID for path in made if path.is_dir())


def test_a_name_is_no_pattern(tmp_path: Path) -> None:
    for name in (".mine.partial-live", ".models[1].partial-abc"):
        (tmp_path / name).mkdir()
    assert [path.name for path in leftovers(tmp_path / "models[1]")] == [".models[1].partial-abc"]
    assert leftovers(tmp_path / "m*") == []


def test_labels_that_an_export_wrote_give_way_and_other_ones_stay(tmp_path: Path) -> None:
    labelled = {CONFIG_FILE: b'parameters { key: "slim.labels" }', LABELS_FILE: b"a\n"}
    write_models(tmp_path / "models", {NAME: labelled})
    write_models(tmp_path / "models", {NAME: {CONFIG_FILE: b""}})
    assert read_model(tmp_path / "models" / NAME) == {CONFIG_FILE: b""}
    (tmp_path / "models" / NAME / LABELS_FILE).write_text("mine")
    with pytest.raises(RepositoryError, match=r"holds labels\.txt, which no export wrote"):
        write_models(tmp_path / "models", {NAME: {CONFIG_FILE: b"new"}})


def test_who_looks_while_an_export_writes_is_told_so(tmp_path: Path) -> None:
    repository, seen = tmp_path / "models", []
    write_model(repository, NAME, OLD)

    def look(first: Path, second: Path) -> None:
        seen.append(is_being_written(repository))
        exchange(first, second)

    write_model(repository, NAME, NEW, swap=look)
    assert (seen, is_being_written(repository)) == ([True], False)


def test_other_widths_of_a_family_are_found(tmp_path: Path) -> None:
    for name in ("toys_w025", "toys_w050", "toys_w2_w100", "cars_w100"):
        write_model(tmp_path, name, NEW)
    (tmp_path / "toys_w075").mkdir()
    assert other_widths(tmp_path, "toys", ["toys_w050"]) == ["toys_w025"]
