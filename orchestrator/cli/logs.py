"""The log of a command on stderr: lines of text, or of JSON for whoever collects them.

A line may bring fields (``extra={"fields": {...}}``): in JSON they are keys beside the message, in text ``name=value``
behind it. What clients wrote may be among them, so a text value that is more than a plain word is quoted.

The context that a command logs in is also for one that goes on after it in the same process, such as a test: it gets
the root logger back as it was.
"""

from __future__ import annotations

import json
import logging
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

JSON: Final = "json"
FORMATS: Final = ("text", JSON)
_PLAIN: Final = re.compile(r"[\w.:%/@+,-]+", re.ASCII)


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
def logging_to_stderr(level: str, log_format: str = "text", *, worker: int | None = None) -> Iterator[None]:
    """Log events of at least this level, in upper or lower case, to stderr while it lasts, a line each.

    ``log_format`` is one of FORMATS; ``worker`` is the number of the worker process that this is.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonLines(worker) if log_format == JSON else _TextLines(worker))
    with logging_through(handler, level.upper()):
        yield


class _TextLines(logging.Formatter):
    def __init__(self, worker: int | None) -> None:
        of = "" if worker is None else f"worker {worker}: "
        super().__init__(f"%(asctime)s %(levelname)s {of}%(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 – the standard library's name
        return super().formatMessage(record) + "".join(f" {k}={_quote(v)}" for k, v in _fields(record).items())


class _JsonLines(logging.Formatter):
    def __init__(self, worker: int | None) -> None:
        super().__init__()
        self._own = {} if worker is None else {"worker": worker}

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "unix_s": record.created,
            "level": record.levelname.lower(),
            "logger": record.name,
            **self._own,
            "message": record.getMessage(),
            **_fields(record),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        # Not by orjson, which refuses text that is no Unicode, such as some names of files.
        return json.dumps(line, default=str, separators=(",", ":"))


def _fields(record: logging.LogRecord) -> Mapping[str, Any]:
    found: Mapping[str, Any] = getattr(record, "fields", {})
    return {name: value for name, value in found.items() if value is not None}


def _quote(value: object) -> str:
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    return text if _PLAIN.fullmatch(text) else json.dumps(text)
