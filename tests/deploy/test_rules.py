"""Each alert fires when it should and is silent when it need not fire, as Prometheus' own tool evaluates it."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from orchestrator.controller.observer import follow_energy
from orchestrator.controller.status.metrics import ControllerMetrics
from orchestrator.gateway.metrics.gateway_metrics import MEASURES
from orchestrator.planner.energy import EnergyAccount
from orchestrator.snapshot import ServerName
from orchestrator.telemetry.reading import Reading
from tests.controller.status.reports import NOW_S, READING, full_report, seeing
from tests.deploy.programs import find_program, run

FILE = Path(__file__).parents[2] / "deploy" / "helm" / "slim-scheduler" / "files" / "rules.yaml"
RULES = yaml.safe_load(FILE.read_text())["groups"][0]["rules"]
ALERTS = {rule["alert"]: rule for rule in RULES if "alert" in rule}

Series = dict[str, str]
"""Values in promtool's notation, four a minute, by series."""


class Case(NamedTuple):
    """What makes an alert fire in half an hour, with its labels besides severity; and what must not."""

    fires: Series
    labels: Series
    silent: Series


def requests(**per_sample: int) -> Series:
    return {
        f'slim_gateway_requests_total{{outcome="{outcome}"}}': f"0+{step}x120" for outcome, step in per_sample.items()
    }


def waits(under_10_ms: int) -> Series:
    """Of a hundred requests in each sample so many wait for less than 10 ms, and the others for up to 100 ms."""
    found = {"0.01": under_10_ms, "0.1": 100, "+Inf": 100}
    return {f'slim_gateway_queue_seconds_bucket{{outcome="ok",le="{le}"}}': f"0+{n}x120" for le, n in found.items()}


def one(name: str, values: str, **labels: str) -> Series:
    return {name + "{" + ",".join(f'{key}="{value}"' for key, value in labels.items()) + "}": values}


def decided(fallbacks: int) -> Series:
    return {
        **one("slim_router_fallbacks_total", f"0+{fallbacks}x120", reason="slow", instance="g"),
        **one("slim_router_policy_seconds_count", "0+100x120", instance="g"),
    }


def memory(used: int) -> Series:
    of = {"server": "s", "instance": "c"}
    return {
        **one("slim_controller_memory_used_bytes", f"{used}x120", source="nvml", **of),
        **one("slim_controller_memory_budget_bytes", "100x120", **of),
    }


CASES = {
    "SlimSchedulerQueueIsLong": Case(waits(50), {}, waits(99)),
    "SlimSchedulerRequestsFail": Case(requests(ok=97, failed=2, unavailable=1), {}, requests(ok=98, invalid=2)),
    "SlimSchedulerRequestsAreRefusedOrLate": Case(
        requests(ok=90, shed=6, deadline=4), {}, requests(ok=97, shed=2, deadline=1)
    ),
    "SlimSchedulerGatewayIsGone": Case({}, {}, one("slim_gateway_workers", "1x120", instance="g")),
    "SlimSchedulerGatewayAnswersNobody": Case(
        one("slim_gateway_workers", "0x120", instance="g"), {}, one("slim_gateway_workers", "1x120", instance="g")
    ),
    "SlimSchedulerServerIsLeftOut": Case(
        one("slim_router_servers_left_out", "1x120", server="s", instance="g"),
        {"server": "s", "instance": "g"},
        one("slim_router_servers_left_out", "0x80 1x8 0x40", server="s", instance="g"),
    ),
    "SlimSchedulerWeightsDiffer": Case(
        one("slim_gateway_foreign_models", "1x120", server="s", model="m_w025", instance="g"),
        {"server": "s", "model": "m_w025", "instance": "g"},
        {},
    ),
    "SlimSchedulerFallbackDecides": Case(decided(10), {}, decided(1)),
    "SlimSchedulerWorkersDie": Case(
        one("slim_gateway_worker_restarts_total", "0x90 1x40", instance="g"),
        {"instance": "g"},
        one("slim_gateway_worker_restarts_total", "5x120", instance="g"),
    ),
    "SlimSchedulerBackgroundWorkFails": Case(
        one("slim_background_failures_total", "0x90 0+1x30", task="discovery", instance="g"),
        {"task": "discovery", "instance": "g"},
        one("slim_background_failures_total", "0x90 1x40", task="discovery", instance="g"),
    ),
    "SlimSchedulerTritonIsDown": Case(
        one("slim_controller_triton_up", "1x80 0x60", server="s"),
        {"server": "s"},
        one("slim_controller_triton_up", "1x115 0x20", server="s"),
    ),
    "SlimSchedulerControllerStands": Case(
        one("slim_controller_steps_total", "0+15x90 1350x60", server="s"),
        {"server": "s"},
        {
            **one("slim_controller_steps_total", "0+15x115 0+15x20", server="s"),  # it was started anew
            **one("slim_controller_last_step_timestamp_seconds", "-300+15x140", server="s"),  # its clock is behind
        },
    ),
    "SlimSchedulerActionsFail": Case(
        one("slim_controller_actions_total", "0x90 0+1x40", server="s", kind="load", outcome="failed"),
        {"server": "s"},
        one("slim_controller_actions_total", "0+1x140", server="s", kind="load", outcome="ok"),
    ),
    "SlimSchedulerMemoryIsOverBudget": Case(memory(101), {"server": "s", "instance": "c"}, memory(100)),
}


def test_each_alert_has_a_case() -> None:
    assert CASES.keys() == ALERTS.keys()


@pytest.mark.parametrize("name", sorted(CASES))
def test_an_alert_fires_when_it_should_and_only_then(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    tests = [_test(name, case.fires, [_expected(name, case.labels)]), _test(name, case.silent, [])]
    document = {"rule_files": [str(FILE)], "evaluation_interval": "15s", "tests": tests}
    (tmp_path / "case.yaml").write_text(yaml.safe_dump(document))
    status, said = run(find_program("promtool", "Prometheus"), "test", "rules", str(tmp_path / "case.yaml"))
    assert status == 0, said


def _test(name: str, series: Series, alerts: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "interval": "15s",
        "input_series": [{"series": key, "values": values} for key, values in series.items()],
        "alert_rule_test": [{"eval_time": "30m", "alertname": name, "exp_alerts": alerts}],
    }


def _expected(name: str, labels: Series) -> dict[str, Any]:
    summary = ALERTS[name]["annotations"]["summary"]
    for key, value in labels.items():
        summary = summary.replace("{{ $labels." + key + " }}", value)
    # What else an absent metric's selector says becomes a label; there is nothing of the kind in ours.
    return {"exp_labels": {**labels, **ALERTS[name]["labels"]}, "exp_annotations": {"summary": summary}}


def controller_metrics() -> set[str]:
    """Return the names of a controller's metrics on a host with an energy counter; most are known only after a step."""
    metrics, energy = ControllerMetrics(ServerName("s")), EnergyAccount()
    for step in (1, 2):  # energy is shared out between two
        reading = replace(READING, energy_j=Reading(30.0 * step, "rapl"), power_w=Reading(30.0, "rapl"))
        report = seeing(full_report(), reading=reading, at_s=NOW_S + step)
        energy = follow_energy(energy, report.seen)
        metrics.observe(replace(report, energy=energy))
    return {metric.name for metric in metrics.registry.collect()}


def test_rules_rest_on_metrics_that_there_are() -> None:
    controller = controller_metrics()
    named = set(re.findall(r"\bslim_[a-z_]+", " ".join(rule["expr"] for rule in RULES)))
    for name in named:
        plain = re.sub(r"_(total|bucket|count)$", "", name)
        assert plain in MEASURES or plain in controller, name


def test_every_selector_can_be_narrowed_down_to_a_release() -> None:
    for rule in RULES:
        assert len(re.findall(r"\bslim_[a-z_]+\{[^}]*,\}", rule["expr"])) == rule["expr"].count("slim_"), rule["expr"]


def test_promtool_takes_the_file_as_it_is() -> None:
    status, said = run(find_program("promtool", "Prometheus"), "check", "rules", str(FILE))
    assert status == 0, said
