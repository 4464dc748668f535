"""What Prometheus reads: parsed back from the text, as Prometheus does."""

from __future__ import annotations

from dataclasses import replace

from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from orchestrator.controller.observer import follow_energy
from orchestrator.controller.report import ActionRecord, StepReport
from orchestrator.controller.status.metrics import ControllerMetrics
from orchestrator.planner.energy import EnergyAccount
from orchestrator.snapshot import ServerName
from orchestrator.telemetry.cpu_pressure import read_cpu_waiting_s
from orchestrator.telemetry.reading import Reading
from tests.controller.status.reports import (
    MIB,
    NOW_S,
    READING,
    RECENT,
    REFUSAL,
    SCALE_UP,
    UNIX_S,
    blind_report,
    full_report,
    seeing,
)

Key = tuple[str, tuple[tuple[str, str], ...]]


def scrape(metrics: ControllerMetrics) -> dict[Key, float]:
    found: dict[Key, float] = {}
    for family in text_string_to_metric_families(generate_latest(metrics.registry).decode()):
        if not family.name.startswith("slim_controller_"):
            continue
        for sample in family.samples:
            labels = tuple(sorted((k, v) for k, v in sample.labels.items() if k != "server"))
            assert sample.labels["server"] == "gpu-0"
            key = (sample.name.removeprefix("slim_controller_"), labels)
            assert key not in found, "a series is there twice"
            found[key] = sample.value
    return found


def observed(*reports: StepReport) -> dict[Key, float]:
    metrics, energy = ControllerMetrics(ServerName("gpu-0"), clock=lambda: NOW_S + 1.5), EnergyAccount()
    for report in reports:
        energy = follow_energy(energy, report.seen)
        metrics.observe(replace(report, energy=energy))
    return scrape(metrics)


def of(name: str, found: dict[Key, float]) -> dict[tuple[str, ...], float]:
    """Return the values of one metric by the values of its labels."""
    return {tuple(v for _, v in labels): value for (n, labels), value in found.items() if n == name}


def actions(found: dict[Key, float]) -> dict[tuple[str, ...], float]:
    return of("actions_total", found)


def test_a_report_becomes_metrics_of_the_host_and_its_models() -> None:
    found = observed(full_report())
    assert of("steps_total", found) == {(): 312}
    assert of("step_failures_total", found) == {(): 0}
    assert of("triton_up", found) == {(): 1}
    assert of("last_step_timestamp_seconds", found) == {(): UNIX_S}
    assert of("last_step_age_seconds", found) == {(): 1.5}
    w025, w050, w075, w100 = (("fashion_w025",), ("fashion_w050",), ("fashion_w075",), ("fashion_w100",))
    assert of("instances", found) == {w025: 2, w050: 1, w075: 0, w100: 0}
    assert of("desired_instances", found) == {w025: 2, w050: 1, w075: 1, w100: 1}
    assert of("batching_delay_seconds", found) == {w025: 0, w050: 0.0005}
    assert of("quarantined_configs", found) == {w075: 1}
    assert of("refusals", found) == {("load", "fashion_w100", "memory-budget"): 1}
    assert of("notices", found) == {("restart-advised", ""): 1}
    assert of("memory_used_bytes", found) == {("smaps",): 250 * MIB}
    assert of("memory_total_bytes", found) == {("psutil",): 8192 * MIB}
    assert of("memory_budget_bytes", found) == {(): 300 * MIB}
    assert of("memory_residue_bytes", found) == {(): 12 * MIB}
    assert of("learned_load_bytes", found) == {w025: 40 * MIB, w050: 60 * MIB}
    assert of("learned_instance_bytes", found) == {w025: 20 * MIB}
    assert of("learned_seen_bytes", found) == {w025: 22 * MIB, w075: 70 * MIB}
    assert of("utilisation_ratio", found) == {("psutil",): 0.35}
    assert of("plan_seconds_count", found) == of("step_seconds_count", found) == {(): 1}
    assert of("step_seconds_sum", found) == {(): 0.012}


def test_what_is_unknown_is_left_out() -> None:
    names = {name for name, _ in observed(full_report())}
    assert not names & {"power_watts", "energy_joules_total"}
    blind = {name for name, _ in observed(replace(blind_report(), server=ServerName("gpu-0")))}
    assert not blind & {"instances", "desired_instances", "memory_used_bytes", "utilisation_ratio"}
    assert {name for name, _ in observed()} <= {
        "step_failures_total", "step_failures_created", "step_errors_total",
        *(f"{m}_seconds_{s}" for m in ("plan", "step") for s in ("bucket", "count", "sum", "created")),
    }  # fmt: skip


def test_power_and_energy_carry_their_source() -> None:
    report = full_report()
    assert report.seen.reading is not None
    energy_j = Reading(9e3, "nvml-energy-counter")
    reading = replace(report.seen.reading, power_w=Reading(71.5, "nvml-power"), energy_j=energy_j)
    found = observed(seeing(report, reading=reading))
    assert of("power_watts", found) == {("nvml-power",): 71.5}
    assert of("energy_joules_total", found) == {("nvml-energy-counter",): 9e3}


def test_a_triton_that_is_away_is_down_and_counted() -> None:
    blind = replace(blind_report(), server=ServerName("gpu-0"))
    found = observed(full_report(), blind, blind)
    assert of("triton_up", found) == {(): 0}
    assert of("step_failures_total", found) == {(): 2}
    assert of("plan_seconds_count", found) == {(): 1}, "no plan was made without a snapshot"
    assert of("step_seconds_count", found) == {(): 3}


def test_steps_that_failed_unexpectedly_are_counted_without_a_report() -> None:
    failed = [0]
    metrics = ControllerMetrics(ServerName("gpu-0"), failed_steps=lambda: failed[0])
    assert of("step_errors_total", scrape(metrics)) == {(): 0}
    failed[0] = 3
    assert of("step_errors_total", scrape(metrics)) == {(): 3}


def test_each_action_is_counted_once_and_when_it_has_ended() -> None:
    metrics = ControllerMetrics(ServerName("gpu-0"))
    report = full_report()
    expected = {("load", "failed", "wanted"): 1.0, ("scale-up", "ok", "queueing"): 1.0}
    for _ in range(3):
        metrics.observe(report)
        assert actions(scrape(metrics)) == expected
    # The reload that was under way ends, and another scale-up equals the first but for its time.
    reload = replace(RECENT[2], ended_unix_s=UNIX_S + 1, took_s=12.0, is_under_way=False)
    again = ActionRecord(UNIX_S + 2, SCALE_UP, 0.25)
    for _ in range(2):
        metrics.observe(replace(report, recent=(*RECENT[:2], reload, again)))
        assert actions(scrape(metrics)) == {
            **expected, ("scale-up", "ok", "queueing"): 2.0, ("reload", "ok", "batching-gain"): 1.0
        }  # fmt: skip


def test_actions_that_are_forgotten_stay_counted() -> None:
    metrics = ControllerMetrics(ServerName("gpu-0"))
    records = tuple(ActionRecord(UNIX_S + n, SCALE_UP, 0.25) for n in range(120))
    for end in range(1, 121):
        metrics.observe(replace(full_report(), recent=records[max(0, end - 50) : end]))
    assert actions(scrape(metrics)) == {("scale-up", "ok", "queueing"): 120.0}


def test_what_is_over_leaves_no_series_behind() -> None:
    report = full_report()
    assert report.plan is not None
    twice = replace(report, plan=replace(report.plan, refusals=(REFUSAL, REFUSAL)))
    assert of("refusals", observed(twice)) == {("load", "fashion_w100", "memory-budget"): 1}
    calm = replace(report, plan=replace(report.plan, refusals=(), notices=()))
    found = observed(report, calm)
    assert of("refusals", found) == of("notices", found) == {}


def test_two_controllers_share_nothing() -> None:
    first, second = ControllerMetrics(ServerName("gpu-0")), ControllerMetrics(ServerName("gpu-0"))
    first.observe(full_report())
    assert actions(scrape(second)) == {}


def test_joules_are_shared_out_where_there_is_a_counter_and_absent_where_there_is_none() -> None:
    assert not [key for key in observed(full_report()) if "energy" in key[0]]
    reports = [drawing(at_s, drawn_j) for at_s, drawn_j in ((5000.0, 70.0), (5001.0, 100.0))]
    found = observed(*reports)
    assert of("energy_joules_total", found) == {("rapl",): 100.0}
    assert of("idle_energy_joules_total", found) == {("rapl",): 0.0}
    assert of("model_energy_joules_total", found) == {("fashion_w025",): 30.0}
    assert of("model_energy_requests_total", found) == {("fashion_w025",): 1200.0}


def test_what_is_drawn_while_nothing_says_what_runs_is_shared_out_when_something_does() -> None:
    before, blind = drawing(5000.0, 70.0), seeing(drawing(5001.0, 130.0), trouble="metrics can't be read")
    assert of("idle_energy_joules_total", observed(before, blind)) == {("rapl",): 0.0}
    assert of("model_energy_joules_total", observed(before, blind)) == {}
    found = observed(before, blind, drawing(5002.0, 170.0))
    assert of("idle_energy_joules_total", found) == {("rapl",): 0.0}
    assert of("model_energy_joules_total", found) == {("fashion_w025",): 100.0}


def drawing(at_s: float, drawn_j: float) -> StepReport:
    """Return a report of a host that has drawn so much."""
    reading = full_report().seen.reading or READING
    return seeing(full_report(), at_s=at_s, reading=replace(reading, energy_j=Reading(drawn_j, "rapl")))


def test_how_long_processes_of_the_host_waited_for_a_core_is_told_where_the_kernel_says_it() -> None:
    metrics = ControllerMetrics(ServerName("gpu-0"))
    metrics.observe(full_report())
    told = [s.value for f in metrics.collect() if "cpu_waiting" in f.name for s in f.samples]
    now_s = read_cpu_waiting_s()
    assert told == [] if now_s is None else 0 <= told[0] <= now_s


def test_process_and_build_are_there_too() -> None:
    page = generate_latest(ControllerMetrics(ServerName("gpu-0")).registry).decode()
    families = {family.name: family for family in text_string_to_metric_families(page)}
    assert families["process_resident_memory_bytes"].samples[0].value > 2**20
    [build] = families["slim_build_info"].samples
    assert build.value == 1
    assert build.labels.keys() == {"version", "commit", "python"}
