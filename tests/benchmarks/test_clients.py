"""The matrix of perf_analyzer runs, and what a run of foreign clients is held against."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.clients.analyses import analyses, secured_options
from benchmarks.clients.page import make_page
from benchmarks.clients.results import PLAIN, SECURED, AnalyzerRun, KserveCall, Results, draw_claims
from benchmarks.harness.machine import Machine
from benchmarks.harness.run import parse_run
from orchestrator.reporting.blocks import render_markdown

GOOD = Results(
    taken_at="2026-11-25T12:00:00+00:00",
    took_s=100.0,
    machine=Machine(cpu="x", cpus=2, memory_bytes=2**34, kernel="Linux 6", load_before=0.1),
    versions={"kserve": "0.21.0"},
    runs=(AnalyzerRun("grpc, fashion", PLAIN, 60, ""), AnalyzerRun("http, fashion", SECURED, 60, "")),
    kserve=(KserveCall("gRPC", "infer", PLAIN, "logits", "logits", True),),
    kserve_left_out=(),
    kserve_problem="",
)


def test_analyses_are_distinguished_and_ask_for_what_they_say() -> None:
    found = {str(analysis): analysis.arguments("here:1") for analysis in analyses()}
    assert len(found) == len(analyses())
    for name, arguments in found.items():
        assert ("--streaming" in arguments) == ("streaming" in name)
        assert ("--sync" in arguments) == (" sync," in name)
        assert arguments[arguments.index("-b") + 1] == ("8" if "batch 8" in name else "1")
        assert ("--request-rate-range" in arguments) == ("requests/s" in name)


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_secured_runs_trust_one_authority_and_show_the_token(protocol: str) -> None:
    options = secured_options(protocol, Path("ca.pem"), "secret")
    assert "ca.pem" in options
    assert "authorization: Bearer secret" in options


def test_claims_are_met_when_nothing_failed_and_all_was_tried() -> None:
    assert all(claim.is_met for claim in draw_claims(GOOD))


@pytest.mark.parametrize(
    "worse",
    [
        {"runs": (AnalyzerRun("grpc, fashion", PLAIN, 3, "3 of 60 requests answered"),)},
        {"kserve": (KserveCall("REST", "infer", SECURED, "500", "logits", False),)},
        {"kserve_left_out": ("explain",)},
        {"kserve_problem": "kserve was not tried", "kserve": ()},
    ],
)
def test_what_failed_differs_or_was_not_tried_is_no_claim_met(worse: dict[str, object]) -> None:
    results = replace(GOOD, **worse)  # type: ignore[arg-type]
    assert not all(claim.is_met for claim in draw_claims(results))
    assert "**not met**" in render_markdown(make_page(results))


def test_page_and_json_hold_every_finding() -> None:
    page, written = render_markdown(make_page(GOOD)), json.loads(json.dumps(GOOD.encode()))
    for run in GOOD.runs:
        assert f"| {run.name} | {run.place} | 60 | ok |" in page
    assert "## Claims: 3 of 3 met" in page
    assert written["runs"][1]["place"] == SECURED


def test_the_committed_page_is_of_the_committed_run_of_all_analyses_there_are() -> None:
    folder = Path(__file__).parents[2] / "docs" / "benchmarks"
    written = json.loads((folder / "clients.json").read_text())
    page = (folder / "clients.md").read_text()
    assert written["taken_at"] in page
    assert {run["name"] for run in written["runs"]} == {str(analysis) for analysis in analyses()}
    claims = written.pop("claims")
    run = parse_run(Results, written, "clients' benchmark")
    assert [claim["met"] for claim in claims] == [claim.is_met for claim in draw_claims(run)]
    for analyzed in run.runs:
        assert f"| {analyzed.name} | {analyzed.place} | {analyzed.requests} | {analyzed.problem or 'ok'} |" in page
    for call in run.kserve:
        assert f"| {call.client} | {call.name} | {call.place} |" in page
