"""What commands save where ``--out`` says."""

from __future__ import annotations

from pathlib import Path

from orchestrator.errors import ConfigError
from orchestrator.files import write_atomically


def save(path: Path, content: str | bytes, what: str = "") -> None:
    """Write a file, its folder included.

    Raises:
        ConfigError: when it can't be written; ``what`` ends in a space and says what it is.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, content)
    except OSError as exc:
        raise ConfigError(f"can't write {what}{path} ({exc})") from exc
