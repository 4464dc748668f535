"""The Grafana dashboards of `deploy/helm/slim-scheduler/files/dashboards`, from the tables below.

A test runs every query at a real Prometheus that scrapes a loaded fleet. A rate of what never happened is no series, so
such queries end in ``or vector(0)``. To write the files again:

    python -m tools.grafana
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

FOLDER = Path(__file__).parents[1] / "deploy" / "helm" / "slim-scheduler" / "files" / "dashboards"
SOURCE = {"type": "prometheus", "uid": "${datasource}"}
_COLUMNS = 24
_HEIGHTS = {"stat": 4, "timeseries": 8, "table": 6}
RATE = "[$__rate_interval]"


class Panel(NamedTuple):
    """One panel: its queries in PromQL by their legends; ``unit`` is Grafana's name of it."""

    title: str
    queries: dict[str, str]
    unit: str = "short"
    kind: str = "timeseries"
    width: int = 8
    is_stacked: bool = False
    text: str = ""


def _rate(metric: str, *by: str, where: str = "") -> str:
    return f"sum by ({', '.join(by)}) (rate({metric}{{{where}}}{RATE}))"


def _of_gateways(query: str) -> str:
    """Every program that Prometheus knows has metrics of its process; a policy is in force in gateways alone."""
    return f"sum by (instance) ({query}) and on (instance) slim_router_policy_info"


def _or_none(query: str) -> str:
    return f"{query} or vector(0)"


def _quantile(ratio: float, histogram: str, *by: str, where: str = 'outcome="ok"') -> str:
    return f"histogram_quantile({ratio:g}, {_rate(f'{histogram}_bucket', 'le', *by, where=where)})"


_REQUESTS = "slim_gateway_requests_total"
_OK = 'outcome="ok"'
_JOULES = (
    f"sum by (model) (rate(slim_controller_model_energy_joules_total{RATE})) "
    f"/ (sum by (model) (rate(slim_controller_model_energy_requests_total{RATE})) > 0)"
)

FLEET = (
    Panel("Sent", {"": _rate(_REQUESTS)}, "reqps", "stat", 4),
    Panel("Answered", {"": f"{_rate(_REQUESTS, where=_OK)} / {_rate(_REQUESTS)}"}, "percentunit", "stat", 4),
    Panel("Latency p95", {"": _quantile(0.95, "slim_gateway_latency_seconds")}, "s", "stat", 4),
    Panel("Wait p95", {"": _quantile(0.95, "slim_gateway_queue_seconds")}, "s", "stat", 4),
    Panel("In flight", {"": "sum(slim_gateway_in_flight)"}, kind="stat", width=4),
    Panel("Processes", {"": "sum(slim_gateway_workers)"}, kind="stat", width=4),
    Panel("Requests by outcome", {"{{outcome}}": _rate(_REQUESTS, "outcome")}, "reqps", is_stacked=True),
    Panel(
        "Latency",
        {f"p{q:g}": _quantile(q / 100, "slim_gateway_latency_seconds") for q in (50, 95, 99)},
        "s",
        text="From a request to its answer, of those that were answered.",
    ),
    Panel("Answers by width", {"{{width}} %": _rate(_REQUESTS, "width", where=_OK)}, "reqps", is_stacked=True),
    Panel("Wait p95 by width", {"{{width}} %": _quantile(0.95, "slim_gateway_queue_seconds", "width")}, "s"),
    Panel("Service p95 by server", {"{{server}}": _quantile(0.95, "slim_gateway_service_seconds", "server")}, "s"),
    Panel("Answers by server", {"{{server}}": _rate(_REQUESTS, "server", where=_OK)}, "reqps", is_stacked=True),
    Panel(
        "Queue",
        {
            "items": "sum(slim_router_queue_items)",
            "batches at {{server}}": "sum by (server) (slim_router_groups_in_flight)",
        },
    ),
    Panel(
        "Given up for load, by reason",
        {"{{reason}}": _or_none(_rate("slim_router_sheds_total", "reason"))},
        "reqps",
    ),
    Panel(
        "Second attempts, and servers taken out",
        {
            "retries": _or_none(_rate("slim_router_retries_total")),
            "hedges": _or_none(_rate("slim_router_hedges_total")),
            "ejections": _or_none(_rate("slim_router_ejections_total")),
        },
        "ops",
    ),
    Panel(
        "Decision of the policy",
        {f"p{q}": _quantile(q / 100, "slim_router_policy_seconds", where="") for q in (50, 99)},
        "s",
    ),
    Panel(
        "Fallback decided, by reason", {"{{reason}}": _or_none(_rate("slim_router_fallbacks_total", "reason"))}, "ops"
    ),
    Panel(
        "Waiting for this host",
        {"p95": _quantile(0.95, "slim_gateway_transit_seconds", where="")},
        "s",
        text="Before a request was read, and until its answer has left.",
    ),
    Panel("Servers left out", {"{{server}}": "max by (server) (slim_router_servers_left_out)"}),
    Panel("Processor", {"{{instance}}": _of_gateways("rate(process_cpu_seconds_total" + RATE + ")")}, "short"),
    Panel("Memory", {"{{instance}}": _of_gateways("process_resident_memory_bytes")}, "bytes"),
    Panel(
        "Policies in force",
        {"": "max by (instance, policy, fallback, shadow) (slim_router_policy_info)"},
        kind="table",
        width=12,
    ),
    Panel("What runs", {"": "max by (instance, version, commit, python) (slim_build_info)"}, kind="table", width=12),
)
HOSTS = (
    Panel("Tritons observed", {"": "sum(slim_controller_triton_up)"}, kind="stat", width=6),
    Panel("Oldest step", {"": "max(slim_controller_last_step_age_seconds)"}, "s", "stat", 6),
    Panel("Instances", {"": "sum(slim_controller_instances)"}, kind="stat", width=6),
    Panel("Power", {"": "sum(slim_controller_power_watts)"}, "watt", "stat", 6, text="Of hosts where it can be read."),
    Panel("Instances by model", {"{{server}} {{model}}": "slim_controller_instances"}, is_stacked=True),
    Panel(
        "Instances that are missing",
        {"{{server}} {{model}}": "slim_controller_desired_instances - slim_controller_instances"},
    ),
    Panel("Utilisation", {"{{server}}": "slim_controller_utilisation_ratio"}, "percentunit"),
    Panel(
        "Memory",
        {
            "{{server}} used": "slim_controller_memory_used_bytes",
            "{{server}} budget": "slim_controller_memory_budget_bytes",
            "{{server}} residue": "slim_controller_memory_residue_bytes",
        },
        "bytes",
    ),
    Panel(
        "Actions",
        {
            "{{server}} {{kind}} {{outcome}}": "sum by (server, kind, outcome) (increase(slim_controller_actions_total"
            + RATE
            + "))"
        },
    ),
    Panel(
        "Refused by the plan",
        {"{{server}} {{model}} {{reason}}": _or_none("sum by (server, model, reason) (slim_controller_refusals)")},
    ),
    Panel("Notices", {"{{server}} {{kind}}": _or_none("sum by (server, kind) (slim_controller_notices)")}),
    Panel(
        "A step, and its plan",
        {
            "step p95": _quantile(0.95, "slim_controller_step_seconds", where=""),
            "plan p95": _quantile(0.95, "slim_controller_plan_seconds", where=""),
        },
        "s",
    ),
    Panel(
        "Joules a request", {"{{model}}": _JOULES}, "joule", text="Above idle, by busy time; where there is a counter."
    ),
    Panel(
        "Power, by what it is for",
        {
            "{{model}}": _rate("slim_controller_model_energy_joules_total", "model"),
            "idle": _rate("slim_controller_idle_energy_joules_total"),
        },
        "watt",
        is_stacked=True,
    ),
    Panel("Threads of Triton", {"{{server}}": "slim_controller_triton_threads"}),
)
DASHBOARDS = {"fleet": ("Slim Scheduler: fleet", FLEET), "hosts": ("Slim Scheduler: hosts", HOSTS)}


def render_dashboard(name: str) -> str:
    """Return a dashboard as Grafana takes it."""
    title, panels = DASHBOARDS[name]
    document = {
        "uid": f"slim-scheduler-{name}",
        "title": title,
        "tags": ["slim-scheduler"],
        "schemaVersion": 39,
        "editable": True,
        "refresh": "10s",
        "time": {"from": "now-30m", "to": "now"},
        "templating": {
            "list": [{"name": "datasource", "label": "Prometheus", "type": "datasource", "query": "prometheus"}]
        },
        "panels": list(_place(panels)),
    }
    return json.dumps(document, indent=1) + "\n"


def _place(panels: tuple[Panel, ...]) -> Iterator[dict[str, Any]]:
    x = y = height = 0
    for number, panel in enumerate(panels, 1):
        if x + panel.width > _COLUMNS:
            x, y, height = 0, y + height, 0
        yield _panel(panel, number, {"x": x, "y": y, "w": panel.width, "h": _HEIGHTS[panel.kind]})
        x, height = x + panel.width, max(height, _HEIGHTS[panel.kind])


def _panel(panel: Panel, number: int, place: dict[str, int]) -> dict[str, Any]:
    is_table = panel.kind == "table"
    custom = {
        "fillOpacity": 25 if panel.is_stacked else 0,
        "stacking": {"mode": "normal" if panel.is_stacked else "none"},
    }
    return {
        "id": number,
        "title": panel.title,
        "description": panel.text,
        "type": panel.kind,
        "gridPos": place,
        "datasource": SOURCE,
        "fieldConfig": {
            "defaults": {"unit": panel.unit, "min": 0, **({"custom": custom} if panel.kind == "timeseries" else {})},
            "overrides": [],
        },
        "options": {"legend": {"displayMode": "list", "placement": "bottom"}} if panel.kind == "timeseries" else {},
        "targets": [
            {
                "refId": chr(ord("A") + index),
                "datasource": SOURCE,
                "expr": query,
                "legendFormat": legend or "__auto",
                **({"format": "table", "instant": True} if is_table else {}),
            }
            for index, (legend, query) in enumerate(panel.queries.items())
        ],
        "transformations": [{"id": "organize", "options": {"excludeByName": {"Time": True, "Value": True}}}]
        if is_table
        else [],
    }


if __name__ == "__main__":
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name in DASHBOARDS:
        (FOLDER / f"{name}.json").write_text(render_dashboard(name))
