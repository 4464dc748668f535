"""A folder that the user of a test may not look into, as another user's."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_NOBODY = 12345


@contextmanager
def closed(folder: Path) -> Iterator[None]:
    """Close a folder; the superuser, who may look into any, is somebody else meanwhile."""
    folder.chmod(0)
    if os.getuid() == 0:
        os.seteuid(_NOBODY)
    try:
        yield
    finally:
        os.seteuid(os.getuid())
        folder.chmod(0o700)
