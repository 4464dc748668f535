"""Every query of every panel returns data from a real Prometheus that scrapes a loaded fleet."""

from __future__ import annotations

import http.server
import json
import subprocess
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tritonclient.grpc as grpcclient
import yaml
from prometheus_client import MetricsHandler

from orchestrator.config import load_fleet
from orchestrator.controller.observer import follow_energy
from orchestrator.controller.status.metrics import ControllerMetrics
from orchestrator.planner.energy import EnergyAccount
from orchestrator.snapshot import ServerName
from orchestrator.telemetry.reading import Reading
from tests.cli.test_real_up import Up, answer_over_grpc
from tests.controller.status.reports import READING, full_report, seeing
from tests.deploy.programs import find_program
from tests.deploy.test_rules import FILE as RULES
from tests.ports import choose_free_port
from tools.grafana import DASHBOARDS, render_dashboard

pytestmark = pytest.mark.integration

WAIT_S = 90.0
SCRAPE_S = 1
RATE_INTERVAL = "15s"
OF_SENSORS = ("slim_controller_power_watts", "slim_controller_model_energy", "slim_controller_idle_energy")
"""What a host without power sensors does not have; a controller's metrics over given readings have it here."""


@contextmanager
def metered_host() -> Iterator[str]:
    """The metrics of a controller whose host has an energy counter, which this machine may lack; yields its address."""
    metrics = ControllerMetrics(ServerName("metered"))

    class Handler(MetricsHandler):
        registry = metrics.registry
        step = 0
        energy = EnergyAccount()

        def do_GET(self) -> None:  # noqa: N802 – the standard library's name
            Handler.step += 1
            reading = replace(READING, energy_j=Reading(30.0 * self.step, "rapl"), power_w=Reading(30.0, "rapl"))
            report = seeing(full_report(), reading=reading, at_s=5000.0 + self.step)
            Handler.energy = follow_energy(Handler.energy, report.seen)
            metrics.observe(replace(report, unix_s=time.time(), energy=Handler.energy))
            super().do_GET()

        def log_message(self, *_: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@contextmanager
def prometheus(folder: Path, targets: dict[str, str]) -> Iterator[str]:
    """Run a Prometheus that scrapes targets, by their jobs; yields its address."""
    program, address = find_program("prometheus", "Prometheus"), f"127.0.0.1:{choose_free_port()}"
    settings = {
        "global": {"scrape_interval": f"{SCRAPE_S}s", "evaluation_interval": f"{SCRAPE_S}s"},
        "rule_files": [str(RULES)],
        "scrape_configs": [
            {"job_name": job, "static_configs": [{"targets": [target]}]} for job, target in targets.items()
        ],
    }
    (folder / "prometheus.yml").write_text(yaml.safe_dump(settings))
    command = [
        program,
        f"--config.file={folder}/prometheus.yml",
        f"--storage.tsdb.path={folder}/tsdb",
        f"--web.listen-address={address}",
    ]
    with (folder / "prometheus.log").open("wb") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        try:
            yield address
        finally:
            process.terminate()
            process.wait(30)


def ask(address: str, query: str) -> list[dict[str, Any]]:
    """Return the result of an instant query; empty while Prometheus does not answer."""
    url = f"http://{address}/api/v1/query?" + urllib.parse.urlencode({"query": query})
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            found: list[dict[str, Any]] = json.load(answer)["data"]["result"]
            return found
    except OSError as exc:
        if isinstance(exc, urllib.error.HTTPError) and exc.code == 400:
            raise AssertionError(f"{query}: {exc.read().decode()}") from exc
        return []


def queries() -> dict[str, str]:
    return {
        f"{name}: {panel['title']} {target['legendFormat']}": target["expr"].replace("$__rate_interval", RATE_INTERVAL)
        for name in DASHBOARDS
        for panel in json.loads(render_dashboard(name))["panels"]
        for target in panel["targets"]
    }


def test_every_panel_has_data_of_a_loaded_fleet(tmp_path: Path) -> None:
    up = Up(tmp_path)
    with up.running(), metered_host() as metered:
        server = load_fleet(up.state / "fleet.yaml").servers[0]
        targets = {"gateway": up.metrics, "controller": str(server.controller), "metered": metered}
        with grpcclient.InferenceServerClient(server.grpc) as triton:
            triton.unload_model("fashion_w075")  # so that its controller has something to do
        with prometheus(tmp_path, targets) as address:
            recorded = yaml.safe_load(RULES.read_text())["groups"][0]["rules"][0]["record"]
            left, until_s = {**queries(), "recorded": recorded}, time.monotonic() + WAIT_S
            while left and time.monotonic() < until_s:
                for _ in range(20):
                    answer_over_grpc(up.grpc)
                left = {name: query for name, query in left.items() if not is_answered(address, query)}
            assert not left
            for panel in ("Processor", "Memory"):
                assert {
                    each["metric"]["instance"] for each in ask(address, queries()[f"fleet: {panel} {{{{instance}}}}"])
                } == {up.metrics}


def is_answered(address: str, query: str) -> bool:
    """Return whether a query gives numbers, of this fleet wherever a machine without sensors can."""
    found = [
        each
        for each in ask(address, query)
        if each["value"][1] != "NaN"
        and (each["metric"].get("server") != "metered" or any(metric in query for metric in OF_SENSORS))
    ]
    return bool(found)
