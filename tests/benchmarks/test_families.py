"""The arithmetic of the benchmark of families, its repository, and its page; the run is ``make bench-families``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from benchmarks.families import FLOODS, WIDTHS, Results, Sample, copy_family, draw_claims, main, make_page
from benchmarks.harness.machine import Machine
from export.repository.model_config import parse_config
from orchestrator.reporting.blocks import render_markdown
from orchestrator.snapshot import ServedModel
from orchestrator.triton.families import read_width

ROOT = Path(__file__).parents[2]


def run(*lost: float) -> Results:
    """A run of as many rounds, in which the calm family loses so much of what is in time beside each flood."""
    samples = [
        Sample(
            flood=flood.name,
            round=number,
            is_beside=is_beside,
            requests=240,
            in_time=0.99 - (part if is_beside else 0.0),
            refused=0.01,
            p99_s=0.05,
            sent_late_s=0.001,
            flood_rps=4321.0 if is_beside else 0.0,
            flood_in_time=0.1 if is_beside else 0.0,
            flood_sent_late_s=0.002 if is_beside else 0.0,
            gateway_cores=0.5,
        )
        for flood in FLOODS
        for number, part in enumerate(lost)
        for is_beside in ((False, True) if number % 2 == 0 else (True, False))
    ]
    return Results(
        taken_at="2026-01-01T00:00:00+00:00",
        machine=Machine("a CPU", 2, 2**33, "Linux 6", 0.1),
        versions={"python": "3.11"},
        rounds=len(lost),
        seconds=6.0,
        capacity_rps=432.0,
        samples=tuple(samples),
    )


def test_a_claim_is_the_mean_of_what_was_lost_within_rounds() -> None:
    for claim in draw_claims(run(0.01, 0.02, 0.0)):
        assert claim.value == pytest.approx(1.0)
        assert claim.is_met
        assert claim.interval is not None and claim.interval.low < 1.0 < claim.interval.high
    assert not any(claim.is_met for claim in draw_claims(run(0.03, 0.02, 0.02)))


def test_page_and_claims_are_made_anew_from_the_numbers(tmp_path: Path) -> None:
    results = run(0.01, 0.02, 0.0)
    claims = list(draw_claims(results))
    (tmp_path / "families.json").write_text(json.dumps(results.encode_with(claims)))
    done = CliRunner().invoke(main, ["--from", str(tmp_path / "families.json"), "--out", str(tmp_path)])
    assert done.exit_code == 0, done.output
    page = (tmp_path / "families.md").read_text()
    assert page == render_markdown(list(make_page(results, claims)))
    assert "98.0 ±" in page and "4321" in page and "432 requests" in page


def test_a_copied_family_is_one_of_its_own(tmp_path: Path) -> None:
    for family in ("calm", "flood"):
        copy_family(ROOT / "model_repository", family, tmp_path)
    assert len(list(tmp_path.iterdir())) == 2 * len(WIDTHS)
    for folder in tmp_path.iterdir():
        model = read_width(parse_config((folder / "config.pbtxt").read_text()), {})
        assert isinstance(model, ServedModel)
        assert (model.name, f"{model.family}_w{model.width:03d}") == (folder.name, folder.name)
