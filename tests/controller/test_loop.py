"""The loop: its schedule, its end, and what it does when things go wrong."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace
from typing import Any

import pytest

from orchestrator.config import ControllerSettings
from orchestrator.controller.loop import BACK_OFFS_S, STOP_WAIT_S
from orchestrator.controller.status.document import describe_status
from orchestrator.controller.status.endpoint import Heartbeat
from orchestrator.controller.status.view import find_troubles
from orchestrator.errors import CapacityError, ConfigError, ModelNotFoundError, ServerUnavailableError
from orchestrator.planner.actions import ActionKind, Notice, NoticeKind, Plan, Refusal, RefusalReason
from orchestrator.planner.host import HostSnapshot, Limits, ModelStatus
from orchestrator.planner.state import SchedulerState
from orchestrator.snapshot import ModelName
from tests.controller.worlds import (
    LIMITS,
    MIB,
    W025,
    W050,
    W075,
    W100,
    Script,
    controller,
    load,
    now_s,
    running,
    scale,
    triton,
    unload,
)
from tests.fakes.control import FakeTriton
from tests.planner.settings import with_settings

pytestmark = pytest.mark.virtual_time


async def test_a_step_observes_plans_acts_and_reports() -> None:
    server = triton(instance_mib=64)
    control = controller(server, Script((load(W025), load(W050))))
    assert control.last_report is None
    report = await control.step()
    assert report is control.last_report
    assert (report.server, report.steps, report.seen.at_s, report.unix_s, report.seen.trouble) == (
        "a",
        1,
        0,
        1.7e9,
        None,
    )
    assert report.plan is not None and [a.model for a in report.plan.actions] == [W025, W050]
    assert report.limits is LIMITS and report.step_s == report.plan_s == 0
    assert [(r.action.model, round(r.took_s, 3), r.error, r.is_under_way) for r in report.recent] == [
        (W025, 1.4, None, False),
        (W050, 1.4, None, False),
    ]
    assert report.state.memory.loads_bytes == {W025: (64 * MIB,), W050: (64 * MIB,)}
    assert report.state.prices.price_s(ActionKind.LOAD) == pytest.approx(1.4)
    again = await control.step()
    assert again.seen.snapshot is not None
    assert [seen.is_ready for seen in again.seen.snapshot.models] == [True, True, False, False]


async def test_the_pulse_beats_and_the_report_grows_with_each_action_of_a_long_step() -> None:
    server = triton()
    server.load_s = 9
    heartbeat = Heartbeat(15, now_s)
    script = Script((load(W025), load(W050), load(W075), load(W100)))
    control = controller(server, script, on_step=lambda report: heartbeat.beat(), on_action=heartbeat.beat)
    heartbeat.beat()
    step = asyncio.create_task(control.step())
    seen: list[tuple[int, int]] = []
    while not step.done():
        assert heartbeat.trouble() is None
        report = control.last_report
        if report is not None:
            seen.append((len(report.recent), len(report.state.memory.loads_bytes)))
        await asyncio.sleep(1)
    assert now_s() > 36
    assert list(dict.fromkeys(seen)) == [(0, 0), (1, 1), (2, 2), (3, 3)]


async def test_an_action_that_is_left_to_itself_beats_too() -> None:
    server, beats = triton(), list[float]()
    server.load_s = 100
    control = controller(server, Script(load(W025)), action_timeout_s=3, on_action=lambda: beats.append(now_s()))
    report = await control.step()
    assert beats == [3] and report.recent[0].is_under_way


async def test_the_family_stays_known_while_triton_is_down() -> None:
    server = triton()
    control = controller(server, Script())
    server.kill()
    assert (await control.step()).families == ()
    server.restart()
    assert (await control.step()).families == ("fashion",)
    server.kill()
    report = await control.step()
    assert (report.seen.snapshot, report.families) == (None, ("fashion",))


async def test_a_failure_is_remembered_and_the_rest_of_the_plan_dropped() -> None:
    server = triton()
    control = controller(server, Script((load(W025), load(W050))))
    server.fail_next(W025, "no memory")
    report = await control.step()
    assert len(server.calls) == 1
    assert report.recent[-1].error == "Triton at fake: load failed for model 'fashion_w025': no memory"
    action = load(W025)
    entry = report.state.quarantine.entry((W025, 1, action.batching), now_s=now_s())
    assert entry is not None and entry.failures == 1 and "no memory" in entry.reason


async def test_a_server_that_could_not_be_reached_puts_no_config_into_quarantine() -> None:
    server = triton()

    def script(
        snapshot: HostSnapshot, state: SchedulerState, limits: Limits, *, now_s: float
    ) -> tuple[Plan, SchedulerState]:
        server.kill()
        return Plan((load(W025), load(W050))), state

    report = await controller(server, script).step()
    assert [record.error for record in report.recent] == ["Triton at fake: failed to connect"]
    assert report.state.quarantine.entries == {} and len(server.calls) == 1


async def test_a_hanging_load_holds_up_neither_the_step_nor_what_needs_no_memory() -> None:
    server = triton()
    script = Script(load(W025), load(W050), (load(W075), scale(W025, 2), unload(W025)), (), load(W075))
    control = controller(server, script, action_timeout_s=3)
    await control.step()
    server.load_s = 20
    report = await control.step()
    assert now_s() < 5
    (record,) = [record for record in report.recent if record.is_under_way]
    assert (record.action.model, record.took_s) == (W050, 3)
    await control.step()
    assert script.seen[-1].busy_models == {W050}
    assert [call.kind for call in server.calls] == ["load", "load", "unload"]
    await asyncio.sleep(20)
    report = await control.step()
    assert script.seen[-1].busy_models == frozenset()
    assert [(r.action.model, r.is_under_way, r.error) for r in report.recent] == [
        (W025, False, None),
        (W025, False, None),
        (W050, False, None),
    ]
    assert report.recent[-1].took_s == pytest.approx(20)
    assert W050 not in report.state.memory.loads_bytes, "whose memory it was nobody knows"
    server.load_s = 1
    await control.step()
    assert server.calls[-1].model == W075


async def test_a_load_that_fails_late_is_put_into_quarantine_too() -> None:
    server = triton()
    control = controller(server, Script(load(W025)), action_timeout_s=3)
    server.load_s = 20
    server.fail_next(W025, "bad weights")
    await control.step()
    await asyncio.sleep(20)
    report = await control.step()
    assert len(report.state.quarantine.entries) == 1
    assert report.recent[-1].error is not None and "bad weights" in report.recent[-1].error


async def test_a_model_that_is_left_out_is_in_each_report_and_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    server = triton(instance_mib=64)
    control = controller(server, Script())
    server.odd_models = {"toy_w100": "slim.width 'full' is no whole percentage"}
    for _ in range(3):
        report = await control.step()
        assert report.seen.misfits == server.odd_models
    assert caplog.text.count("model toy_w100 is left out: slim.width 'full'") == 1
    server.odd_models = {}
    assert (await control.step()).seen.misfits == {}


async def test_the_end_of_triton_is_trouble_until_it_answers_again(caplog: pytest.LogCaptureFixture) -> None:
    server = triton()
    script = Script(load(W025), load(W050))
    control = controller(server, script)
    with caplog.at_level(logging.INFO):
        await control.step()
        asyncio.get_running_loop().call_later(0.5, server.kill)
        report = await control.step()
        assert report.recent[-1].error == "Triton at fake: Socket closed"
        for _ in range(3):
            report = await control.step()
            assert (report.seen.snapshot, report.plan) == (None, None)
            assert report.seen.trouble == "Triton can't be observed: Triton at fake: failed to connect"
        server.restart()
        report = await control.step()
    assert report.seen.trouble is None and report.plan is not None
    assert report.state.memory.loads_bytes, "what was learned stays"
    assert [r.message for r in caplog.records if "observed" in r.message] == [
        "server a: Triton can't be observed: Triton at fake: failed to connect",
        "server a can be observed again",
    ]


async def test_steps_keep_to_their_schedule_without_drift_or_pile_up() -> None:
    class Slow(FakeTriton):
        async def loaded_models(self) -> Any:
            await asyncio.sleep(0.3 if now_s() < 5 else 2.5 if now_s() < 8 else 0.3)
            return await super().loaded_models()

    script = Script()
    server = Slow(clock=asyncio.get_running_loop().time)
    await running(controller(server, script), for_s=12)
    assert script.at_s == pytest.approx([0.3, 1.3, 2.3, 3.3, 4.3, 7.5, 8.3, 9.3, 10.3, 11.3])
    assert server.closed


async def test_steps_that_fail_unexpectedly_are_logged_counted_and_backed_off(
    caplog: pytest.LogCaptureFixture,
) -> None:
    script = Script(*[ZeroDivisionError("bug")] * 6)
    control = controller(triton(), script)
    troubles: list[str | None] = []

    def look() -> None:
        report = control.last_report
        troubles.append(report.seen.trouble if report else "")

    asyncio.get_running_loop().call_later(0.5, look)
    await running(control, for_s=40)
    gaps_s = [after - before for before, after in zip(script.at_s, script.at_s[1:], strict=False)]
    assert gaps_s[:6] == pytest.approx([*BACK_OFFS_S, BACK_OFFS_S[-1], BACK_OFFS_S[-1]])
    assert gaps_s[6:] and set(gaps_s[6:]) == {1.0}
    assert control.failed_steps == 6
    assert caplog.text.count("Traceback") == 6
    assert troubles == ["a step failed unexpectedly: ZeroDivisionError: bug"]
    assert control.last_report is not None and control.last_report.seen.trouble is None


async def test_a_success_forgets_earlier_failures() -> None:
    script = Script(ValueError(), ValueError(), (), ValueError(), ())
    await running(controller(triton(), script), for_s=5.5)
    assert script.at_s == pytest.approx([0, 1, 3, 4, 5])


async def test_stopping_lets_the_action_under_way_end_and_begins_no_other() -> None:
    server = triton()
    control = controller(server, Script((load(W025), load(W050))))
    await running(control, for_s=0.5)
    assert [call.error for call in server.calls] == [None]
    assert server.calls[0].ended_s == pytest.approx(1.4)
    assert server.closed and now_s() < 3
    assert control.last_report is not None and control.last_report.recent[-1].error is None


@pytest.mark.parametrize("action_timeout_s", [2, 100])
async def test_stopping_waits_only_so_long(action_timeout_s: float) -> None:
    server = triton()
    server.load_s = 1000
    control = controller(server, Script(load(W025)), action_timeout_s=action_timeout_s, stuck_after_s=300)
    await running(control, for_s=5)
    assert 5 + STOP_WAIT_S <= now_s() <= 5 + STOP_WAIT_S + 2
    assert server.closed
    assert not [t for t in asyncio.all_tasks() if "load" in t.get_name()], "no task of the controller's is left"


@pytest.mark.parametrize("call", ["observe", "act"])
async def test_a_run_that_is_cancelled_leaves_no_task_behind(call: str) -> None:
    class Silent(FakeTriton):
        async def loaded_models(self) -> Any:
            if call == "observe" and now_s() > 3:
                await asyncio.sleep(3600)
            return await super().loaded_models()

    server = Silent(clock=asyncio.get_running_loop().time)
    server.load_s = 1 if call == "observe" else 600
    run = asyncio.create_task(controller(server, action_timeout_s=300, stuck_after_s=300).run(asyncio.Event()))
    await asyncio.sleep(5)
    run.cancel()
    await asyncio.wait({run})
    await asyncio.sleep(0)
    assert run.cancelled() and server.closed and now_s() < 6
    left = [task for task in asyncio.all_tasks() if task is not asyncio.current_task() and task not in server._work]
    assert left == []


async def test_stopping_between_steps_is_immediate() -> None:
    server = triton()
    await running(controller(server, Script(), period_s=600), for_s=5)
    assert now_s() == pytest.approx(5) and server.closed


async def test_stopped_before_it_began_it_does_nothing() -> None:
    server, script, stop = triton(), Script(), asyncio.Event()
    stop.set()
    await controller(server, script).run(stop)
    assert server.closed and script.seen == []


async def test_connections_that_do_not_close_hold_up_nothing(caplog: pytest.LogCaptureFixture) -> None:
    class Sticky(FakeTriton):
        async def close(self) -> None:
            await asyncio.sleep(1e6)

    await running(controller(Sticky(clock=asyncio.get_running_loop().time), Script()), for_s=0.5)
    assert now_s() < 5
    assert "closing the connections failed" in caplog.text


async def test_new_limits_hold_from_the_next_step_and_nothing_learned_is_lost() -> None:
    server = triton()
    script = Script(load(W025))
    control = controller(server, script)
    before = await control.step()
    limits = replace(LIMITS, memory_budget_bytes=1, settings=ControllerSettings(action_timeout_s=2))
    control.replace_limits(limits)
    script.lines = [unload(W025)]
    server.unload_s = 5
    began_s = now_s()
    after = await control.step()
    assert (script.limits, after.limits) == ([LIMITS, limits], limits)
    assert after.recent[-1].is_under_way and now_s() - began_s == 2
    assert after.state.memory.loads_bytes == before.state.memory.loads_bytes != {}


async def test_a_new_period_holds_from_the_next_step() -> None:
    script = Script()
    control = controller(triton(), script)
    asyncio.get_running_loop().call_later(2.5, control.replace_limits, with_settings(LIMITS, period_s=0.25))
    await running(control, for_s=4.1)
    assert script.at_s == pytest.approx([0, 1, 2, 3, 3.25, 3.5, 3.75, 4])


async def test_a_dry_run_plans_and_reports_and_touches_nothing(caplog: pytest.LogCaptureFixture) -> None:
    server = triton()
    control = controller(server, Script(load(W025), load(W025), load(W050)), dry_run=True)
    with caplog.at_level(logging.INFO):
        reports = [await control.step() for _ in range(4)]
    assert server.calls == []
    assert [bool(report.plan and report.plan.actions) for report in reports] == [True, True, True, False]
    assert reports[-1].recent == ()
    assert [r.message for r in caplog.records] == [
        "a: would load fashion_w025 (minimum-set) instances=1",
        "a: would load fashion_w050 (minimum-set) instances=1",
    ], "each once, while it stands"


async def test_demands_reach_the_plan_and_end() -> None:
    script = Script()
    control = controller(triton(), script)
    control.demand(W100, 10)
    await control.step()
    await asyncio.sleep(9.9)
    control.demand(W050, 10)
    await control.step()
    await asyncio.sleep(0.1)
    await control.step()
    demanded = [{s.name: s.demanded_until_s for s in seen.models if s.demanded_until_s} for seen in script.seen]
    assert demanded == [{W100: 10}, {W100: 10, W050: 19.9}, {W050: 19.9}]
    assert set(control._demands.at(now_s()).until_s) == {W050}
    with pytest.raises(ModelNotFoundError, match="server a has no model 'cat'; its repository has fashion_w025, "):
        control.demand(ModelName("cat"), 10)
    with pytest.raises(ConfigError):
        control.demand(W025, 0)


async def test_demands_are_bounded_before_the_repository_is_known() -> None:
    control = controller(triton(), Script())
    with pytest.raises(CapacityError):
        for number in range(1000):
            control.demand(ModelName(str(number)), 10)


async def test_refusals_and_notices_are_logged_when_they_change_and_actions_each_time(
    caplog: pytest.LogCaptureFixture,
) -> None:
    used = iter(range(100))

    def script(
        snapshot: HostSnapshot, state: SchedulerState, limits: Limits, *, now_s: float
    ) -> tuple[Plan, SchedulerState]:
        numbers = (("budget_bytes", 100.0), ("used_bytes", float(next(used))))
        refusals = (Refusal(ActionKind.LOAD, W100, RefusalReason.MEMORY_BUDGET, numbers),) if now_s != 3 else ()
        notices = (Notice(NoticeKind.RESTART_ADVISED, None, (("residue_bytes", 0.12345),)),)
        action = replace(load(W025), numbers=(("needed_bytes", 64.0),))
        return Plan((action,) if now_s == 0 else (), refusals, notices), state

    control = controller(triton(), script)
    with caplog.at_level(logging.INFO):
        await control.step()
        for moment_s in (2, 3, 4):
            await asyncio.sleep(moment_s - now_s())
            await control.step()
    assert [(r.levelname, r.message) for r in caplog.records] == [
        ("WARNING", "a: load fashion_w100 is refused (memory-budget) budget_bytes=100 used_bytes=0"),
        ("WARNING", "a: notice restart-advised residue_bytes=0.1235"),
        (
            "INFO",
            "a: load fashion_w025 (minimum-set) instances=1 needed_bytes=64 took_s=1.400 memory_change_bytes=67108864",
        ),
        ("WARNING", "a: load fashion_w100 is refused (memory-budget) budget_bytes=100 used_bytes=3"),
    ]


async def test_the_last_actions_are_kept_and_no_more() -> None:
    server = triton()
    control = controller(server, Script(*[line for _ in range(40) for line in (load(W025), unload(W025))]))
    for _ in range(80):
        report = await control.step()
    assert len(report.recent) == 50
    assert report.recent[-1].action.kind is ActionKind.UNLOAD


async def test_metrics_alone_missing_is_reported_and_the_minimum_set_is_loaded_all_the_same() -> None:
    server = triton()
    server.metrics_error = ServerUnavailableError("refused")
    report = await controller(server).step()
    assert report.seen.trouble == "only what needs no rates is done, metrics can't be read: refused"
    assert report.seen.trouble in find_troubles(describe_status(report), now_unix_s=report.unix_s)
    assert report.seen.snapshot is not None and report.recent[0].action.model == W025
    assert (await server.loaded_models())[0].status is ModelStatus.READY
