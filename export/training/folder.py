"""The folder of a training: one that can be written, and that no other training writes meanwhile."""

from __future__ import annotations

import errno
import fcntl
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from export.errors import CheckpointError


@contextmanager
def held_alone(out: Path) -> Iterator[None]:
    """Hold a folder, made if need be, until the end of the block or of the process.

    A file system that knows nothing of locks can't tell whether somebody else holds it.

    Raises:
        CheckpointError: It can't be written, or another training writes it.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out):  # before the first epoch, not after it
            pass
        handle = os.open(out, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as exc:
        raise CheckpointError(f"can't write to {out} ({exc.strerror}); choose another --out") from exc
    try:
        _lock(handle, out)
        yield
    finally:
        os.close(handle)


def _lock(handle: int, out: Path) -> None:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as exc:
        if exc.errno == errno.EWOULDBLOCK:
            raise CheckpointError(
                f"another training is at work in {out}; wait until it has ended, or choose another --out"
            ) from exc
