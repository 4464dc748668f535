from pathlib import Path
from typing import Any

import yaml

from orchestrator.config import parse_fleet
from orchestrator.embedded.flags import render_flags
from tools.compose import CONTAINER_FLAGS, FLEET_PATH, render_compose

COMPOSE = Path(__file__).parents[2] / "deploy" / "compose.yaml"


def read() -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load(COMPOSE.read_text())
    return document


def test_the_file_is_what_render_compose_returns() -> None:
    assert COMPOSE.read_text() == render_compose(), "run: python -m tools.compose > deploy/compose.yaml"


def test_its_command_line_comes_from_render_flags() -> None:
    command = read()["services"]["triton"]["command"]
    assert command == ["tritonserver", *render_flags(CONTAINER_FLAGS)]


def test_ports_are_published_on_loopback_and_the_repository_is_read_only() -> None:
    services = read()["services"]
    ports = [port for service in services.values() for port in service.get("ports", ())]
    assert len(ports) == len(set(ports)) == 8
    assert all(port.startswith("127.0.0.1:") for port in ports)
    for name in ("triton", "controller"):
        assert services[name]["volumes"] == [f"../model_repository:{CONTAINER_FLAGS.repository}:ro"]
    devices = services["triton"]["deploy"]["resources"]["reservations"]["devices"]
    assert devices == [{"driver": "nvidia", "count": 1, "capabilities": ["gpu"]}]


def test_gateway_and_controller_read_one_file_that_finds_triton() -> None:
    document = read()
    [server] = parse_fleet(document["configs"]["fleet"]["content"]).servers
    assert server.grpc == f"triton:{CONTAINER_FLAGS.grpc_port}"
    assert server.metrics == f"http://triton:{CONTAINER_FLAGS.metrics_port}/metrics"
    for name in ("gateway", "controller"):
        service = document["services"][name]
        assert service["configs"] == [{"source": "fleet", "target": FLEET_PATH}]
        assert FLEET_PATH in service["command"]
    controller = document["services"]["controller"]
    assert "--sidecar" in controller["command"]  # so that it asks 127.0.0.1, which is Triton's too
    assert controller["network_mode"] == controller["pid"] == "service:triton"


def test_what_is_ours_has_no_rights_and_writes_nowhere_but_to_memory() -> None:
    services = read()["services"]
    for service in (services["gateway"], services["controller"]):
        assert service["read_only"]
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        dockerfile = COMPOSE.parent / service["build"]["context"] / service["build"]["dockerfile"]
        assert f" AS {service['build']['target']}\n" in dockerfile.read_text()


def test_prometheus_scrapes_all_three() -> None:
    scraped = yaml.safe_load(read()["configs"]["prometheus"]["content"])["scrape_configs"]
    targets = [target for job in scraped for each in job["static_configs"] for target in each["targets"]]
    assert targets == ["gateway:8082", "triton:9400", "triton:8002"]
