"""Files that commands leave: a report's in their folder, single ones, and a folder as a whole."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from orchestrator.errors import ConfigError
from orchestrator.files import stamp_of, write_atomically

_ELSEWHERE = "choose another place"


def check_folder(folder: Path, remedy: str, what: str = "") -> None:
    """Raise ConfigError, before the long work, if nothing can be written into a folder: ``remedy`` says what then.

    What has to be made of it to find out is removed again. ``what`` is told in place of the folder.
    """
    made = [each for each in (folder, *folder.parents) if stamp_of(each) is None]
    with _one_line_errors(folder, remedy, what), tempfile.TemporaryFile(dir=folder):
        pass
    for each in made:
        with suppress(OSError):  # of a folder that somebody else uses by now
            each.rmdir()


def check_file(path: Path | None, what: str = "") -> None:
    """Raise ConfigError as ``write_file``, before the long work, if no file can be written there; None: none is."""
    if path is not None:
        check_folder(path.parent, _ELSEWHERE, f"{what}{path}")


def check_not_read(out: Path | None, inputs: Iterable[Path | None]) -> None:
    """Raise ConfigError, before the long work, if what is written would replace what is read; None: nothing is."""
    if out is not None and out.resolve() in {each.resolve() for each in inputs if each is not None}:
        raise ConfigError(f"--out {out} would replace what the command reads; choose another place with --out")


def write_report(folder: Path, contents: Mapping[str, str | bytes], remedy: str) -> list[Path]:
    """Write files by their names, each as a whole or not at all, to a folder made if need be; return their paths.

    Raises ConfigError, which ends in the remedy, when one can't be written.
    """
    with _one_line_errors(folder, remedy):
        for name, content in contents.items():
            write_atomically(folder / name, content)
    return [folder / name for name in contents]


def write_file(path: Path, content: str | bytes, what: str = "", *, remedy: str = _ELSEWHERE) -> None:
    """Write a file as a whole or not at all, to a folder made if need be.

    Raises ConfigError, in which ``what`` stands before the path and the remedy at the end, when it can't be written.
    """
    with _one_line_errors(path.parent, remedy, f"{what}{path}"):
        write_atomically(path, content)


def write_new_folder(folder: Path, contents: Mapping[str, str | bytes], what: str = "") -> None:
    """Make a folder with files by their names, as a whole or not at all; one that is there and empty is replaced.

    Raises ConfigError, in which ``what`` stands before the path, when something is there or it can't be written.
    """
    with (
        _one_line_errors(folder.parent, "name a directory that does not exist yet", f"{what}{folder}"),
        tempfile.TemporaryDirectory(prefix=".", dir=folder.parent) as beside,
    ):
        whole = Path(beside) / "whole"
        whole.mkdir()
        for name, content in contents.items():
            write_atomically(whole / name, content)
        whole.replace(folder)


@contextmanager
def _one_line_errors(folder: Path, remedy: str, what: str = "") -> Iterator[None]:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as exc:
        what = what or f"the report to {folder}"
        raise ConfigError(f"can't write {what} ({exc.strerror}); {remedy}") from exc
