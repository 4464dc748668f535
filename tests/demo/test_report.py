from __future__ import annotations

import base64
import io
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image
from rich.console import Console

from orchestrator.demo.open_loop import Outcome, summarize
from orchestrator.demo.report import Comparison, check_report, comparison_tables, write_demo
from orchestrator.errors import ConfigError
from orchestrator.loadgen.sample import load_sample
from orchestrator.snapshot import ServerName, Width

A, B = ServerName("a<b>"), ServerName("b")
COMPARISON = Comparison(
    title="Two & more",
    setting=("one sentence", "another"),
    servers=((A, "one core"), (B, "emulated 3× slower")),
    widths=(Width(25), Width(100)),
    summaries=(
        summarize("lert", [Outcome(1, 1, A, Width(100), 0.0123, 0.1), Outcome(1, 2, B, Width(25), 0.2, 0.1)]),
        summarize("random", [Outcome(1, None, None, None, 1.0, 0.1, error="lost")]),
    ),
)


class Cells(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.rows: list[list[str]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_data(self, data: str) -> None:
        if self.rows and self.rows[-1]:
            self.rows[-1][-1] += data


def test_the_terminal_tables_fit_80_columns_and_hold_the_figures() -> None:
    console = Console(width=80, file=io.StringIO())
    with console.capture() as capture:
        for table in comparison_tables(COMPARISON):
            console.print(table)
    text = capture.get()
    assert "…" not in text
    assert re.search(r"lert +│ +2 │ 50\.0% │ 106\.2 ms │ 198\.1 ms │ +50\.0% │ +50\.0% │", text)
    assert re.search(r"random +│ +0 │ +- │ +- │ +- │ 100\.0% │ +0\.0% │", text)
    assert re.search(r"lert +│ +· │ +50% │ +50% │ +· │", text)


def test_the_page_holds_the_same_figures_and_the_picture(tmp_path: Path) -> None:
    png, page = write_demo(COMPARISON, tmp_path / "new", stem="demo")
    with Image.open(png) as picture:
        assert picture.format == "PNG"
        assert picture.width > 1000
    text = page.read_text()
    parser = Cells()
    parser.feed(text)
    rows = [[cell.strip() for cell in row] for row in parser.rows]
    assert rows[0][7:] == ["a<b> 25 %", "a<b> 100 %", "b 25 %", "b 100 %"]
    assert rows[1] == ["lert", "2", "50.0%", "106.2 ms", "198.1 ms", "50.0%", "50.0%", "·", "50%", "50%", "·"]
    for said in ("one sentence", "a&lt;b&gt;: one core", "b: emulated 3× slower", "Two &amp; more"):
        assert f">{said}</" in text
    embedded = re.search(r"base64,([A-Za-z0-9+/=]+)", text)
    assert embedded is not None
    assert base64.b64decode(embedded.group(1)) == png.read_bytes()


def test_a_place_that_cant_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="can't write the report"):
        write_demo(COMPARISON, tmp_path / "file", stem="demo")
    with pytest.raises(ConfigError, match="can't write the report"):
        check_report(tmp_path / "file")
    check_report(tmp_path / "new")
    assert list((tmp_path / "new").iterdir()) == []


def test_the_shipped_sample_is_a_thousand_labelled_images() -> None:
    sample = load_sample(Path(__file__).parents[2] / "examples" / "fashion-mnist" / "test_1000.npz")
    assert sample.images.shape == (1000, 1, 28, 28)
    assert 0 <= sample.images.min() < sample.images.max() <= 1
    assert sorted(set(sample.labels.tolist())) == list(range(10))


@pytest.mark.parametrize("content", [b"", b"text", b"PK\x03\x04 truncated"])
def test_what_is_no_sample_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(ConfigError, match=r"is no \.npz file"):
        load_sample(tmp_path / "a.npz")
    with pytest.raises(ConfigError, match="no sample at"):
        load_sample(tmp_path / "b.npz")
