"""The frozen test from end to end on a small folder: it fits, judges, goes on where it was, and reports."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import frozen
from benchmarks.frozen import __main__ as command
from benchmarks.frozen.drawing import digest_all
from benchmarks.frozen.fits import Budget, fit_all
from benchmarks.frozen.judgement import plan
from orchestrator.errors import ConfigError
from orchestrator.evaluation.cases import Extent
from orchestrator.evaluation.document import make_document
from orchestrator.evaluation.page import make_page
from orchestrator.executors import run_here
from orchestrator.learning.evolution import PORTFOLIO
from orchestrator.reporting.blocks import render_markdown
from tests.evaluation.example_suites import SCENARIO

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:tensorboard.*"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:torch.*"),
]


def test_it_chooses_fits_judges_and_reports_and_does_nothing_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "scenarios"
    folder.mkdir()
    (folder / "calm.yaml").write_text(SCENARIO.format(name="calm", load=0.5, requests=300))
    monkeypatch.setattr(command, "FOLDER", folder)
    monkeypatch.setattr(command, "DIGEST", digest_all(folder))
    monkeypatch.setattr(command, "_draw_worlds", lambda place, each: [folder / "calm.yaml"])
    said: list[str] = []
    suites = [
        command.judge(
            tmp_path / "work", Extent(3, 2, 1), budget=Budget(0.0, 0.0), each=1, execute=run_here, say=said.append
        )
        for _ in range(2)
    ]
    assert suites[0].fits == suites[1].fits
    assert sum(line.startswith("calm: ") for line in said) == 1  # fitted once
    suite = suites[1]
    document = make_document(suite, Extent(3, 2, 1), suite.narrowed(), {"versions": {}, "taken_at": "", "machine": ""})
    assert json.loads(json.dumps(document, allow_nan=False))["claims"][0]["bar"] == 0.015
    (compared,) = document["compared"]
    assert {"thrift", "evolution", "ppo", "fitted", suite.single} <= compared["utilities"].keys()
    assert set(suite.fits["calm"].tuned) == set(PORTFOLIO)
    assert compared["best_tuned"] in suite.fits["calm"].tuned.values()
    assert compared["utilities"]["fitted"] == compared["utilities"].get(compared["specs"]["fitted"]) or (
        compared["promoted"] in ("evolution", "ppo", "ppo-evolved")
    )
    page = render_markdown(make_page(suite, document, {}))
    assert "make bench-frozen" in page
    assert frozen.DIGEST in page


def test_fits_of_another_budget_are_not_gone_on_with(tmp_path: Path) -> None:
    (tmp_path / "calm.yaml").write_text(SCENARIO.format(name="calm", load=0.5, requests=300))
    cases = plan([tmp_path / "calm.yaml"], 1, None, ("thrift",))
    (tmp_path / "fits.jsonl").write_text('{"present":"thrift","learner":9,"rule":1,"code":"x"}\n')
    with pytest.raises(ConfigError, match=r"was begun with code = x, now it is \w+; remove it to begin anew"):
        fit_all(cases, "thrift", budget=Budget(9, 1), folder=tmp_path, execute=run_here, say=lambda text: None)
