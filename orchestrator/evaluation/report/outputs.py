"""Where a suite's report is written: a document, a page, and a page in HTML with pictures, whole in one file."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from orchestrator.errors import ConfigError
from orchestrator.evaluation.report.blocks import render_html, render_markdown
from orchestrator.evaluation.report.page import make_page
from orchestrator.evaluation.report.pictures import check_pictures, draw_pictures
from orchestrator.evaluation.scores import Field


def check_outputs(folder: Path) -> None:
    """Check, before the long work, that a report could be drawn and written.

    Raises:
        ConfigError: when matplotlib is missing or the folder can't be written.
    """
    check_pictures()
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
    page = make_page(document, draw_pictures(fields))
    texts = {
        f"{stem}.json": json.dumps(document, ensure_ascii=False, allow_nan=False, separators=(",", ":")) + "\n",
        f"{stem}.md": render_markdown(page),
        f"{stem}.html": render_html(page),
    }
    try:
        for name, text in texts.items():
            (folder / name).write_text(text)
    except OSError as exc:
        raise ConfigError(f"can't write the report to {folder} ({exc.strerror}); name another with --out") from exc
    return [folder / name for name in texts]
