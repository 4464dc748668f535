"""Two controllers of different hosts on one Triton: who wants all widths, and who unloads what is idle."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace

import pytest

from orchestrator.controller.loop import Controller
from orchestrator.controller.status.document import describe_status
from orchestrator.planner.actions import NoticeKind
from tests.controller.worlds import LIMITS, W025, W050, controller, now_s, triton
from tests.fakes.control import FakeTriton

pytestmark = pytest.mark.virtual_time


def greedy(server: FakeTriton) -> Controller:
    return controller(server, limits=replace(LIMITS, wanted=(W025, W050)))


def sparing(server: FakeTriton) -> Controller:
    return controller(server, limits=replace(LIMITS, wanted=(W025,)), unload_after_s=2, idle_s=1)


def rivals(control: Controller) -> set[str | None]:
    report = control.last_report
    notices = describe_status(report).notices if report is not None else ()
    return {notice.model for notice in notices if notice.kind == NoticeKind.RIVAL}


async def test_they_come_to_rest_and_each_tells_once_a_round(caplog: pytest.LogCaptureFixture) -> None:
    server = triton()
    controls = greedy(server), sparing(server)
    stop = asyncio.Event()
    runs = [asyncio.create_task(control.run(stop)) for control in controls]
    told: set[int] = set()
    calls: list[int] = []
    with caplog.at_level(logging.WARNING):
        for _ in range(3600):
            await asyncio.sleep(1)
            told |= {n for n, control in enumerate(controls) if rivals(control) == {W050}}
            calls.append(len(server.calls))
    stop.set()
    await asyncio.gather(*runs)
    assert told == {0, 1}
    assert calls[30] <= 6, "the minimum by both, and two loads that were undone"
    assert calls[-1] <= 24, "without pauses it is one each two seconds"
    lines = [record.getMessage() for record in caplog.records if "notice rival" in record.getMessage()]
    assert 2 <= len(lines) <= 20
    assert lines[0].startswith("a: notice rival fashion_w050 quiet_s=0 needed_quiet_s=60: somebody else has undone 2")


async def test_an_operator_who_unloads_a_width_by_hand_gets_it_back() -> None:
    server = triton()
    control = greedy(server)
    stop = asyncio.Event()
    run = asyncio.create_task(control.run(stop))
    await asyncio.sleep(20)
    await server.unload(W050)
    began_s = now_s()
    while len([m for m in await server.loaded_models() if m.instances]) < 2:
        await asyncio.sleep(0.1)
    assert now_s() - began_s < 5 and rivals(control) == set()
    stop.set()
    await run
