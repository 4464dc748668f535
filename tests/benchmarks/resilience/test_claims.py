from __future__ import annotations

from dataclasses import replace

import pytest

from benchmarks.resilience.claims import draw_claims
from benchmarks.resilience.results import Results
from tests.benchmarks.resilience import runs

LEAK_KIB_PER_S = 5.0  # at 80 requests a second, 64 bytes for each


def missed(results: Results) -> list[str]:
    return [claim.name for claim in draw_claims(results) if not claim.is_met]


def test_a_good_run_meets_all_claims() -> None:
    assert missed(runs.results()) == []


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"lost": {"answered late": 1}}, "death: requests lost, deadline 1 s"),
        ({"twice": 1}, "death: requests answered twice"),
        ({"counted": -1}, "death: requests ended in the gateway's count beyond those sent"),
        ({"wrong": 1}, "death: wrong answers"),
        ({"back_after_s": 1.2}, "death: its first answer after it is ready again"),
        ({"back_after_s": None}, "death: its first answer after it is ready again"),
    ],
)
def test_one_request_too_many_or_too_few_breaks_an_outage(changes: dict[str, object], name: str) -> None:
    assert missed(runs.results(outages={"death": runs.outage(**changes)})) == [name]


def test_wrong_answers_are_allowed_until_probes_have_come() -> None:
    soon = runs.outage(name="wrong-answers", wrong=40, last_wrong_s=9.0)
    late = replace(soon, last_wrong_s=12.0)
    assert missed(runs.results(outages={"wrong-answers": soon})) == []
    assert missed(runs.results(outages={"wrong-answers": late})) == [
        "wrong-answers: the last wrong answer after the fault"
    ]


def test_a_refusal_after_the_deadline_and_a_drop_while_narrower_could_are_reported() -> None:
    burst = runs.burst()
    phases = [replace(p, worst_refusal_s=1.01) if p.name == "second burst" else p for p in burst.phases]
    phases = [replace(p, refused=1, worst_refusal_s=0.1) if p.name == "pressed" else p for p in phases]
    assert missed(runs.results(burst=replace(burst, phases=tuple(phases)))) == [
        "burst: the longest wait for a refusal",
        "burst: not answered in time while a narrower width could",
    ]


@pytest.mark.parametrize("end", ["late", "overdue"])
def test_what_was_sent_in_vain_is_reported_however_its_caller_learnt_of_it(end: str) -> None:
    burst = runs.burst()
    phases = [replace(p, **{end: 1}) if p.name == "burst" else p for p in burst.phases]
    assert missed(runs.results(burst=replace(burst, phases=tuple(phases)))) == [
        "burst: sent to a server and not answered by their deadline"
    ]


def test_memory_that_a_second_burst_takes_on_top_is_reported() -> None:
    mib = 2**20
    burst = runs.burst(rss_bytes=(100 * mib, 180 * mib, 260 * mib, 260 * mib))
    assert missed(runs.results(burst=burst)) == ["burst: memory that a second one takes beyond the first"]


def test_a_leak_of_one_small_object_a_request_is_reported() -> None:
    leaking = (runs.process("supervisor"), runs.process("worker 1", growth_kib_per_s=LEAK_KIB_PER_S))
    assert missed(runs.results(soak=runs.soak(processes=leaking))) == [
        "soak: worker 1, memory grown a request of its own, upper end of the 95 % interval"
    ]


@pytest.mark.parametrize(
    ("after", "name"),
    [
        ({"descriptors": {"supervisor": 20, "worker 1": 21}}, "descriptors more at rest"),
        ({"threads": {"supervisor": 11, "worker 1": 10}}, "threads more at rest"),
        ({"tasks": 27}, "asyncio tasks more at rest"),
        ({"in_flight": 1}, "requests in flight at rest"),
    ],
)
def test_one_thing_left_behind_is_reported(after: dict[str, object], name: str) -> None:
    (claim,) = missed(runs.results(soak=runs.soak(after=runs.rest(**{"requests": 145_000, "tasks": 22, **after}))))
    assert name in claim


def test_a_short_soak_does_not_pass_for_a_long_one() -> None:
    assert "soak: minutes of mixed load" in missed(runs.results(soak=runs.soak(took_s=600.0)))
