"""The site of the documentation: no link is dead, and nothing is fetched from elsewhere."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tools.site import relink

ROOT = Path(__file__).parents[2]
_FETCHED = re.compile(
    r"""<(?:script|img|iframe|source)[^>]*\ssrc=["']?(https?:)?//|<link[^>]*\shref=["']?(https?:)?//"""
)


def build(folder: Path, *, source: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Make the site as 'make docs' does, into a folder."""
    return subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)],
        cwd=source,
        capture_output=True,
        text=True,
        check=False,
    )


def test_no_link_is_dead_and_a_reader_without_a_network_misses_nothing(tmp_path: Path) -> None:
    made = build(tmp_path)
    assert made.returncode == 0, made.stdout + made.stderr
    pages = sorted(tmp_path.glob("**/*.html"))
    assert len(pages) > 40
    fetched = {page.name: found.group() for page in pages if (found := _FETCHED.search(page.read_text()))}
    assert fetched == {}
    for style in tmp_path.glob("assets/stylesheets/*.css"):
        assert not re.search(r"url\(['\"]?https?:", style.read_text()), style


@pytest.mark.parametrize(
    ("path", "text", "expected"),
    [
        ("docs/policies.md", "[all](../scenarios/README.md#x)", "[all](project/scenarios/README.md#x)"),
        ("docs/tutorials/import.md", "[it](../gateway.md)", "[it](../gateway.md)"),
        ("docs/profiles.md", "[a file](../profiles/demo-fleet.json)", "a file (`profiles/demo-fleet.json`)"),
        ("docs/policies.md", "[gone](../scenarios/gone.md)", "[gone](../scenarios/gone.md)"),
        ("CONTRIBUTING.md", "[terms](docs/architecture.md#terms)", "[terms](../architecture.md#terms)"),
        ("scenarios/README.md", "[keys](../docs/simulator.md)", "[keys](../../simulator.md)"),
        ("examples/fashion-mnist/README.md", "![p](accuracy_flops.png)", "![p](accuracy_flops.png)"),
        ("docs/index.md", "[out](https://example.org/a)", "[out](https://example.org/a)"),
    ],
)
def test_links_lead_where_a_page_is_in_the_site(path: str, text: str, expected: str) -> None:
    assert relink(text, path) == expected
