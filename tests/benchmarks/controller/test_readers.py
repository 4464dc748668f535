"""perf_analyzer's report, the daemon's pages and the trace of a load."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from benchmarks.controller.results import TracePoint
from benchmarks.controller.status import parse_view, refusal_series
from benchmarks.controller.trace import back_at, find_load, grown_at, shift, waits
from benchmarks.harness.perf_analyzer import parse_latency
from orchestrator.errors import PermanentError
from tests.benchmarks.controller import runs

HEAD = (
    "Concurrency,Inferences/Second,Client Send,Network+Server Send/Recv,Server Queue,Server Compute Input,"
    "Server Compute Infer,Server Compute Output,Client Recv,p50 latency,p90 latency,p95 latency,p99 latency\n"
)
ROW = "8,8634.04,13,1374,42992,32,14390,318,3,54650,73374,86831,114036\n"
PAGE: dict[str, Any] = {
    "steps": 7,
    "step_s": 0.012,
    "trouble": None,
    "models": [{"model": "a", "status": "ready"}, {"model": "b", "status": "absent"}],
    "refusals": [{"kind": "load", "model": "b", "reason": "memory-budget", "numbers": {}, "detail": ""}],
    "planned": [{"kind": "load", "model": "b"}],
    "actions": [{"action": {"reason": "wanted", "model": "a"}}],
    "later": "whatever a newer daemon adds",
}


def test_a_report_of_perf_analyzer_is_read_in_seconds_and_its_items_as_requests() -> None:
    found = parse_latency("\n" + HEAD + ROW, batch=64)
    assert found.requests_per_s == pytest.approx(8634.04 / 64)
    assert (found.queue_s, found.p50_s, found.p99_s) == pytest.approx((0.042992, 0.05465, 0.114036))


@pytest.mark.parametrize("text", ["", HEAD, HEAD + ROW + ROW, "Concurrency\n8\n", HEAD + ROW.replace("54650", "x")])
def test_a_report_without_one_measurement_is_refused(text: str) -> None:
    with pytest.raises(PermanentError, match="perf_analyzer's report"):
        parse_latency(text, batch=1)


def test_a_status_page_is_read_and_what_a_newer_daemon_adds_is_ignored() -> None:
    view = parse_view(PAGE)
    assert (view.steps, view.step_s, view.trouble) == (7, 0.012, None)
    assert view.ready == ("a",)
    assert view.refusals == (("load", "b", "memory-budget"),)
    assert view.planned == (("load", "b"),)
    assert view.actions == (("wanted", "a"),)


@pytest.mark.parametrize("page", [None, [], {}, {**PAGE, "models": None}, {**PAGE, "steps": "x"}])
def test_what_is_no_status_page_is_refused(page: object) -> None:
    with pytest.raises(PermanentError, match="no controller's status page"):
        parse_view(page)


def test_only_refusals_for_memory_are_taken_from_metrics() -> None:
    text = (
        'slim_controller_refusals{kind="load",model="b",reason="memory-budget",server="s"} 1.0\n'
        'slim_controller_refusals{kind="scale-up",model="a",reason="max-instances",server="s"} 1.0\n'
        "slim_controller_steps_total 4.0\n"
    )
    assert refusal_series(text) == (
        'slim_controller_refusals{kind="load",model="b",reason="memory-budget",server="s"}',
    )


def test_when_load_began_and_ended_and_instances_followed() -> None:
    trace = runs.trace()
    assert find_load(trace) == (0.0, 3.0)
    assert grown_at(trace) == 2.0
    assert back_at(trace, 3.0) == 13.0


def test_a_trace_in_which_nothing_happened() -> None:
    calm = runs.trace()[:2]
    with pytest.raises(PermanentError, match="no request was answered"):
        find_load(calm)
    assert grown_at(calm) is None
    assert back_at(calm, 0.0) is None


def test_instances_that_were_there_to_the_end_are_not_back() -> None:
    assert back_at(runs.trace()[:-1], 3.0) is None


def test_a_trace_is_timed_from_the_beginning_of_its_load() -> None:
    late = tuple(replace(p, at_s=p.at_s + 100, requests=p.requests + 5, queue_s=p.queue_s + 1) for p in runs.trace())
    assert shift(late, 100.0) == runs.trace()


def test_waits_are_means_of_windows_with_answers() -> None:
    trace = (*runs.trace(), TracePoint(14.0, 1, 40, 4.0))
    assert waits(trace, window_s=1.0) == ((0.5, 0.2), (1.5, 0.1), (2.5, 0.05))
