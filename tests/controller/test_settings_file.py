"""The fleet file read again: what is taken, what is refused, and what is said of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from orchestrator.config import ControllerSettings, FleetSettings, ServerSettings, load_fleet
from orchestrator.controller.resolve import SettingsFile
from orchestrator.controller.sidecar import ServerOfController
from orchestrator.errors import ConfigError
from orchestrator.planner.host import Limits

SERVER = {
    "name": "a",
    "grpc": "127.0.0.1:8001",
    "metrics": "http://127.0.0.1:8002/metrics",
    "repository": "/models",
    "controller": "127.0.0.1:9100",
    "limits": {"memory_budget_mib": 300},
}


class File:
    """A fleet file that a controller was started with."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.resolved: list[float] = []
        self.write()
        fleet = load_fleet(path)
        self.settings = SettingsFile(
            ServerOfController(path, server="a").load, fleet.servers[0], fleet, resolve=self.resolve
        )

    def write(self, settings: dict[str, Any] | None = None, **server: Any) -> None:
        servers = [{**SERVER, **server}, {"name": "b", "grpc": "127.0.0.1:7001"}]
        self.path.write_text(json.dumps({"servers": servers, "controller": settings or {}}))

    def resolve(self, server: ServerSettings, fleet: FleetSettings) -> Limits:
        budget_mib = server.limits.memory_budget_mib or 0.0
        if budget_mib < 100:
            raise ConfigError("the minimum set does not fit")
        self.resolved.append(budget_mib)
        return Limits(memory_budget_bytes=int(budget_mib) << 20, minimum=(), settings=fleet.controller)

    def refusal(self) -> str:
        with pytest.raises(ConfigError) as caught:
            self.settings.reload()
        return str(caught.value)


@pytest.fixture
def file(tmp_path: Path) -> File:
    return File(tmp_path / "fleet.yaml")


def test_limits_and_timings_are_taken_and_named(file: File) -> None:
    file.write({"idle_s": 60, "wanted_widths": [25]}, limits={"memory_budget_mib": 400, "max_instances": 2})
    assert file.settings.reload() == (
        Limits(400 << 20, minimum=(), settings=ControllerSettings(idle_s=60, wanted_widths=(25,))),
        (
            "servers[a].limits.memory_budget_mib 300.0 → 400.0",
            "servers[a].limits.max_instances None → 2",
            "controller.wanted_widths None → [25]",
            "controller.idle_s 30.0 → 60.0",
        ),
    )
    assert file.settings.reload()[1] == (), "changes are named once"


def test_the_deadline_of_requests_concerns_a_controller_too(file: File) -> None:
    values = json.loads(file.path.read_text())
    values["router"] = {"deadline_ms": 20}
    file.path.write_text(json.dumps(values))
    assert file.settings.reload()[1] == ("router.deadline_ms 100.0 → 20.0",)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"grpc": "127.0.0.1:8009"}, "servers[a].grpc changed from 127.0.0.1:8001 to 127.0.0.1:8009"),
        ({"metrics": "http://x:1"}, "servers[a].metrics changed from http://127.0.0.1:8002/metrics to http://x:1"),
        ({"repository": "/other"}, "servers[a].repository changed from /models to /other"),
        ({"controller": None}, "servers[a].controller changed from 127.0.0.1:9100 to None"),
        ({"device": "gpu"}, "servers[a].device changed from cpu to gpu"),
        ({"protocol_key_file": "/k"}, "servers[a].protocol_key_file changed from None to /k"),
        ({"limits": {"gpu_index": 1}}, "servers[a].limits.gpu_index changed from 0 to 1"),
        ({"limits": {"gpu_uuid": "MIG-1"}}, "servers[a].limits.gpu_uuid changed from None to MIG-1"),
        ({"settings": {"family": "cats"}}, "controller.family changed from None to cats"),
    ],
)
def test_what_connections_were_opened_with_needs_a_restart(file: File, change: dict[str, Any], problem: str) -> None:
    file.write(**change)
    assert file.refusal() == f"{problem}; that needs a restart of the controller"


def test_a_refused_file_leaves_the_old_settings(file: File) -> None:
    file.write(limits={"memory_budget_mib": 50})
    assert file.refusal() == "the minimum set does not fit"
    file.path.write_text("servers: []")
    assert "servers: must have at least 1, but has 0" in file.refusal()
    file.path.unlink()
    assert "no fleet file at" in file.refusal()
    file.write(name="c")
    assert file.refusal() == "no server 'a' in the fleet; it has c, b"
    # What is named next is still compared with what runs.
    file.write(limits={"memory_budget_mib": 200})
    assert file.settings.reload()[1] == ("servers[a].limits.memory_budget_mib 300.0 → 200.0",)
    assert file.resolved == [200.0]


def test_other_servers_may_change(file: File) -> None:
    values = json.loads(file.path.read_text())
    values["servers"][1]["grpc"] = "127.0.0.1:7009"
    values["router"] = {"policy": "jsq"}
    file.path.write_text(json.dumps(values))
    assert file.settings.reload()[1] == ()


@pytest.mark.parametrize(
    "change", [{"device_class": "h100"}, {"power": {"idle_w": 40, "busy_w": 300}}, {"emulated_slowdown": 2.0}]
)
def test_what_a_servers_entry_says_to_others_refuses_nothing(file: File, change: dict[str, Any]) -> None:
    file.write({"idle_s": 60}, **change)
    assert file.settings.reload()[1] == ("controller.idle_s 30.0 → 60.0",)


def test_a_password_in_a_url_is_not_told(file: File) -> None:
    file.write(metrics="http://reader:secret@127.0.0.1:8002/metrics")
    told = file.refusal()
    assert "servers[a].metrics changed from http://127.0.0.1:8002/metrics" in told
    assert "secret" not in told
