"""Both sides by hand, and a simulated side held against itself."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.fidelity.compare import (
    Figures,
    Pair,
    Round,
    draw_claims,
    pair_up,
    real_figures,
    simulated_figures,
    tau_beyond_chance,
)
from benchmarks.fidelity.counterpart import make_counterpart
from benchmarks.fidelity.open_loop import Outcome
from benchmarks.fidelity.page import Report, make_document, make_page
from benchmarks.fidelity.sessions import ProfileRow, Session, add_session, next_round, profile_rows, read_sessions
from benchmarks.fidelity.testbed import FidelitySettings
from benchmarks.harness.machine import Machine
from orchestrator.errors import ConfigError
from orchestrator.profile.document import read_profile
from orchestrator.reporting.blocks import render_markdown
from orchestrator.snapshot import ServerName, Width

PROFILE = Path(__file__).parents[3] / "profiles" / "demo-fleet.json"
ROW = ProfileRow("fast", 25, (0.001, 0.01), (0.0008, 0.009), (0.0015, 0.011), 0.02)


def answer(latency_s: float, width: int = 100, *, late_s: float = 0.0) -> Outcome:
    return Outcome(0, 0, ServerName("fast"), Width(width), latency_s, deadline_s=0.1, late_s=late_s)


def figures(mean_s: float, p99_s: float = 0.1, attainment_ratio: float = 1.0) -> Figures:
    return Figures(mean_s, p99_s, attainment_ratio, accuracy=0.9, answered_ratio=1.0)


def pair(policy: str, real_s: list[float], simulated_s: list[float]) -> Pair:
    rounds = zip(real_s, simulated_s, strict=True)
    return Pair(policy, tuple(Round(policy, n, figures(r), figures(s)) for n, (r, s) in enumerate(rounds)))


def test_figures_are_of_what_was_answered_since_the_router_was_given_it() -> None:
    lost = Outcome(0, None, None, None, 0.2, 0.1, error="lost")
    found = real_figures([answer(0.02), answer(0.05, width=25, late_s=0.01), answer(0.12), lost], {25: 0.8, 100: 1.0})
    assert found.mean_s == pytest.approx((0.02 + 0.04 + 0.12) / 3)
    assert found.attainment_ratio == pytest.approx(2 / 4)
    assert found.answered_ratio == pytest.approx(3 / 4)
    assert found.accuracy == pytest.approx((1.0 + 0.8 + 1.0) / 3)


def test_claims_name_the_worst_policy_and_rank_the_others() -> None:
    rounds = [
        Round("a", 0, figures(0.010, 0.1, 0.90), figures(0.0104, 0.1, 0.91)),
        Round("b", 0, figures(0.020, 0.2, 0.80), figures(0.0190, 0.21, 0.85)),
        Round("c", 0, figures(0.030, 0.3, 0.70), figures(0.0270, 0.33, 0.95)),
    ]
    by_name = {claim.name: claim for claim in draw_claims(pair_up(rounds))}
    worst = by_name["mean latency, largest error (c)"]
    assert (worst.value, worst.is_met) == (pytest.approx(0.1), False)
    assert by_name["mean latency, median error"].value == pytest.approx(0.05)
    assert by_name["ranking of policies by mean latency, plain Kendall's tau"].value == 1.0
    attainment = by_name["ranking of policies by deadline attainment, plain Kendall's tau"]
    assert attainment.value == pytest.approx(-1 / 3)  # of three pairs one agrees
    assert not attainment.is_met
    assert not any("beyond chance" in name for name in by_name), "one round says nothing of chance"
    assert worst.interval is None, "nor of how sure a value is"


def test_intervals_come_from_the_rounds() -> None:
    alike = {c.name: c for c in draw_claims([pair("a", [0.010] * 4, [0.011] * 4)])}
    sure = alike["mean latency, median error"].interval
    assert sure is not None
    assert (sure.low, sure.high) == pytest.approx((0.1, 0.1))
    unlike = {c.name: c for c in draw_claims([pair("a", [0.010] * 4, [0.010, 0.010, 0.012, 0.012])])}
    unsure = unlike["mean latency, median error"].interval
    assert unsure is not None
    assert (unsure.low, unsure.high) == pytest.approx((0.0, 0.2))


def test_pairs_that_the_real_side_does_not_distinguish_are_not_ranked() -> None:
    quick = pair("quick", [1.0, 1.1, 0.9], [1.0, 1.0, 1.0])
    alike = pair("alike", [1.1, 1.0, 1.0], [2.0, 2.1, 2.2])  # from quick: +0.1, -0.1, +0.1
    slow = pair("slow", [2.0, 2.2, 2.1], [3.0, 3.1, 3.2])
    assert tau_beyond_chance([quick, alike, slow], "mean_s") == (1.0, 2)
    wrong = pair("wrong", [3.0, 3.2, 3.1], [0.5, 0.5, 0.5])
    assert tau_beyond_chance([quick, slow, wrong], "mean_s") == (pytest.approx(-1 / 3), 3)
    unsure = pair("unsure", [3.0, 3.2, 3.1], [3.0, 3.3, 3.0])  # from slow, simulated: 0, +0.2, -0.2
    assert tau_beyond_chance([quick, slow, unsure], "mean_s") == (pytest.approx(2 / 3), 3)
    assert tau_beyond_chance([pair("a", [1.0], [1.0]), pair("b", [2.0], [2.0])], "mean_s") == (None, 0)


def test_errors_are_of_means_over_rounds_and_their_chance_is_of_the_rounds() -> None:
    found = pair("a", [1.0, 3.0], [1.1, 3.5])
    assert found.mean_error == pytest.approx(4.6 / 4 - 1)
    assert found.mean_error_chance == pytest.approx(0.2 / 2)  # differences 0.1 and 0.5: standard error 0.2, of 2


def test_a_simulated_counterpart_has_the_arrivals_of_its_rounds_and_other_noise_in_every_draw() -> None:
    settings = FidelitySettings(Path("unused"), ("lert",), rounds=2, requests=200)
    counterpart = make_counterpart(read_profile(PROFILE), settings, first_round=3)
    assert [(number, len(times_s)) for number, times_s in counterpart.arrivals_s.items()] == [(3, 200), (4, 200)]
    assert counterpart.arrivals_s == make_counterpart(read_profile(PROFILE), settings, first_round=3).arrivals_s
    results = counterpart.run("lert", 4, [0.0] * 200, noise_draws=3)
    assert [r.seed for r in results] == [4, 4, 4]
    assert len({r.mean_s for r in results}) == 3
    found = simulated_figures(results)
    assert found.answered_ratio == 1.0
    assert min(r.mean_s or 0 for r in results) < found.mean_s < max(r.mean_s or 0 for r in results)


def test_what_is_given_late_arrives_late_and_in_order_and_its_deadline_stays() -> None:
    settings = FidelitySettings(Path("unused"), ("lert",), rounds=1, requests=50)
    counterpart = make_counterpart(read_profile(PROFILE), settings)
    (prompt,) = counterpart.run("lert", 0, [0.0] * 50, noise_draws=1)
    stalled_s = [10.0, *[0.0] * 49]  # all that follow come at the same time
    (late,) = counterpart.run("lert", 0, stalled_s, noise_draws=1)
    assert late.duration_s > 10 > prompt.duration_s
    assert (prompt.attainment_ratio, late.attainment_ratio) == (1.0, 0.0)
    assert (late.mean_s or 0) < 1


def test_sessions_are_kept_and_their_rounds_are_numbered_on(tmp_path: Path) -> None:
    measured = (*pair("a", [1.0, 2.0], [1.1, 2.1]).rounds, *pair("b", [3.0, 4.0], [3.1, 4.2]).rounds)
    first = Session("2026-01-01", 240.0, 0, (ROW,), measured)
    assert next_round(()) == 0
    add_session(first, tmp_path / "new")
    second = Session(
        "2026-01-02", 260.0, 1, (ROW,), tuple(replace(r, number=r.number + next_round([first])) for r in first.rounds)
    )
    add_session(second, tmp_path / "new")
    assert read_sessions(tmp_path / "new") == (first, second)
    assert [r.number for r in second.rounds] == [2, 3, 2, 3]
    report = Report(Machine("a CPU", 2, 1, "a kernel", 0.0), {}, FidelitySettings(Path("r"), ("a",)), (first, second))
    page = render_markdown(make_page(report))
    words = " ".join(page.split())
    assert "240 to 260 requests a second" in words
    assert "4 rounds of 1,500 in 2 session(s)" in words
    assert all(len(line) <= 120 for line in page.splitlines() if not line.startswith("|"))
    document = make_document(report, draw_claims(report.pairs))
    values = json.loads(json.dumps(document), parse_constant=pytest.fail)
    assert [row["policy"] for row in values["rows"]] == ["a", "b"]
    assert len(values["sittings"]) == 2
    assert {"name", "value", "bar", "is_floor", "met", "interval"} <= values["claims"][0].keys()
    assert not any("attainment, plain" in claim["name"] for claim in values["claims"]), "all were in time: no order"
    (tmp_path / "new" / "sessions.jsonl").write_text("{\n")
    with pytest.raises(ConfigError, match=r"sessions\.jsonl line 1 is damaged .*; remove "):
        read_sessions(tmp_path / "new")


def test_a_profile_that_says_nothing_of_load_is_shown_as_it_is() -> None:
    profile = read_profile(PROFILE)
    row = profile_rows(profile)[0]
    batches = profile.servers[0].models[0].batches
    assert row.busy_s == row.rested_s == row.alone_s == (batches[0].mean_s, batches[-1].mean_s)
