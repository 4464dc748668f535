from __future__ import annotations

import pytest

from benchmarks.controller.claims import draw_claims
from benchmarks.controller.results import RefusalSeen, Results
from orchestrator.reporting.claim import Claim
from tests.benchmarks.controller import runs


def claim(results: Results, start: str) -> Claim:
    found = [claim for claim in draw_claims(results) if claim.name.startswith(start)]
    assert len(found) == 1, [c.name for c in draw_claims(results)]
    return found[0]


def test_a_good_run_meets_them_all() -> None:
    claims = draw_claims(runs.full())
    assert len(claims) == 14
    assert [c.name for c in claims if not c.is_met] == []


def test_what_has_no_numbers_claims_nothing() -> None:
    assert draw_claims(runs.results()) == ()


def test_the_ratio_is_of_medians() -> None:
    repetitions = [runs.repetition(fixed_s=f, controlled_s=c) for f, c in ((0.1, 0.05), (0.2, 0.9), (0.3, 0.16))]
    found = claim(runs.results(rising=runs.rising(*repetitions)), "p99 at the plateau")
    assert found.value == pytest.approx(0.16 / 0.2)
    assert not found.is_met


def test_instances_that_never_went_back_are_not_met() -> None:
    repetitions = (runs.repetition(), runs.repetition(shrank_s=None))
    found = claim(runs.results(rising=runs.rising(*repetitions)), "back at one instance")
    assert found.value is None
    assert not found.is_met
    assert found.bar == 13


@pytest.mark.parametrize(("end_mib", "is_met"), [(190, True), (204, True), (204.1, False)])
def test_memory_may_grow_by_the_residue_and_the_noise(end_mib: float, is_met: bool) -> None:
    run = runs.reconfigurations(end_bytes=int(end_mib * runs.MIB))
    found = claim(runs.results(reconfigurations=run), "memory grown")
    assert found.bar == pytest.approx(4)
    assert found.is_met is is_met


def test_one_failed_request_is_one_too_many() -> None:
    assert not claim(runs.results(reconfigurations=runs.reconfigurations(failed=1)), "requests that failed").is_met


def test_a_byte_over_the_budget_is_over() -> None:
    assert claim(runs.results(budget=runs.budget(peak_bytes=134 * runs.MIB)), "memory over").is_met
    assert not claim(runs.results(budget=runs.budget(peak_bytes=134 * runs.MIB + 1)), "memory over").is_met


def test_only_refusals_for_memory_count() -> None:
    other = (RefusalSeen("scale-up", "a_w025", "max-instances", 5),)
    assert not claim(runs.results(budget=runs.budget(refusals=other)), "refusals for memory seen in /status").is_met


def test_one_kill_without_return_is_not_met() -> None:
    assert claim(runs.results(kills=runs.kills(1.0, 14.9)), "back to plan").value == 14.9
    assert not claim(runs.results(kills=runs.kills(1.0, None)), "back to plan").is_met


def test_no_step_seen_is_not_met() -> None:
    assert not claim(runs.results(cost=runs.cost(steps_s=())), "a step").is_met
    assert claim(runs.results(cost=runs.cost(steps_s=(0.01, 0.04))), "a step").value == pytest.approx(40)
