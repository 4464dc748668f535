from __future__ import annotations

from collections.abc import Sequence

import pytest

from benchmarks.suites.choices import (
    Baselines,
    best_heuristic,
    most_accurate_point,
    rank_defaults,
    thriftiest_point,
)
from benchmarks.suites.generalisation import generalisation_claims
from benchmarks.suites.paper import left_out, paper_claims
from benchmarks.suites.policies import FALLBACK
from benchmarks.suites.standard import draw_comparisons, improvement, standard_claims, utility_closed
from orchestrator.evaluation.cases import LEARNED
from orchestrator.evaluation.scores import ScenarioScores, Score
from orchestrator.policies.learned.policy import has_shipped
from orchestrator.policies.learned.policy_file import PAPER
from orchestrator.simulation.scenario.fleet import linear_model
from tests.evaluation.example_suites import scenario_scores, score
from tests.simulation.worlds import servers


def of(
    label: str, accuracy: float, joules: float, *, in_time: float = 0.99, utility: float = 0.5, **more: float
) -> Score:
    return score(label, accuracy=accuracy, joules_per_answer=joules, attainment_ratio=in_time, utility=utility, **more)


def compared_scenarios(test: Sequence[Score], validation: Sequence[Score] | None = None) -> list[ScenarioScores]:
    return [scenario_scores("calm", test), scenario_scores("calm", validation or test, is_validation=True)]


HEURISTICS = (of("jsq:slack", 0.75, 0.5, utility=0.6), of("nexus", 0.75, 0.4, utility=0.7))


def test_heuristic_and_points_are_chosen_on_validation_and_compared_on_test() -> None:
    test = [of("jsq:slack", 0.75, 0.1, utility=0.9), of("nexus", 0.75, 0.4), of(LEARNED, 0.7495, 0.3)]
    scenarios = compared_scenarios(test, [*HEURISTICS, of(LEARNED, 0.75, 0.4)])
    comparison = draw_comparisons(scenarios)[0]
    assert comparison.heuristic == "nexus"  # whatever the test scenario shows
    joules, accuracy, *_ = standard_claims(scenarios)
    assert joules.value == pytest.approx(0.25)
    assert joules.is_met
    assert accuracy.value == pytest.approx(-0.0005)
    assert not accuracy.is_met


def test_joules_saved_at_the_price_of_accuracy_or_deadlines_meet_no_claim() -> None:
    for worse in (of(LEARNED, 0.74, 0.2), of(LEARNED, 0.76, 0.2, in_time=0.98)):
        claim = next(standard_claims(compared_scenarios([*HEURISTICS, worse])))
        assert not claim.is_met
        assert "equal in 0 of 1" in claim.note


def test_the_thrifty_point_equals_the_heuristic_and_the_accurate_one_takes_no_more() -> None:
    points = (
        of(f"{LEARNED},energy=1", 0.70, 0.1),
        of(LEARNED, 0.749, 0.3),
        of(f"{LEARNED},accuracy=1", 0.78, 0.403),
        of(f"{LEARNED},latency=1", 0.79, 0.5, utility=0.8),
    )
    validation = scenario_scores("calm", [*HEURISTICS, *points], is_validation=True)
    assert thriftiest_point(validation, "nexus") == LEARNED
    assert most_accurate_point(validation, "nexus") == f"{LEARNED},accuracy=1"
    late = [of(p.entry.label, 0.8, 0.1, in_time=0.5, utility=at) for at, p in enumerate(points)]
    hopeless = scenario_scores("calm", [*HEURISTICS, *late], is_validation=True)
    assert thriftiest_point(hopeless, "nexus") == f"{LEARNED},latency=1"  # of the most utility
    assert (best_heuristic(None), thriftiest_point(None, FALLBACK)) == (FALLBACK, LEARNED)


def test_comparisons_are_with_the_best_of_all_and_with_the_best_of_the_literature() -> None:
    scenarios = compared_scenarios([*HEURISTICS, of("thrift", 0.75, 0.25, utility=0.8), of(LEARNED, 0.75, 0.2)])
    assert [draw_comparisons(scenarios, baselines)[0].heuristic for baselines in Baselines] == ["thrift", "nexus"]
    all_joules, _, literature_joules, *_, alone = standard_claims(scenarios)
    assert "best tuned heuristic of all," in all_joules.name
    assert "of the literature (all but thrift)," in literature_joules.name
    assert all_joules.value == pytest.approx(1 - 0.2 / 0.25)
    assert literature_joules.value == pytest.approx(1 - 0.2 / 0.4)
    assert alone.value == pytest.approx(0.8 / 0.75 - 1)  # of all
    # Where nothing of the literature ran there is nothing to hold a point against.
    own = compared_scenarios([of("thrift", 0.75, 0.25), of(LEARNED, 0.75, 0.2)])
    assert draw_comparisons(own, Baselines.LITERATURE) == ()
    assert [claim.value for claim in standard_claims(own)][2:4] == [None, None]


def test_beside_joules_saved_stands_what_the_fluid_bound_leaves_to_save() -> None:
    models = [
        linear_model(width, per_item_s=0.001, accuracy=accuracy, per_item_j=joules, max_batch_size=4)
        for width, accuracy, joules in ((25, 0.7, 1.0), (100, 0.8, 3.0))
    ]
    # At 0.748, 0.2 points below the heuristic, 48 % go to the wide model: 1.96 J, and 1 J of idle power at 10/s.
    bounded = {"fleet": tuple(servers(1, *models, idle_w=10.0)), "rate_rps": 10.0, "most_accuracy": 0.8}
    test = [of("nexus", 0.75, 3.7), of(LEARNED, 0.75, 3.33)]
    (comparison,) = draw_comparisons(
        [scenario_scores("calm", test, **bounded), scenario_scores("calm", test, is_validation=True, **bounded)]
    )
    assert comparison.most_saved_ratio == pytest.approx(1 - 2.96 / 3.7)
    assert comparison.joules_closed is not None
    assert comparison.joules_closed.value == pytest.approx(0.5)
    (unknown,) = draw_comparisons(compared_scenarios(test))
    assert (unknown.most_saved_ratio, unknown.joules_closed) == (None, None)
    thrifty = [of("nexus", 0.75, 2.9), of(LEARNED, 0.75, 2.9)]  # a short run may end below the bound
    (none,) = draw_comparisons(
        [scenario_scores("calm", thrifty, **bounded), scenario_scores("calm", thrifty, is_validation=True, **bounded)]
    )
    assert none.joules_closed is None


def test_by_utility_the_best_point_of_validation_is_held_against_the_best_heuristic() -> None:
    spread = [0.001 * at for at in range(8)]
    point = f"{LEARNED},energy=1"

    def scenario(stem: str, utility: float, most: float | None) -> list[ScenarioScores]:
        test = [
            score("nexus", utility=[0.6 + s for s in spread]),
            score(LEARNED, utility=0.9),
            score(point, utility=[utility + s + (0.01 if at % 2 else -0.01) for at, s in enumerate(spread)]),
        ]
        chosen = [of("nexus", 0.75, 0.4, utility=0.6), of(LEARNED, 0.75, 0.4), of(point, 0.75, 0.4, utility=0.8)]
        return [scenario_scores(stem, test, most_utility=most), scenario_scores(stem, chosen, is_validation=True)]

    scenarios = [
        *scenario("ahead", 0.65, 0.7035),
        *scenario("behind", 0.55, 0.7035),
        *scenario("even", 0.60, 0.7035),
        *scenario("served", 0.65, 0.6045),  # next to nothing is left to gain
        *scenario("overloaded", 0.65, None),
    ]
    comparisons = draw_comparisons(scenarios)
    assert {comparison.best for comparison in comparisons} == {point}
    assert [str(comparison.verdict) for comparison in comparisons] == [
        "higher",
        "lower",
        "undecided",
        "higher",
        "higher",
    ]
    assert [comparison.utility_gap is None for comparison in comparisons] == [False, False, False, True, True]
    shares = [utility_closed([comparison]) for comparison in comparisons]
    assert [share and pytest.approx(share.value, abs=0.03) for share in shares] == [0.5, -0.5, 0.0, None, None]
    mean = utility_closed(comparisons)
    assert mean is not None
    assert mean.interval is not None
    assert mean.value == pytest.approx(sum(share.value for share in shares[:3] if share) / 3)
    assert mean.interval.low < mean.value < mean.interval.high
    assert utility_closed(comparisons[3:]) is None


def test_hypervolumes_are_held_against_all_heuristics_and_against_the_best_alone() -> None:
    # 0.75 · 0.99 · 0.6 of nexus alone, with jsq inside of it; the learned points dominate 0.75 · 0.99 · 0.8.
    scenarios = compared_scenarios([*HEURISTICS, of(LEARNED, 0.75, 0.2)])
    *_, together, alone = standard_claims(scenarios)
    assert together.value == pytest.approx(0.8 / 0.6 - 1)
    assert alone.value == pytest.approx(0.8 / 0.6 - 1)
    assert together.is_met
    improved = improvement(draw_comparisons(scenarios))
    assert improved is not None
    assert improved.value == 0  # utilities of 0.5 against 0.7


def test_claims_stay_in_the_report_when_nobody_learned() -> None:
    claims = [
        *standard_claims(compared_scenarios(HEURISTICS)),
        *generalisation_claims([scenario_scores("x", HEURISTICS)]),
    ]
    assert len(claims) == 7
    assert all(claim.value is None and not claim.is_met for claim in claims)


def test_the_worst_held_out_scenario_counts_with_the_share_of_the_guard() -> None:
    def transfer(stem: str, utility: float, share: float) -> ScenarioScores:
        return scenario_scores(
            stem, [of(FALLBACK, 0.7, 0.5, utility=0.8), of(LEARNED, 0.7, 0.5, utility=utility, fallback_ratio=share)]
        )

    (claim,) = generalisation_claims([transfer("good", 0.9, 0.0), transfer("bad", 0.7601, 0.5)])
    assert claim.value == pytest.approx(1 - 0.7601 / 0.8)
    assert claim.is_met
    assert "in bad" in claim.note
    assert "0.0% to 50.0%" in claim.note
    (claim,) = generalisation_claims([transfer("good", 0.9, 0.0), transfer("worse", 0.75, 0.5)])
    assert not claim.is_met


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
    assert rank_defaults([scenario_scores("a", HEURISTICS)]) == ()
