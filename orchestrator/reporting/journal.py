"""What a long run has done so far, a line of JSON each, so that an interruption loses at most what was under way.

The first line says what the run is about; whoever goes on about something else is refused by whom the journal belongs
to, because two halves of different things make no whole. A last line that was cut off by a crash is dropped. One alone
writes it: of two that did, the first to end would remove what the other still needs.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import stat
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any, Self

from pydantic import ValidationError

from orchestrator.errors import ConfigError, NotKeptError


class Journal:
    """A file of JSON lines, read once and then appended to; a context manager that holds it open.

    Args:
        path: The file; it need not be there.
        replay: What takes each line that is there, by its number from 1 on and its values. It raises KeyError,
            TypeError, ValueError or AttributeError for one that is damaged.
        remedy: What one can do about a file that can't be used.
        makes_folder: Whether entering makes the folder where it is missing.

    Attributes:
        is_new: Whether nothing was in it.

    Raises:
        ConfigError: when the file can't be read, a line is damaged, or, on entering, somebody else writes it.
    """

    def __init__(
        self, path: Path, replay: Callable[[int, Any], None], *, remedy: str, makes_folder: bool = True
    ) -> None:
        self.path = path
        self._makes_folder = makes_folder
        self._file: IO[str] | None = None
        text = self._read(remedy)
        lines = text.split("\n")[:-1]  # what follows the last end of a line was being written when the end came
        for number, line in enumerate(lines, 1):
            try:
                replay(number, json.loads(line))
            except (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError) as exc:
                raise ConfigError(f"{path} line {number} is damaged ({_why(exc)}); {remedy}") from exc
        self._read_bytes = len(text.encode())
        self._whole_bytes = sum(len(line.encode()) + 1 for line in lines)
        self.is_new = not lines

    def __enter__(self) -> Self:
        try:
            if self._makes_folder:
                self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self.path.open("a")
        except OSError as exc:
            raise ConfigError(f"can't write {self.path} ({exc.strerror}); choose another place with --out") from exc
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._file.close()
            raise ConfigError(
                f"another run writes {self.path}; wait until it has ended, or choose another place with --out"
            ) from None
        except OSError:
            pass  # where files can't be locked
        self._cut_off_rest(self._file)
        return self

    def _cut_off_rest(self, file: IO[str]) -> None:
        """Drop what follows the last end of a line; raises ConfigError when the file is not what was read any more."""
        size = os.fstat(file.fileno()).st_size
        if size != self._read_bytes and stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            file.close()
            raise ConfigError(f"another run has written {self.path} meanwhile; give the command again")
        if self._whole_bytes < size:
            file.truncate(self._whole_bytes)
        self._read_bytes = self._whole_bytes

    def __exit__(self, *exc: object) -> None:
        assert self._file is not None
        with contextlib.suppress(OSError):  # of a line that could not be written, which was told already
            self._file.close()

    def write(self, values: Mapping[str, Any]) -> None:
        """Append a line; it is with the kernel when this returns. Raises NotKeptError when it can't be written."""
        assert self._file is not None
        line = json.dumps(values, allow_nan=False, separators=(",", ":")) + "\n"
        try:
            self._file.write(line)
            self._file.flush()
        except OSError as exc:
            raise NotKeptError(
                f"can't write {self.path} ({exc.strerror}); free space and give the command again"
            ) from exc

    def _read(self, remedy: str) -> str:
        try:
            return self.path.read_bytes().decode()
        except (FileNotFoundError, NotADirectoryError):  # the latter is told when it is to be written
            return ""
        except (OSError, UnicodeDecodeError) as exc:
            raise ConfigError(f"can't read {self.path} ({exc}); {remedy}") from exc


def _why(error: Exception) -> str:
    """Return in one line what is wrong with a line that is damaged."""
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        return ": ".join([*map(str, first["loc"]), first["msg"]])
    return f"no key {error}" if isinstance(error, KeyError) else str(error)


def differences(found: Any, wanted: Any) -> Iterator[tuple[str, Any, Any]]:
    """Yield the key path, the found and the wanted leaf of all that differs between nested values, by key path."""
    ours, theirs = _flatten(found), _flatten(wanted)
    for key in sorted({*ours, *theirs}):
        if ours.get(key) != theirs.get(key):
            yield key, ours.get(key), theirs.get(key)


def _flatten(values: Any, path: str = "") -> dict[str, Any]:
    """Return the leaves of nested values by their key path."""
    if isinstance(values, Mapping):
        items = [(f"{path}.{key}" if path else str(key), value) for key, value in values.items()]
    elif isinstance(values, list | tuple):
        items = [(f"{path}[{index}]", value) for index, value in enumerate(values)]
    else:
        return {path: values}
    return {leaf: value for key, inner in items for leaf, value in _flatten(inner, key).items()}
