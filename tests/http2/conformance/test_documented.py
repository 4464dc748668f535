"""The tests that docs/http2.md and docs/security.md name are there."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
NAMED = re.compile(r"`([\w/]+\.py)::(test_\w+)`")


def names_in(path: Path) -> set[str]:
    tree = ast.parse(path.read_text())
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}


@pytest.mark.parametrize("page", ["http2.md", "security.md"])
def test_every_test_that_a_page_names_is_there(page: str) -> None:
    named = NAMED.findall((ROOT / "docs" / page).read_text())
    assert len(named) > 5
    missing = [f"{path}::{name}" for path, name in named if name not in names_in(ROOT / "tests" / path)]
    assert missing == []


def test_every_row_of_a_specification_names_a_test() -> None:
    text = (ROOT / "docs" / "http2.md").read_text().partition("## RFC 9113")[2]
    rows = [line for line in text.splitlines() if line.startswith("|") and not line.startswith(("| section", "|---"))]
    assert len(rows) > 50
    assert [row for row in rows if not NAMED.search(row)] == []
