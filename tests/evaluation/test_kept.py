"""Results of jobs that are kept as they come, and taken from there by whoever goes on with the same."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.errors import ConfigError
from orchestrator.evaluation.kept import keep_results
from orchestrator.executors import run_here, run_in_order

ABOUT = {"scenario": "abc", "seeds": 2}


def halve(job: int) -> float:
    if job < 0:
        raise RuntimeError("it can't be done")
    return job / 2


def test_what_was_done_before_a_failure_is_not_run_again(tmp_path: Path) -> None:
    out, ran = tmp_path / "out.json", []

    def half(job: int) -> float:
        ran.append(job)
        return halve(job)

    with pytest.raises(RuntimeError), keep_results(out, ABOUT, float, run_here) as execute:
        run_in_order(execute, half, [1, 3, -1, 5])
    with keep_results(out, ABOUT, float, run_here) as execute:
        assert run_in_order(execute, half, [1, 3, 4, 5]) == [0.5, 1.5, 2.0, 2.5]
    assert ran == [1, 3, -1, 4, 5]
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_about_something_else_is_refused_and_stays(tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    with pytest.raises(RuntimeError), keep_results(out, ABOUT, float, run_here) as execute:
        run_in_order(execute, halve, [1, -1])
    other = {**ABOUT, "seeds": 3}
    with (
        pytest.raises(ConfigError, match=r"out\.json\.partial was begun with seeds = 2, now it is 3; remove it"),
        keep_results(out, other, float, run_here),
    ):
        pytest.fail("it was opened")
    assert len((tmp_path / "out.json.partial").read_text().splitlines()) == 2


def test_without_a_file_to_write_nothing_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with keep_results(None, ABOUT, float, run_here) as execute:
        assert run_in_order(execute, halve, [1, 2]) == [0.5, 1.0]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ('{"job": 0, "result": "fast"}', r"Input should be a valid number, unable to parse string as a number"),
        ('{"result": 1.0}', "no key 'job'"),
    ],
)
def test_a_result_that_is_damaged_is_named_in_one_short_line(tmp_path: Path, line: str, why: str) -> None:
    out = tmp_path / "out.json"
    with pytest.raises(RuntimeError), keep_results(out, ABOUT, float, run_here) as execute:
        run_in_order(execute, halve, [-1])
    partial = tmp_path / "out.json.partial"
    partial.write_text(partial.read_text() + line + "\n")
    with (
        pytest.raises(ConfigError, match=rf"out\.json\.partial line 2 is damaged \({why}.*\); remove it") as found,
        keep_results(out, ABOUT, float, run_here),
    ):
        pytest.fail("it was opened")
    assert "pydantic" not in str(found.value)
