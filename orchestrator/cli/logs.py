"""Where a command's log lines go while it runs.

Logging is global to the process; a command that is called as a function, as tests do, gives it back as it was.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def logging_through(handler: logging.Handler, level: int | str) -> Iterator[None]:
    """Send every line of at least this level through a handler while it lasts, then log as before."""
    root = logging.getLogger()
    old_level = root.level
    root.addHandler(handler)
    root.setLevel(level)
    try:
        yield
    finally:
        root.removeHandler(handler)
        root.setLevel(old_level)


@contextmanager
def logging_to_stderr(level: str) -> Iterator[None]:
    """Log events of at least this level, in upper or lower case, to stderr while it lasts, a line each."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    with logging_through(handler, level.upper()):
        yield
