"""What is printed, drawn and written of a comparison."""

from __future__ import annotations

import io
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image
from rich.console import Console

from orchestrator.demo.baselines import DEFAULT
from orchestrator.demo.report import check_report, comparison_tables, describe_run, write_demo
from orchestrator.demo.results import Comparison, Turn
from orchestrator.errors import ConfigError
from tests.demo.samples import BASELINES, NARROWEST, PLAIN, make_comparison, make_records, two_rounds


def comparison() -> Comparison:
    return make_comparison(
        [
            Turn(DEFAULT, make_records(right=90, wrong=5, late=2, refused=3)),
            Turn(NARROWEST, make_records(right=50, refused=50, width=25, server="slow")),
            Turn(PLAIN, make_records(right=24, late=96, server="")),
        ],
        wanted=1,
    )


class Page(HTMLParser):
    """The rows of its tables, and the names and attributes of all its elements."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        if tag == "table":
            self.rows.append([])

    def handle_data(self, data: str) -> None:
        if self.rows and self.rows[-1]:
            self.rows[-1][-1] += data.strip().replace("\N{NO-BREAK SPACE}", " ")


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    png, page = write_demo(comparison(), tmp_path_factory.mktemp("demo") / "new", stem="demo")
    return png, page.read_text()


def test_the_terminal_tables_fit_80_columns_and_hold_the_figures() -> None:
    console = Console(width=80, file=io.StringIO())
    with console.capture() as capture:
        for table in comparison_tables(comparison()):
            console.print(table)
    text = capture.get()
    assert "…" not in text
    assert re.search(r"default +│ +90\.0% │ +2\.0% │ +3\.0% │ +92\.8% │ +20 ms │ +500 ms │", text)
    assert re.search(r"plain Triton +│ +- │ +- │ +· │ +100% │", text)
    assert re.search(r"always 25 % +│ +· │ +100% │ +100% │ +· │", text)


def test_the_page_tells_the_outcome_first_and_holds_the_same_figures(written: tuple[Path, str]) -> None:
    _, text = written
    assert "<h1>The default was right and in time more often than any rival</h1>" in text
    rows = Page(text).rows
    assert [DEFAULT, "90.0%", "2.0%", "3.0%", "92.8%", "20 ms", "500 ms", "90.0%"] in rows
    assert [NARROWEST, "·", "100%", "100%", "·"] in rows
    for said in ("one sentence", "another &amp; more", "server slow: emulated 3× slower"):
        assert f">{said}</" in text
    assert "the &lt;narrowest&gt; width" in text


def test_each_panel_is_told_in_words_and_needs_nothing_from_elsewhere(written: tuple[Path, str]) -> None:
    elements = Page(written[1]).elements
    panels = [attributes for tag, attributes in elements if tag == "svg"]
    assert [panel["role"] for panel in panels] == ["img"] * 4
    assert "as a multiple of what the servers answer" in str(panels[0]["aria-label"])
    assert panels[3]["aria-label"] == (
        "plain Triton: in the first third of the time 40% of the requests miss their deadline, 100% in the second, "
        "100% in the last; answers are 100% at 100 % width"
    )
    links = [value for _, attributes in elements for key, value in attributes.items() if key in ("src", "href")]
    assert links == []


def test_the_page_has_headings_of_columns_and_rows_and_both_schemes_of_colour(written: tuple[Path, str]) -> None:
    _, text = written
    scopes = [attributes.get("scope") for tag, attributes in Page(text).elements if tag == "th"]
    assert scopes.count("row") == 6
    assert set(scopes) == {"row", "col"}
    assert text.count("<caption>") == 2
    assert "prefers-color-scheme: dark" in text
    assert 'name="viewport"' in text
    ids = re.findall(r' id="([^"]+)"', text)
    assert all(not re.fullmatch(r"[a-z]+_\d+", name) for name in ids)


def test_the_picture_is_a_png_of_all_panels(written: tuple[Path, str]) -> None:
    with Image.open(written[0]) as picture:
        assert picture.format == "PNG"
        assert picture.width > 1000


def test_of_an_interrupted_comparison_everything_can_be_shown(tmp_path: Path) -> None:
    whole = two_rounds({DEFAULT: (900, 500), NARROWEST: (800, 600), PLAIN: (100, 100)})
    for turns in (1, 2, 4):
        cut = make_comparison(whole.turns[:turns])
        assert f"interrupted after {turns} of 6 turns; figures are of the first {min(turns, 3)}" in describe_run(cut)
        _, page = write_demo(cut, tmp_path, stem=f"demo-{turns}")
        assert "interrupted" in page.read_text()


def test_a_baseline_that_answered_nothing_is_shown_too(tmp_path: Path) -> None:
    silent = make_comparison([Turn(DEFAULT, make_records(right=0, refused=9))], baselines=BASELINES[:1], wanted=1)
    _, page = write_demo(silent, tmp_path, stem="demo")
    assert [DEFAULT, "0.0%", "0.0%", "100.0%", "-", "-", "-", "0.0%"] in Page(page.read_text()).rows


def test_a_place_that_cant_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="can't write the report"):
        write_demo(comparison(), tmp_path / "file", stem="demo")
    with pytest.raises(ConfigError, match="can't write the report"):
        check_report(tmp_path / "file")
    check_report(tmp_path / "new")
    assert not (tmp_path / "new").exists()  # it is made when there is a report
