"""A temporary directory that is removed even when everyone who knew of it was killed.

Its owner holds a lock on it, which the kernel drops with the owner's last process. Whoever creates the next one
first removes those of this user that nobody holds any more.
"""

import contextlib
import fcntl
import os
import shutil
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

PREFIX = "slimsched-triton-"
SETTLE_S = 60.0  # a directory this young may not have been locked yet by the process that has just made it


@dataclass(frozen=True, slots=True)
class PrivateDirectory:
    """A directory and the descriptor that holds its lock; a process that inherits that holds the directory too."""

    path: Path
    descriptor: int

    def remove(self) -> None:
        """Remove the directory with all that is in it."""
        shutil.rmtree(self.path, ignore_errors=True)
        with contextlib.suppress(OSError):  # it was removed before
            os.close(self.descriptor)


def create_private_directory() -> PrivateDirectory:
    """Create a directory for its owner only, and remove abandoned ones."""
    remove_abandoned(Path(tempfile.gettempdir()), older_than_s=SETTLE_S)
    path = Path(tempfile.mkdtemp(prefix=PREFIX))
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    return PrivateDirectory(path, descriptor)


def remove_abandoned(parent: Path, *, older_than_s: float) -> None:
    """Remove this user's private directories that no process holds."""
    newest_s = time.time() - older_than_s
    for path in parent.glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):  # someone else's, or someone else was quicker
            status = path.lstat()
            if status.st_uid != os.getuid() or status.st_mtime > newest_s:
                continue
            descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(path, ignore_errors=True)
            finally:
                os.close(descriptor)
