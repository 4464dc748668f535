"""The status page as a person reads it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from rich.console import Console, RenderableType

from orchestrator.controller.report import StepReport
from orchestrator.controller.status.document import describe_status
from orchestrator.controller.status.view import (
    find_troubles,
    render_done,
    render_gateway,
    render_plan,
    render_status,
    render_unreachable,
    say_age,
    say_bytes,
    say_duration,
    say_number,
)
from orchestrator.planner.actions import ActionKind, ActionReason, Plan
from orchestrator.planner.energy import CounterReading, EnergyAccount
from orchestrator.planner.host import Batching
from orchestrator.planner.state import SchedulerState
from orchestrator.snapshot import Family, ModelName
from orchestrator.telemetry.reading import Reading
from tests.controller.status.reports import (
    MIB,
    NOW_S,
    RELOAD,
    SCALE_UP,
    TRITONS_REASON,
    UNIX_S,
    blind_report,
    full_report,
    ready,
    seeing,
)


def show(renderable: RenderableType, width: int = 100) -> list[str]:
    console = Console(width=width, color_system=None)
    with console.capture() as capture:
        console.print(renderable)
    return [line.rstrip() for line in capture.get().splitlines()]


def show_report(report: StepReport, width: int = 100) -> list[str]:
    return show(render_status(describe_status(report), now_unix_s=UNIX_S + 0.42), width)


def test_a_section_reads_as_a_whole() -> None:
    assert show_report(full_report()) == [
        "gpu-0 · fashion · step 312, 0.4 s ago",
        "",
        " width  state   inst.  batching            items/s  busy  waiting  note",
        " " + "─" * 98,
        " w025   ready   2      no wait               1,200  1.50      3.2  1 of 2 alive; 0.5 errors/s;",
        "                                                                   demanded 58 s",
        " w050   ready   1      waits 500 µs, 8/16        –     –      2.0  changing",
        " w075   failed  0 → 1  –                         –     –        –  quarantined 7.5 s",
        " w100   absent  0 → 1  –                         –     –        –",
        "",
        "memory      250 MiB / budget 300 MiB (total 8.0 GiB), residue 12 MiB",
        "load        utilisation 35% (ceiling 90%) · power, energy unknown (no such file:",
        "            /sys/class/powercap/intel-rapl:0/energy_uj)",
        "Triton      w075: failed to load 'fashion_w075', failed to poll from model repository: Internal:",
        "            onnx runtime error 2: not enough space: expected 4096, got 1024",
        "quarantine  w075 with 1 instance (no wait): 2 failures, next try in 7.5 s",
        "refused     w100: load refused, memory-budget: budget 300 MiB, used 250 MiB, needed 80 MiB",
        "notice      restart-advised: residue 600 MiB, limit 512 MiB",
        "1.4 s ago   w050: reload (waits 500 µs, 8/16), batching-gain: saved instances 0.21, price 1.5 s;",
        "            under way for 10 s",
        "12 s ago    w025: scale-up to 2 instances, queueing: waiting requests 3.25, busy 95%; took 250 ms",
        "90 s ago    w075: load, wanted; FAILED after 400 ms: failed to load 'fashion_w075', failed to poll",
        "            from model repository: Internal: onnx runtime error 2: not enough space: expected 4096,",
        "            got 1024",
    ]


@pytest.mark.parametrize("width", [80, 100, 120])
def test_nothing_is_cut_off_at_any_usual_width(width: int) -> None:
    lines = show_report(full_report(), width)
    assert max(map(len, lines)) <= width
    assert "…" not in "".join(lines)
    text = " ".join(" ".join(lines).split())
    assert "waiting requests 3.25, busy 95%; took 250 ms" in text
    assert TRITONS_REASON in text
    assert "1 of 2 alive" in text


def test_models_of_several_families_keep_their_names() -> None:
    lines = show_report(replace(full_report(), families=(Family("fashion"), Family("plates"))))
    assert lines[0] == "gpu-0 · fashion, plates · step 312, 0.4 s ago"
    assert any(line.strip().startswith("fashion_w025") for line in lines)


def test_a_device_class_stands_beside_the_name() -> None:
    shown = render_status(describe_status(full_report()), now_unix_s=UNIX_S + 0.42, device_class="h100")
    assert show(shown)[0] == "gpu-0 (h100) · fashion · step 312, 0.4 s ago"


def test_a_server_without_triton_is_shown_with_the_reason() -> None:
    assert show_report(blind_report()) == [
        "gpu-1 · step 1, 0.4 s ago",
        "trouble  waiting for Triton at 127.0.0.1:8001: connection refused",
        "memory   unknown (the host has not been read yet) / budget 300 MiB, no residue",
        "load     utilisation, power, energy unknown (the host has not been read yet)",
    ]


def test_a_model_that_is_left_out_is_shown_with_the_reason() -> None:
    report = full_report()
    seen = replace(report.seen, misfits={"toy_w100": "slim.width 'full' is no whole percentage"})
    shown = show_report(replace(report, seen=seen))
    assert any("left out" in line and "toy_w100: slim.width 'full' is no whole percentage" in line for line in shown)


def test_a_controller_that_does_not_answer_is_shown_as_such() -> None:
    assert show(render_unreachable("gpu-2", "no controller answers", None)) == [
        "gpu-2",
        "controller  no controller answers",
        "Triton      it does not answer",
    ]
    assert show(render_unreachable("gpu-2", None, {})) == ["gpu-2", "controller  the fleet file names none"]
    assert show(render_unreachable("gpu-2", None, {}, device_class="h100"))[0] == "gpu-2 (h100)"
    assert show(render_unreachable("gpu-2", "no controller answers", {"odd": "it is decoupled"})) == [
        "gpu-2",
        "controller  no controller answers",
        "left out    odd: it is decoupled",
    ]


def test_alerts_of_the_gateway_are_shown_or_why_there_are_none() -> None:
    def render(told: str | list[dict[str, str]], **document: Any) -> list[str]:
        return show(render_gateway(told if isinstance(told, str) else {"alerts": told, **document}, now_unix_s=100.0))

    assert render([]) == ["gateway", "alerts  none"]
    assert render("no gateway answers") == ["gateway", "status page  no gateway answers"]
    told = [{"level": "bad", "text": "Not ready: x", "section": "servers"}, {"level": "new", "text": "y"}]
    assert render(told) == ["gateway", "alert  Not ready: x", "alert  y"]
    standing = {"policy": "thrift", "since_unix_s": 40.0, "why": "so it is", "candidate": ""}
    assert render([], policy={"standing": standing}) == [
        "gateway",
        "policy  thrift, in force for 60 s: so it is",
        "alerts  none",
    ]
    standing |= {"candidate": "x", "stage": "shadow", "candidate_since_unix_s": 90.0, "candidate_why": "it came"}
    assert render([], policy={"standing": standing})[2] == "rollout  x, shadow for 10 s: it came"


def test_power_and_energy_are_shown_with_their_source() -> None:
    report = full_report()
    assert report.seen.reading is not None
    energy_j = Reading(12345.6, "nvml-energy-counter")
    reading = replace(report.seen.reading, power_w=Reading(71.52, "nvml-power-average"), energy_j=energy_j)
    lines = show_report(seeing(report, reading=reading))
    assert "power 71.5 W (nvml-power-average) · energy 12,346 J (nvml-energy-counter)" in " ".join(
        " ".join(lines).split()
    )


@pytest.mark.parametrize("width", [80, 120])
def test_idle_power_and_joules_a_request_are_shown_once_they_are_known(width: int) -> None:
    last = CounterReading("rapl", 5000.0, 70.0)
    models_j, requests = {ModelName("fashion_w025"): 30.0}, {ModelName("fashion_w025"): 1200.0}
    energy = EnergyAccount(idle_w=20.0, idle_j=6000.0, models_j=models_j, requests=requests, last=last)
    text = " ".join(" ".join(show_report(replace(full_report(), energy=energy), width)).split())
    assert "idle 20.0 W, 6,000 J since the controller started" in text
    assert "0.025 J a request" in text
    assert "idle" not in " ".join(show_report(full_report()))


def test_only_the_last_actions_are_shown_latest_first() -> None:
    report = full_report()
    record = report.recent[1]
    many = tuple(replace(record, ended_unix_s=UNIX_S - 100 + n) for n in range(9))
    shown = [line.split(" ago")[0] for line in show_report(replace(report, recent=many)) if " s ago   " in line]
    assert shown == ["92 s", "93 s", "94 s", "95 s", "96 s"]


def test_a_width_that_differs_from_its_files_is_marked() -> None:
    report = full_report()
    assert report.seen.snapshot is not None
    snapshot = replace(report.seen.snapshot, models=(ready(25, is_canonical=False), ready(50)))
    lines = show_report(seeing(report, snapshot=snapshot), 120)
    (drifted,) = [line for line in lines if "differs from its files" in line]
    assert drifted.startswith(" w025")


def test_actions_keep_their_short_names_while_triton_is_down() -> None:
    report = replace(seeing(full_report(), snapshot=None, trouble="Triton can't be observed: refused"), plan=None)
    assert "12 s ago w025: scale-up to 2 instances" in " ".join(" ".join(show_report(report)).split())


def test_markup_in_reasons_is_text() -> None:
    report = seeing(blind_report(), trouble="[bold]no[/bold] [/]")
    assert "trouble  [bold]no[/bold] [/]" in show_report(report)


def test_a_dry_run_says_what_would_be_done() -> None:
    assert show(render_plan(describe_status(full_report()))) == [
        "would    w025: scale-up to 2 instances, queueing: waiting requests 3.25, busy 95%",
        "refused  w100: load refused, memory-budget: budget 300 MiB, used 250 MiB, needed 80 MiB",
        "notice   restart-advised: residue 600 MiB, limit 512 MiB",
    ]
    calm = replace(full_report(), plan=Plan())
    assert show(render_plan(describe_status(calm))) == ["would  change nothing"]


def test_a_single_run_says_what_was_done() -> None:
    report = replace(seeing(full_report(), trouble="metrics can't be read: refused"), recent=full_report().recent[1:2])
    assert show(render_done(describe_status(report)))[:2] == [
        "did      w025: scale-up to 2 instances, queueing: waiting requests 3.25, busy 95%; took 250 ms",
        "trouble  metrics can't be read: refused",
    ]
    calm = replace(full_report(), plan=Plan(), recent=())
    assert show(render_done(describe_status(calm))) == ["did  nothing"]


def test_every_kind_of_change_has_words() -> None:
    unload = replace(SCALE_UP, kind=ActionKind.UNLOAD, reason=ActionReason.IDLE, instances=0, numbers=())
    forced = replace(RELOAD, reason=ActionReason.DEAD_INSTANCE, is_forced=True, batching=Batching(), numbers=())
    down = replace(SCALE_UP, kind=ActionKind.SCALE_DOWN, reason=ActionReason.IDLE, instances=1, numbers=())
    load = replace(down, kind=ActionKind.LOAD, reason=ActionReason.MINIMUM_SET)
    report = replace(full_report(), plan=Plan((unload, forced, down, load)))
    assert show(render_plan(describe_status(report))) == [
        "would  w025: unload, idle",
        "would  w050: reload (forced, no wait), dead-instance",
        "would  w025: scale-down to 1, idle",
        "would  w025: load, minimum-set",
    ]


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("needed_bytes", 80.0 * MIB, "needed 80 MiB"),
        ("needed_bytes", 1.5 * MIB, "needed 1.5 MiB"),
        ("needed_bytes", 100.0, "needed 100 B"),
        ("used_bytes", 2048.0 * MIB, "used 2.0 GiB"),
        ("returned_bytes", -3.0 * MIB, "returned -3.0 MiB"),
        ("busy_ratio", 0.954, "busy 95%"),
        ("idle_s", 300.0, "idle 5 min"),
        ("price_s", 1.5, "price 1.5 s"),
        ("delay_us", 500.0, "delay 500 µs"),
        ("wait_ms", 12.0, "wait 12 ms"),
        ("items_per_s", 1234.5, "items 1,234/s"),
        ("power_w", 71.25, "power 71.25 W"),
        ("failures", 3.0, "failures 3"),
        ("waiting_requests", 3.25, "waiting requests 3.25"),
        ("queue_s", None, "queue unknown"),
    ],
)
def test_numbers_are_said_with_their_units(name: str, value: float | None, words: str) -> None:
    assert say_number(name, value) == words


def test_sizes_and_times_are_said_in_the_unit_that_reads_best() -> None:
    assert [say_bytes(n) for n in (0, 2048, 10 * MIB, 500 * MIB)] == ["0 B", "2.0 KiB", "10 MiB", "500 MiB"]
    assert [say_duration(s) for s in (2e-6, 0.25, 5, 600, 9000)] == ["2 µs", "250 ms", "5 s", "10 min", "2.5 h"]
    assert [say_age(s) for s in (-3, 0.42, 59.6, 600)] == ["0.0 s", "0.4 s", "60 s", "10 min"]


def test_what_is_in_trouble_is_said_and_nothing_else() -> None:
    found = find_troubles(describe_status(full_report()), now_unix_s=UNIX_S + 1)
    assert [line.partition(":")[0] for line in found] == [
        "restart-advised",
        "w075 has failed",
        "a config of w075 is quarantined",
    ]
    calm = replace(
        full_report(),
        plan=Plan((SCALE_UP,), (), (), ()),
        seen=replace(full_report().seen, snapshot=None),
        state=SchedulerState(),
    )
    assert find_troubles(describe_status(calm), now_unix_s=UNIX_S + 59) == []
    assert find_troubles(describe_status(calm), now_unix_s=UNIX_S + 3600) == ["no step for 60 min"]
    [blind] = find_troubles(describe_status(blind_report()), now_unix_s=UNIX_S)
    assert blind.startswith("waiting for Triton")


@pytest.mark.parametrize("ahead_s", [-300.0, 0.0, 300.0])
def test_a_reader_whose_clock_is_minutes_from_the_controllers_sees_the_same(ahead_s: float) -> None:
    report = replace(full_report(), plan=None, state=SchedulerState(), seen=replace(full_report().seen, snapshot=None))
    fresh, old = (describe_status(report, now_s=NOW_S + age_s) for age_s in (0.42, 3600.0))
    assert find_troubles(fresh, now_unix_s=UNIX_S + ahead_s) == []
    assert find_troubles(old, now_unix_s=UNIX_S + 3600 + ahead_s) == ["no step for 60 min"]
    lines = show(render_status(fresh, now_unix_s=UNIX_S + ahead_s))
    assert lines[0] == "gpu-0 · fashion · step 312, 0.4 s ago"
    assert [line.partition(" ago")[0] for line in lines if " ago  " in line] == ["1.4 s", "12 s", "90 s"]


def test_a_policy_of_a_gateway_is_as_old_as_the_gateways_own_clock_says() -> None:
    standing = {"policy": "thrift", "since_unix_s": 40.0, "why": "so it is", "candidate": ""}
    document = {"unix_s": 100.0, "alerts": [], "policy": {"standing": standing}}
    assert show(render_gateway(document, now_unix_s=400.0))[1] == "policy  thrift, in force for 60 s: so it is"
