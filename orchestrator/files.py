"""Files that are read within bounds, and replaced as a whole: a reader finds the old one or the new one."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

Stamp = tuple[int, int, int, int] | None
"""What differs once a file has changed; None when it is not there."""


def read_file(path: Path, *, most_bytes: int) -> bytes:
    """Return what a file holds.

    Raises OSError when it can't be read, holds more, or is no file: a pipe would be waited for, and a device may never
    end.
    """
    if "\0" in str(path):  # which Python refuses by a ValueError
        raise OSError(errno.EINVAL, "its name holds a null byte")
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(errno.EINVAL, "it is no regular file")
        data = file.read(most_bytes + 1)
    if len(data) > most_bytes:
        raise OSError(errno.EFBIG, f"it is larger than {most_bytes // 2**20} MiB")
    return data


def open_private(name: str, flags: int) -> int:
    """An ``opener`` of ``open``: what it makes only its owner may read, whatever the umask allows."""
    return os.open(name, flags, 0o600)


def stamp_of(path: Path) -> Stamp:
    """Return the stamp of a file as it is now."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino, found.st_dev


def write_atomically(path: Path, content: str | bytes) -> None:
    """Replace a file, or make it, in a folder that exists.

    Raises OSError when it can't be written; then the old file is still there, and nothing beside it.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
