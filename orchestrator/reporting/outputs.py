"""A report's files in their folder."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from orchestrator.errors import ConfigError
from orchestrator.files import write_atomically


def check_folder(folder: Path, remedy: str) -> None:
    """Make a folder; raise ConfigError with the remedy, before the long work, if no report can be written there."""
    with _one_line_errors(folder, remedy), tempfile.TemporaryFile(dir=folder):
        pass


def write_report(folder: Path, contents: Mapping[str, str | bytes], remedy: str) -> list[Path]:
    """Write files by their names, each as a whole or not at all, to a folder made if need be; return their paths.

    Raises ConfigError, which ends in the remedy, when one can't be written.
    """
    with _one_line_errors(folder, remedy):
        for name, content in contents.items():
            write_atomically(folder / name, content)
    return [folder / name for name in contents]


@contextmanager
def _one_line_errors(folder: Path, remedy: str) -> Iterator[None]:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as exc:
        raise ConfigError(f"can't write the report to {folder} ({exc.strerror}); {remedy}") from exc
