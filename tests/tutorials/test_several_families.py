from __future__ import annotations

from pathlib import Path

import pytest

from tests.ports import choose_free_ports
from tests.tutorials.document import execute, run

pytestmark = pytest.mark.integration

PAGE = Path(__file__).parents[2] / "docs" / "tutorials" / "several-families.md"
PORTS = ("18101", "18102", "18180", "18181", "18182")


def test_what_the_page_says_works(tmp_path: Path) -> None:
    text = PAGE.read_text()
    for port, free in zip(PORTS, choose_free_ports(len(PORTS)), strict=True):
        text = text.replace(port, str(free))
    page = tmp_path / "page.md"
    page.write_text(text)
    try:
        assert run(page, tmp_path) == 14
    finally:  # what runs still is ended as the page does it
        execute("kill $(cat up.pid) 2>/dev/null && timeout 60 tail --pid=$(cat up.pid) -f /dev/null", tmp_path)
