"""The harness on a benchmark of one number."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from benchmarks.harness.command import Benchmark, Say
from benchmarks.harness.run import ScenarioRun, page_head
from orchestrator.errors import PermanentError
from orchestrator.reporting.blocks import Block, Picture
from orchestrator.reporting.claim import Claim


@dataclass(frozen=True, kw_only=True)
class Found(ScenarioRun):
    first: int | None = None
    second: int | None = None


def draw_claims(run: Found) -> list[Claim]:
    return [Claim(name, run.found(name), "", 3) for name in ("first", "second") if run.found(name) is not None]


def make_page(run: Found, picture: str | None) -> Iterator[Block]:
    yield from page_head("Numbers", "Some.", run, draw_claims(run))
    if picture:
        yield Picture(file=picture, text="one")


BENCHMARK = Benchmark(
    "numbers", "benchmark of numbers", Found, draw_claims, make_page, lambda run: b"PNG" if run.first else None
)


def numbers(**values: int | Exception) -> dict[str, Any]:
    def scenario(value: int | Exception) -> Any:
        async def run(folder: Path, say: Say) -> int:
            assert folder.is_dir()
            say(f"it is {value}")
            await asyncio.sleep(0)
            if isinstance(value, Exception):
                raise value
            return value

        return run

    return {name: scenario(value) for name, value in values.items()}


def test_a_run_ends_in_page_json_and_picture_and_can_be_written_anew(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    BENCHMARK.run(numbers(first=1, second=3), out=tmp_path, only=(), source=None)
    output = capsys.readouterr().out
    assert "s  it is 3" in output
    assert "met      second: 3.00 <= 3.00" in output
    page, document = (tmp_path / "numbers.md").read_text(), json.loads((tmp_path / "numbers.json").read_text())
    assert "## Claims: 2 of 2 met" in page
    assert "![one](numbers.png)" in page
    assert (tmp_path / "numbers.png").read_bytes() == b"PNG"
    assert document["raw"]["second"] == 3
    assert document["machine"] == document["raw"]["machine"]
    BENCHMARK.run(numbers(), out=tmp_path / "again", only=(), source=tmp_path / "numbers.json")
    assert (tmp_path / "again" / "numbers.md").read_text() == page
    assert json.loads((tmp_path / "again" / "numbers.json").read_text()) == document


def test_a_scenario_that_fails_is_reported_and_the_others_run_and_it_can_be_taken_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        BENCHMARK.run(numbers(first=PermanentError("no luck"), second=2), out=tmp_path, only=(), source=None)
    assert "NO NUMBERS  first: PermanentError: no luck" in capsys.readouterr().out
    page = (tmp_path / "numbers.md").read_text()
    assert "**first has no numbers:** PermanentError: no luck" in page
    assert "![" not in page
    BENCHMARK.run(numbers(first=1, second=9), out=tmp_path, only=["first"], source=tmp_path / "numbers.json")
    raw = json.loads((tmp_path / "numbers.json").read_text())["raw"]
    assert (raw["first"], raw["second"], raw["failures"]) == (1, 2, {})
    assert list(raw["taken_again"]) == ["first"]


def test_some_scenarios_alone_write_nothing_and_a_bar_that_is_missed_is_a_status(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        BENCHMARK.run(numbers(first=1, second=4), out=tmp_path, only=["second"], source=None)
    assert ended.value.code == 1
    output = capsys.readouterr().out
    assert "NOT MET  second: 4.00 <= 3.00" in output
    assert "it is 1" not in output
    assert list(tmp_path.iterdir()) == []
