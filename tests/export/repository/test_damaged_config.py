"""A configuration with a value that no reader of JSON or of numbers takes is a finding, as every other one is."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from export.repository.verification import verify_repository

MODEL = Path(__file__).parents[3] / "model_repository" / "fashion_w025"


@pytest.mark.parametrize(
    ("key", "value", "problem"),
    [
        ("intra_op_thread_count", "9" * 5000, "intra_op_thread_count is '999"),
        ("slim.labels", "[" * 100_000, "slim.labels is no JSON list"),
    ],
    ids=["threads", "labels"],
)
def test_such_a_value_is_a_finding(tmp_path: Path, key: str, value: str, problem: str) -> None:
    folder = shutil.copytree(MODEL, tmp_path / MODEL.name)
    text = (folder / "config.pbtxt").read_text()
    pattern = rf'(key: "{re.escape(key)}"\s*value \{{\s*string_value: )"(?:[^"\\]|\\.)*"'
    changed, count = re.subn(pattern, lambda found: f'{found[1]}"{value}"', text)
    assert count == 1
    (folder / "config.pbtxt").write_text(changed)
    (finding,) = verify_repository(tmp_path).findings
    assert problem in finding.message
    assert len(finding.message) < 300
