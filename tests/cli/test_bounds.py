from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

from orchestrator.cli import main
from orchestrator.errors import NotKeptError
from orchestrator.reporting.journal import Journal


def bounds(folder: Path, *more: str, count: int = 1, **workload: Any) -> Result:
    narrow = {"accuracy": 0.7, "item_ms": 1, "group_ms": 2, "item_mj": 10, "group_mj": 20, "max_batch_size": 4}
    wide = {**narrow, "accuracy": 0.9, "item_ms": 4, "item_mj": 40}
    values = {
        "name": "small",
        "servers": [
            {"name": "both", "idle_w": 5, "widths": {25: narrow, 100: wide}},
            {"name": "narrow", "count": count, "idle_w": 5, "widths": {25: narrow}},
        ],
        "workload": {"load_ratio": 0.4, **workload},
        "objectives": {"deadline_ms": 30},
    }
    path = folder / "small.yaml"
    path.write_text(yaml.safe_dump(values))
    command = ["bounds", "--scenario", str(path), "--requests", "8", "--windows", "2", "--policy", "lert:slack"]
    return CliRunner().invoke(main, [*command, *more])


def test_the_bounds_of_a_scenario_are_shown_and_saved(tmp_path: Path) -> None:
    out = tmp_path / "deep" / "bounds.json"
    run = bounds(tmp_path, "--out", str(out))
    assert run.exit_code == 0, run.output
    found = json.loads(out.read_text())
    fluid = found["fluid"]
    # Four items in 6 ms on each: 1333 items/s in all.
    assert fluid["rate_rps"] == pytest.approx(0.4 * 2 * 4 / 0.006)
    assert 0.7 < fluid["most_accuracy"] < 0.9
    joules = [row[1] for row in fluid["least_joules"]]
    assert joules == sorted(joules)
    assert [(row["server"], row["width"]) for row in found["control_limits"]] == [
        ("both", 25),
        ("both", 100),
        ("narrow", 25),
    ]
    for row in found["control_limits"]:
        best, greedy = (row[f"{rule}_response_s"] + 5e-5 * row[f"{rule}_power_w"] for rule in ("best", "greedy"))
        assert best <= greedy * (1 + 1e-9)
    for window in found["windows"]:
        assert 0 < window["lert:slack"] <= window["most"] + 1e-9
    assert "left to it" in run.output


def test_what_can_not_be_bounded_is_said(tmp_path: Path) -> None:
    many = bounds(tmp_path, count=4)
    assert many.exit_code == 0
    assert "no clairvoyant: a clairvoyant plans for 1 to 3 servers, not 5" in many.output
    over = bounds(tmp_path, "--windows", "0", load_ratio=1.2)
    assert over.exit_code == 0
    assert "are more than the fleet serves for good" in over.output
    assert "unknown policy 'best'" in bounds(tmp_path, "--policy", "best").output


def test_a_disk_that_is_full_says_nothing_of_a_clairvoyant_and_leaves_what_was_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = Journal.write

    def write_first(journal: Journal, values: Mapping[str, Any]) -> None:
        if "result" in values:
            raise NotKeptError("the disk is full")
        write(journal, values)

    monkeypatch.setattr(Journal, "write", write_first)
    run = bounds(tmp_path, "--out", str(tmp_path / "b.json"))
    assert (run.exit_code, "no clairvoyant" in run.output) == (1, False), run.output
    assert "the disk is full" in run.output
    assert not (tmp_path / "b.json").exists()
    assert (tmp_path / "b.json.partial").exists()
