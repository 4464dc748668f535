"""What the manifests tell Prometheus, as Prometheus' own tool takes it."""

from __future__ import annotations

from pathlib import Path

import yaml

from tests.deploy.charts import find, render
from tests.deploy.programs import find_program, run
from tools.kustomize import CHART

COMPOSE = Path(__file__).parents[2] / "deploy" / "compose.yaml"


def test_promtool_takes_the_rules(tmp_path: Path) -> None:
    promtool = find_program("promtool", "Prometheus")
    rules = tmp_path / "rules.yaml"
    spec = find(render("scaled"), "PrometheusRule")["spec"]
    rules.write_text(yaml.safe_dump(spec))
    status, said = run(promtool, "check", "rules", str(rules))
    assert status == 0, said
    assert f"{len(spec['groups'][0]['rules'])} rules found" in said


def test_queue_seconds_are_the_95th_percentile_over_all_gateways(tmp_path: Path) -> None:
    """Two gateways, of whose requests 9 of 10 wait for up to 10 ms and the others for up to 25 ms."""
    promtool = find_program("promtool", "Prometheus")
    spec = find(render("scaled"), "PrometheusRule")["spec"]
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump(spec))
    series = [
        {
            "series": f'slim_gateway_queue_seconds_bucket{{namespace="default",pod="{pod}",outcome="ok",le="{bound}"}}',
            "values": f"0+{step}x20",
        }
        for pod in ("demo-slim-scheduler-gateway-a", "demo-slim-scheduler-gateway-b")
        for bound, step in (("0.01", 90), ("0.025", 100), ("+Inf", 100))
    ]
    series.append({**series[0], "series": series[0]["series"].replace("demo", "another"), "values": "0+9000x20"})
    wanted = {
        "expr": "round(1e6 * slim_scheduler:queue_seconds:p95)",
        "eval_time": "4m",
        "exp_samples": [
            {"labels": '{namespace="default",release="demo"}', "value": 17500}  # half way from 10 to 25 ms
        ],
    }
    test = {"interval": "15s", "input_series": series, "promql_expr_test": [wanted]}
    case = {"rule_files": ["rules.yaml"], "evaluation_interval": "15s", "tests": [test]}
    (tmp_path / "case.yaml").write_text(yaml.safe_dump(case))
    status, said = run(promtool, "test", "rules", str(tmp_path / "case.yaml"))
    assert status == 0, said


def test_keda_asks_what_the_rule_records() -> None:
    [trigger] = find(render("keda"), "ScaledObject")["spec"]["triggers"]
    recorded = find(render("scaled"), "PrometheusRule")["spec"]["groups"][0]["rules"][0]
    assert trigger["metadata"]["query"] == recorded["expr"]


def test_the_metric_that_kubernetes_scales_by_is_one_that_the_rules_record() -> None:
    """An adapter serves a recorded series with the colons of its name as underscores, and picks it by its labels."""
    manifests = render("scaled")
    [metric] = find(manifests, "HorizontalPodAutoscaler", "-triton")["spec"]["metrics"]
    asked = metric["external"]["metric"]
    rules = find(manifests, "PrometheusRule")["spec"]["groups"][0]["rules"]
    recorded = {rule["record"].replace(":", "_"): rule["labels"] for rule in rules if "record" in rule}
    assert asked["name"] in recorded
    assert recorded[asked["name"]] == asked["selector"]["matchLabels"]
    in_file = yaml.safe_load((CHART / "files" / "rules.yaml").read_text())["groups"][0]["rules"]
    assert asked["name"] in {rule.get("record", "").replace(":", "_") for rule in in_file}


def test_the_length_of_the_queue_that_wakes_somebody_follows_from_that_of_scaling() -> None:
    [rule] = [r for r in find(render("scaled"), "PrometheusRule")["spec"]["groups"][0]["rules"] if "Queue" in str(r)]
    assert rule["expr"].endswith(" > 0.04")  # twice the 0.02 of the chart's values


def test_promtool_takes_the_settings_of_compose(tmp_path: Path) -> None:
    promtool = find_program("promtool", "Prometheus")
    settings = tmp_path / "prometheus.yml"
    document = yaml.safe_load(COMPOSE.read_text())
    [mounted] = document["services"]["prometheus"]["volumes"]
    rules, inside, _ = mounted.split(":")
    text = document["configs"]["prometheus"]["content"].replace(inside, str((COMPOSE.parent / rules).resolve()))
    settings.write_text(text)
    status, said = run(promtool, "check", "config", str(settings))
    assert status == 0, said
    assert "rules found" in said
