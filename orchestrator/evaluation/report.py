"""Where a suite's report is written: a document and a page."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from orchestrator.errors import ConfigError
from orchestrator.evaluation.page import render_page
from orchestrator.evaluation.standings import Field


def check_outputs(folder: Path) -> None:
    """Check, before the long work, that a report could be written.

    Raises:
        ConfigError: when the folder can't be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as exc:
        raise ConfigError(f"can't write the report to {folder} ({exc.strerror}); name another with --out") from exc


def write_outputs(document: Mapping[str, Any], fields: Sequence[Field], folder: Path) -> list[Path]:
    """Write all outputs and return their paths.

    Raises:
        ConfigError: when one can't be written.
    """
    stem = f"evaluation-{document['suite']}"
    texts = {
        f"{stem}.json": json.dumps(document, ensure_ascii=False, allow_nan=False, separators=(",", ":")) + "\n",
        f"{stem}.md": render_page(document),
    }
    try:
        for name, text in texts.items():
            (folder / name).write_text(text)
    except OSError as exc:
        raise ConfigError(f"can't write the report to {folder} ({exc.strerror}); name another with --out") from exc
    return [folder / name for name in texts]
