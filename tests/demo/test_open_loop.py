from __future__ import annotations

import asyncio

import numpy as np
import pytest

from orchestrator.config import OverloadSettings, RouterSettings
from orchestrator.demo.open_loop import Outcome, poisson_arrivals_s, run_open_loop, summarize
from orchestrator.errors import PermanentError
from orchestrator.router import Router
from orchestrator.snapshot import ServerName, Width
from tests.fakes.servers import NO_TIME_BUDGET, FakeServer, item

A, B = ServerName("a"), ServerName("b")


def test_poisson_arrivals_ascend_at_the_asked_rate_and_repeat_with_the_seed() -> None:
    times = poisson_arrivals_s(100, 20_000, seed=3)
    gaps = np.diff(times)
    assert (gaps >= 0).all()
    assert gaps.mean() == pytest.approx(0.01, rel=0.03)
    assert gaps.std() == pytest.approx(0.01, rel=0.05)
    assert np.array_equal(times, poisson_arrivals_s(100, 20_000, seed=3))
    assert not np.array_equal(times, poisson_arrivals_s(100, 20_000, seed=4))


@pytest.mark.virtual_time
async def test_requests_are_sent_when_due_whether_or_not_earlier_ones_are_answered() -> None:
    server = FakeServer(per_item_s=1.0, max_batch_size=1)
    settings = RouterSettings(
        policy="lert", warm_up=False, overload=OverloadSettings(shed_late=False), guard=NO_TIME_BUDGET
    )
    async with Router(settings, {A: server}) as router:
        began_s = asyncio.get_running_loop().time()
        outcomes = await run_open_loop(
            router, [item(n) for n in range(4)], [0, 1, 2, 9], [0.0, 0.1, 0.2, 0.3], deadline_s=2.5
        )
        took_s = asyncio.get_running_loop().time() - began_s
    assert took_s == pytest.approx(4.008, abs=1e-3)
    assert [o.latency_s for o in outcomes] == pytest.approx([1.002, 1.904, 2.806, 3.708], abs=1e-3)
    assert [o.predicted for o in outcomes] == [0, 1, 2, 3]
    assert [o.is_in_time for o in outcomes] == [True, True, False, False]


@pytest.mark.virtual_time
async def test_a_failure_is_an_outcome() -> None:
    server = FakeServer()
    async with Router(RouterSettings(guard=NO_TIME_BUDGET), {A: server}) as router:
        server.failures = [PermanentError("unexpected shape")]
        (outcome,) = await run_open_loop(router, [item(0)], [0], [0.0], deadline_s=1)
    assert outcome.error == "unexpected shape"
    assert outcome.predicted is None
    assert not outcome.is_in_time


def outcome(predicted: int | None = 1, server: ServerName = A, width: int = 100, latency_s: float = 0.01) -> Outcome:
    error = "lost" if predicted is None else None
    return Outcome(1, predicted, None if error else server, None if error else Width(width), latency_s, 0.1, error)


def test_a_summary_counts_what_was_answered_right_late_and_lost() -> None:
    outcomes = [outcome(), outcome(2), outcome(server=B, width=25, latency_s=0.2), outcome(None)]
    summary = summarize("p", outcomes)
    assert (summary.requests, summary.answered, summary.missed) == (4, 3, 2)
    assert summary.accuracy == pytest.approx(2 / 3)
    assert summary.accuracy_in_time == 0.25
    assert summary.miss_ratio == 0.5
    assert summary.mean_latency_s == pytest.approx(0.22 / 3)
    assert summary.share == pytest.approx({(A, 100): 2 / 3, (B, 25): 1 / 3})
    assert summary.width_share == pytest.approx({25: 1 / 3, 100: 2 / 3})


def test_without_answers_there_is_no_latency_and_no_accuracy() -> None:
    summary = summarize("p", [outcome(None)])
    assert summary.accuracy is None
    assert summary.mean_latency_s is None
    assert summary.p99_latency_s is None
    assert summary.miss_ratio == 1
