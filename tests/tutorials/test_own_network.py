from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.tutorials.document import Command, File, execute, parse, run

PAGE = Path(__file__).parents[2] / "docs" / "tutorials" / "own-network.md"


def test_blocks_are_files_and_commands_with_their_output() -> None:
    text = "```python\n# a.py\nx = 1\n```\n```python\nx\n```\n```console\n$ one \\\n  --two\nout …\n$ three\n```\n"
    assert list(parse(text)) == [
        File("a.py", "# a.py\nx = 1\n"),
        Command("one   --two", ("out …",)),
        Command("three", ()),
    ]


@pytest.mark.integration
@pytest.mark.long
def test_what_the_page_says_works(tmp_path: Path) -> None:
    try:
        assert run(PAGE, tmp_path) == 16
    finally:
        execute("slimsched local down --state-dir state", tmp_path)
    models = [f"{family}_w{width:03d}" for family, width in (("published", 50), ("published", 100))]
    assert sorted(os.listdir(tmp_path / "models")) == [*models, "shapes_w025", "shapes_w050", "shapes_w100"]
