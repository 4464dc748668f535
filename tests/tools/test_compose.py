from pathlib import Path

import yaml

from orchestrator.embedded.flags import render_flags
from tools.compose import CONTAINER_FLAGS, render_compose

COMPOSE = Path(__file__).parents[2] / "deploy" / "compose.yaml"


def test_the_file_is_what_render_compose_returns() -> None:
    assert COMPOSE.read_text() == render_compose(), "run: python -m tools.compose > deploy/compose.yaml"


def test_its_command_line_comes_from_render_flags() -> None:
    command = yaml.safe_load(COMPOSE.read_text())["services"]["triton"]["command"]
    assert command == ["tritonserver", *render_flags(CONTAINER_FLAGS)]


def test_ports_are_published_on_loopback_and_the_repository_is_read_only() -> None:
    service = yaml.safe_load(COMPOSE.read_text())["services"]["triton"]
    assert sorted(service["ports"]) == [f"127.0.0.1:{port}:{port}" for port in (8000, 8001, 8002)]
    assert service["volumes"] == [f"../model_repository:{CONTAINER_FLAGS.repository}:ro"]
    devices = service["deploy"]["resources"]["reservations"]["devices"]
    assert devices == [{"driver": "nvidia", "count": 1, "capabilities": ["gpu"]}]
