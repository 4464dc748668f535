"""Policies of other packages that fail to observe what becomes of requests."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from orchestrator.config import RouterSettings
from orchestrator.router import Router
from orchestrator.snapshot import ServerName
from tests.fakes.servers import NO_TIME_LIMITS, FakeServer, item
from tests.plugged import SAVER, install

pytestmark = pytest.mark.virtual_time

SOURCE = (
    SAVER
    + """
    is_observing: ClassVar = True

    def observe(self, memory, outcome):
        raise RuntimeError("observing is broken")

    def observe_miss(self, memory, now_s):
        raise RuntimeError("observing is broken")
"""
)


def router(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, **more: object) -> Router:
    install(tmp_path, name, SOURCE, {name: "Saver"})
    monkeypatch.syspath_prepend(tmp_path)
    settings = {"policy": name, "probes": None, "guard": NO_TIME_LIMITS, "in_flight_groups": 1, **more}
    return Router(
        RouterSettings.model_validate(settings), {ServerName("a"): FakeServer((25,), per_item_s=0.01, max_batch_size=1)}
    )


async def test_a_policy_that_fails_to_observe_holds_up_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    errors: list[BaseException] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: errors.append(context["exception"]))
    async with router(tmp_path, monkeypatch, "deaf", discovery_period_s=60) as one:
        calls = [asyncio.create_task(one.infer(item(n))) for n in range(4)]
        done, late = await asyncio.wait(calls, timeout=1.0)
        for call in late:
            call.cancel()
    assert (len(done), errors) == (4, [])
    assert caplog.text.count("policy deaf can't observe what becomes of requests; this is told once") == 1


async def test_a_policy_that_fails_to_observe_misses_leaves_no_caller_without_an_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: None)
    async with router(tmp_path, monkeypatch, "dumb") as one:
        await one.infer(item(0))
        calls = [asyncio.create_task(one.infer(item(n % 10), deadline_ms=30)) for n in range(20)]
        _, late = await asyncio.wait(calls, timeout=5.0)
        for call in late:
            call.cancel()
    assert not late, f"{len(late)} callers hear nothing long after their deadline"
