from __future__ import annotations

import asyncio

import pytest

from benchmarks.fidelity.open_loop import run_open_loop
from orchestrator.config import OverloadSettings, RouterSettings
from orchestrator.errors import PermanentError
from orchestrator.router import Router
from orchestrator.snapshot import ServerName
from tests.fakes.servers import NO_TIME_LIMITS, FakeServer, item

A = ServerName("a")


@pytest.mark.virtual_time
async def test_requests_are_sent_when_due_whether_or_not_earlier_ones_are_answered() -> None:
    server = FakeServer(per_item_s=1.0, max_batch_size=1)
    settings = RouterSettings(
        policy="lert", warm_up=False, overload=OverloadSettings(shed_late=False), guard=NO_TIME_LIMITS
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
    async with Router(RouterSettings(guard=NO_TIME_LIMITS), {A: server}) as router:
        server.failures = [PermanentError("unexpected shape")]
        (outcome,) = await run_open_loop(router, [item(0)], [0], [0.0], deadline_s=1)
    assert outcome.error == "unexpected shape"
    assert outcome.predicted is None
    assert not outcome.is_in_time
