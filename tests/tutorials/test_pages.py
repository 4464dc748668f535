"""The commands of docs/tutorials/own-policy.md, run as they stand there; the package is installed into a folder."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.tutorials.document import execute, run

ROOT = Path(__file__).parents[2]


@pytest.mark.integration
def test_what_the_page_says_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("examples", "model_repository", "scenarios"):
        (tmp_path / name).symlink_to(ROOT / name)
    installed = tmp_path / "installed"
    monkeypatch.setenv("PIP_TARGET", str(installed))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(installed), str(ROOT)]))
    try:
        assert run(ROOT / "docs" / "tutorials" / "own-policy.md", tmp_path) == 8
    finally:
        execute("slimsched local down --state-dir state", tmp_path)
