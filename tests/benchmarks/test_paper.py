"""The paper's experiment on real servers: its arithmetic, journal and page; the run is ``make bench-paper``."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import pytest
import yaml

from benchmarks.harness.machine import Machine
from benchmarks.harness.rows import Taken
from benchmarks.paper import (
    DEFAULT,
    PPO,
    RATIOS,
    RULES,
    SERVERS,
    Row,
    _scenario,
    about,
    draw_claims,
    less_than,
    make_page,
)
from orchestrator.errors import ConfigError
from orchestrator.reporting.blocks import render_markdown
from orchestrator.reporting.journal import Journal
from orchestrator.simulation.scenario.settings import ScenarioSettings

MACHINE = Machine("a processor", 2, 8 << 30, "Linux 6", load_before=0.1)
MEAN_S = dict.fromkeys((DEFAULT, *RULES), 0.1) | {"random": 0.4} | dict.fromkeys(PPO.values(), 0.01)


def rows() -> list[Row]:
    return [
        Row(name, ratio, number, mean_s * (1 + number), 0.02, 0.3, 50.0, 0.9, mean_s * 10, 0.99)
        for number in (0, 1)
        for ratio in RATIOS
        for name, mean_s in MEAN_S.items()
    ]


def test_savings_are_of_the_same_round() -> None:
    found = less_than(rows(), 0.3, PPO["slimmest"], "random", "mean_s")
    assert found.value == pytest.approx(0.975)
    assert found.most == pytest.approx(found.least)  # the second round is slower for all alike


def test_the_paper_s_savings_and_that_nothing_is_slower_are_promised_at_each_load() -> None:
    claims = list(draw_claims(rows()))
    assert len(claims) == len(RATIOS) * (2 + 2 * len(PPO))
    assert all(claim.is_met for claim in claims)
    slow = [Row(**{**asdict(row), "mean_s": 1.0}) if row.set_up == PPO["accurate"] else row for row in rows()]
    missed = [claim.name for claim in draw_claims(slow) if not claim.is_met]
    assert len(missed) == 2 * len(RATIOS)
    assert all("accurate: no slower than random" in name for name in missed)


def test_a_run_goes_on_where_it_was_interrupted_and_is_told_on_the_page(tmp_path: Path) -> None:
    path, taken = tmp_path / "journal.jsonl", Taken(about(MACHINE, 12.0, 3.0), Row)
    with Journal(path, taken.replay, remedy="remove it") as journal:
        journal.write({**taken.about, "capacity_rps": 100.0})
        for row in rows():
            journal.write(asdict(row))
    again = Taken(about(MACHINE, 12.0, 3.0), Row)
    Journal(path, again.replay, remedy="remove it")
    assert (again.capacity_rps, again.rows) == (100.0, rows())
    page = render_markdown(list(make_page(again, list(draw_claims(again.rows)), MACHINE)))
    assert "100 requests a second" in page
    assert "rtx-2080-ti-class" in page
    with pytest.raises(ConfigError, match=r"was begun with minutes = 3\.0, now it is 1\.0"):
        Journal(path, Taken(about(MACHINE, 12.0, 1.0), Row).replay, remedy="remove it to begin anew")


def test_what_is_trained_in_is_a_scenario_of_the_same_servers() -> None:
    settings = ScenarioSettings.model_validate(yaml.safe_load(yaml.safe_dump(_scenario())))
    assert [server.name for server in settings.servers] == list(SERVERS)
    assert settings.controller is not None
    assert settings.controller.period_s == 0.5
