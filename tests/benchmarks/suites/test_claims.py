from __future__ import annotations

import pytest

from benchmarks.suites.choices import best_heuristic, best_point, rank_defaults, rank_tested
from benchmarks.suites.paper import left_out, paper_claims
from benchmarks.suites.policies import FALLBACK
from orchestrator.evaluation.cases import LEARNED
from orchestrator.evaluation.scores import ScenarioScores, Score
from orchestrator.policies.learned.policy import has_shipped
from orchestrator.policies.learned.policy_file import PAPER
from tests.evaluation.example_suites import scenario_scores, score


def of(
    label: str, accuracy: float, joules: float, *, in_time: float = 0.99, utility: float = 0.5, **more: float
) -> Score:
    return score(label, accuracy=accuracy, joules_per_answer=joules, attainment_ratio=in_time, utility=utility, **more)


def paper_scenario(load: float, *, latency: float, energy: float, is_validation: bool = False) -> ScenarioScores:
    def row(label: str, mean_s: float, attributed: float, joules: float, accuracy: float, slim: float) -> Score:
        found = score(
            label, mean_s=mean_s, attributed_j=attributed, joules_per_answer=joules, accuracy=accuracy,
            attainment_ratio=1.0,
        )  # fmt: skip
        found.width_shares.update({25: slim, 100: 1 - slim})  # type: ignore[attr-defined]
        return found

    return scenario_scores(
        f"paper-{load:.0%}",
        [
            row("random", 1.0, 1.0, 0.5, 0.73, 0.5),
            row("lert:narrowest", 1 - latency, 1 - energy, 0.4, 0.70, 1.0),
            row("nexus:75", 0.6, 0.6, 0.45, 0.75, 0.0),
        ],
        is_validation=is_validation,
        load_ratio=load,
    )


def test_ppo_paper_is_held_against_both_random_ones_at_every_load() -> None:
    figures = {"random": 1.0, "random-batch": 0.5, "ppo-paper": 0.8, "ppo-paper:accurate": 0.4}
    scores = [score(label, mean_s=mean_s, attainment_ratio=1.0) for label, mean_s in figures.items()]
    own = [claim for claim in paper_claims([scenario_scores("paper", scores)]) if "ppo-paper" in claim.name]
    assert [claim.value for claim in own] == pytest.approx([0.2, -0.6, 0.6, 0.2])
    assert [claim.is_met for claim in own] == [True, False, True, True]


def test_the_points_of_the_paper_name_the_lightest_load_at_which_they_hold() -> None:
    loads = [(0.3, 0.80, 0.70), (0.6, 0.97, 0.98), (0.85, 0.99, 0.99)]
    scenarios = [
        paper_scenario(load, latency=latency, energy=energy, is_validation=is_validation)
        for load, latency, energy in loads
        for is_validation in (False, True)
    ]
    claims = list(paper_claims(scenarios))
    latency, energy, accuracy, less_s, less_j = claims[:5]
    assert latency.value == pytest.approx(0.97)
    assert energy.is_met
    assert "`lert:narrowest` at 60%" in latency.note
    assert "loads: 60%, 85%" in latency.note
    assert "true energy 20.00% less" in energy.note
    assert accuracy.value == pytest.approx(0.02)
    assert less_s.value == pytest.approx(0.4)
    assert less_j.value == pytest.approx(0.1)
    assert "`nexus:75` at 30%" in less_j.note
    assert [claim.value for claim in claims[5:10]] == [None] * 5  # nobody learned
    assert {claim.note for claim in claims[10:15]} == {"`random-batch` was not run"}
    assert len({claim.name for claim in claims}) == len(claims) == 20


def test_points_are_held_against_both_readings_of_random_and_neither_is_held_to_one() -> None:
    def row(label: str, mean_s: float, joules: float, accuracy: float = 0.7) -> Score:
        figures = {"mean_s": mean_s, "attributed_j": mean_s, "joules_per_answer": joules, "accuracy": accuracy}
        return score(label, traces=8, is_tuned=False, **figures, attainment_ratio=1.0)

    own = [row("random", 1.0, 0.5), row("random-batch", 0.5, 0.1), row("lert:75", 0.4, 0.2), row("jsq", 0.6, 0.05)]
    claims = {
        claim.name: claim
        for claim in paper_claims([scenario_scores("x", own), scenario_scores("x", own, is_validation=True)])
    }
    at = "no less accurate, heuristic against"
    plain, late = (claims[f"{at} {name}: mean latency less"] for name in ("random", "random-batch"))
    assert "`jsq`" in plain.note  # takes the fewest joules of what is quicker
    assert plain.value == pytest.approx(0.4)
    assert "`lert:75`" in late.note  # for jsq is slower than this baseline
    assert late.value == pytest.approx(0.2)
    assert claims[f"{at} random-batch: true energy less"].value == pytest.approx(-1.0)
    assert all("`random" not in claim.note for claim in claims.values())


def test_the_page_says_why_ppo_paper_did_not_run() -> None:
    reason = left_out([scenario_scores("x", [of("random", 0.7, 0.5)])])
    assert reason is not None
    assert "`ppo-paper` was left out" in reason
    assert ("none ships" in reason) != has_shipped(PAPER)
    assert left_out([scenario_scores("x", [of("random", 0.7, 0.5), of(f"{PAPER}:runs/a.npz", 0.7, 0.5)])]) is None


def test_a_point_that_never_holds_is_stated_at_the_heaviest_load() -> None:
    latency, energy, *_ = paper_claims([paper_scenario(load, latency=0.97, energy=0.5) for load in (0.85, 0.3)])
    assert "at 85%" in latency.note
    assert "loads: none" in energy.note
    assert not energy.is_met


def test_the_default_is_who_wins_on_validation_without_tuning() -> None:
    def scenario(stem: str, *utilities: float) -> ScenarioScores:
        labels = ("nexus", "jsq:slack", "achq untuned", LEARNED)
        own = [of(label, 0.7, 0.5, utility=u) for label, u in zip(labels, utilities, strict=True)]
        return scenario_scores(stem, [*own, score("achq", is_tuned=True, utility=0.99)], is_validation=True)

    ranked = rank_defaults([scenario("a", 0.9, 0.5, 0.6, 0.8), scenario("b", 0.2, 0.4, 0.7, 0.8)])
    assert [r.label for r in ranked] == [LEARNED, "achq", "nexus", "jsq:slack"]
    assert ranked[0].utility.value == pytest.approx(0.8)
    assert (ranked[2].worst_scenario, ranked[2].worst_loss) == ("b", pytest.approx(0.79))
    # Where nothing was tuned for a scenario, the policy itself stands there.
    plain = scenario_scores("c", [of(label, 0.7, 0.5, utility=0.5) for label in ("nexus", "achq")], is_validation=True)
    assert {r.label for r in rank_defaults([scenario("a", 0.9, 0.5, 0.6, 0.8), plain])} == {"nexus", "achq"}
    assert rank_defaults([scenario_scores("a", [of("jsq:slack", 0.75, 0.5)])]) == ()


def test_over_test_scenarios_policies_are_ranked_as_they_ran_there() -> None:
    tuned = score("achq", is_tuned=True, utility=0.6)
    tests = [scenario_scores("a", [of("nexus", 0.7, 0.5, utility=0.9), tuned])]
    tests += [scenario_scores("b", [of("nexus", 0.7, 0.5, utility=0.1), tuned])]
    ranked = rank_tested([*tests, scenario_scores("c", [of("jsq", 0.7, 0.5)], is_validation=True)])
    assert [(r.label, r.worst_scenario, round(r.worst_loss, 6)) for r in ranked] == [
        ("achq", "a", 0.3),
        ("nexus", "b", 0.5),
    ]


def test_heuristic_and_point_are_chosen_on_validation_alone() -> None:
    points = [of(LEARNED, 0.7, 0.3, utility=0.6), of(f"{LEARNED},energy=1", 0.7, 0.1, utility=0.7)]
    rules = [of("jsq:slack", 0.75, 0.5, utility=0.6), of("nexus", 0.75, 0.4, utility=0.7)]
    validation = scenario_scores(
        "calm", [*rules, *points, of("jsq untuned", 0.7, 0.5, utility=0.9)], is_validation=True
    )
    assert (best_heuristic(validation), best_point(validation)) == ("nexus", f"{LEARNED},energy=1")
    assert (best_heuristic(None), best_point(None)) == (FALLBACK, LEARNED)
