"""The arithmetic of the benchmark of tracing, its page and its receiver; the run itself is ``make bench-tracing``."""

from __future__ import annotations

import json
import urllib.request
from pathlib import Path

import pytest
from click.testing import CliRunner

from benchmarks.harness.machine import Machine
from benchmarks.tracing import WITH, WITHOUT, Results, Sample, draw_claims, main, make_page, receiving
from orchestrator.reporting.blocks import render_markdown


def run(*factors: float) -> Results:
    """A run whose rounds are ever faster, in which the gateway that traces answers so much of the other's."""
    samples = [
        Sample(way, number, 1000.0 * 2**number * (factor if way == WITH else 1.0), 1e-4)
        for number, factor in enumerate(factors)
        for way in (WITHOUT, WITH)
    ]
    return Results(
        taken_at="2026-01-01T00:00:00+00:00",
        machine=Machine("a CPU", 2, 2**33, "Linux 6", 0.1),
        versions={"python": "3.11"},
        rounds=len(factors),
        requests=500,
        samples=tuple(samples),
        posted_bytes=5000,
    )


def test_the_claim_is_the_mean_of_ratios_within_rounds() -> None:
    (claim,) = draw_claims(run(0.97, 1.0, 1.0))
    assert claim.value == pytest.approx(0.99)
    assert claim.is_met
    assert claim.interval is not None
    assert claim.interval.low < 0.98 < claim.interval.high
    (claim,) = draw_claims(run(0.97, 0.98, 0.97))
    assert not claim.is_met


def test_page_and_claims_are_made_anew_from_the_numbers(tmp_path: Path) -> None:
    results = run(0.99, 0.98, 1.0)
    claims = list(draw_claims(results))
    (tmp_path / "tracing.json").write_text(json.dumps(results.encode_with(claims)))
    done = CliRunner().invoke(main, ["--from", str(tmp_path / "tracing.json"), "--out", str(tmp_path)])
    assert done.exit_code == 0, done.output
    page = (tmp_path / "tracing.md").read_text()
    assert page == render_markdown(list(make_page(results, claims)))
    assert "0.99" in page


def test_what_is_posted_is_taken() -> None:
    with receiving() as (endpoint, received):
        with urllib.request.urlopen(urllib.request.Request(endpoint, b"spans", method="POST"), timeout=10) as answer:
            assert answer.status == 200
        assert received == [5]
