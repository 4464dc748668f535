"""One fleet file for all, and what differs beside a controller."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from orchestrator.config import FleetSettings, ServerSettings
from orchestrator.config.names import name_at
from orchestrator.controller.resolve import SettingsFile
from orchestrator.controller.sidecar import ServerOfController
from orchestrator.errors import ConfigError
from orchestrator.planner.host import Limits

SHARED = {
    "name": "triton",
    "grpc": "tritons.default.svc:8001",
    "metrics": "http://tritons.default.svc:8002/metrics",
    "controller": "tritons.default.svc:9400",
    "repository": "/models",
    "limits": {"max_instances": 3, "gpu_index": 1},
}
UUID = "GPU-5f2c1e1a-0000-1111-2222-333344445555"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write(tmp_path / "fleet.yaml", SHARED)


def write(path: Path, *servers: dict[str, Any]) -> Path:
    path.write_text(json.dumps({"servers": servers}))
    return path


def test_without_options_the_server_is_as_in_the_file(path: Path) -> None:
    fleet, server = ServerOfController(path).load()
    assert server == fleet.servers[0] == ServerOfController(path, "triton").load()[1]


def test_beside_its_triton_it_has_the_pods_name_and_addresses_and_the_files_ports(path: Path) -> None:
    fleet, server = ServerOfController(path, name="triton-0.tritons", is_sidecar=True).load()
    assert (server.name, server.grpc, server.metrics, server.controller) == (
        "triton-0.tritons",
        "127.0.0.1:8001",
        "http://127.0.0.1:8002/metrics",
        "0.0.0.0:9400",
    )
    assert server.limits == fleet.servers[0].limits
    assert fleet.servers[0].name == "triton"


@pytest.mark.parametrize("ip", ["10.0.0.7", "fd00::7"])
def test_beside_a_pod_without_a_name_it_is_called_by_the_address_as_gateways_call_it(path: Path, ip: str) -> None:
    _, server = ServerOfController(path, name=f"triton-{ip}", is_sidecar=True).load()
    assert server.name == name_at("triton", ip)


@pytest.mark.parametrize(("gpu", "expected"), [("0", 0), (UUID, UUID), ("MIG-c7384736", "MIG-c7384736")])
def test_the_gpu_is_that_of_the_option(path: Path, gpu: str, expected: int | str) -> None:
    limits = ServerOfController(path, gpu=gpu, memory_limit_bytes=3 << 29).load()[1].limits
    assert (limits.gpu, limits.max_instances, limits.memory_limit_mib) == (expected, 3, 1536.0)


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"server": "tritons"}, "no server 'tritons' in the fleet; it has triton"),
        ({"name": "a pod"}, "servers[triton] with this command's options: name: must be letters, digits"),
        ({"gpu": "H100"}, "servers[triton] with this command's options: limits.gpu_uuid: must be the UUID of a GPU"),
    ],
)
def test_what_can_not_be_is_refused(path: Path, options: dict[str, str], problem: str) -> None:
    with pytest.raises(ConfigError) as caught:
        ServerOfController(path, **options).load()  # type: ignore[arg-type]
    assert problem in str(caught.value)


def test_one_of_several_servers_has_to_be_named(tmp_path: Path) -> None:
    path = write(tmp_path / "fleet.yaml", SHARED, {"name": "other", "grpc": "127.0.0.1:1"})
    with pytest.raises(ConfigError, match="has the servers triton, other; name this controller's by --server"):
        ServerOfController(path).load()
    assert ServerOfController(path, "other").load()[1].name == "other"


def test_two_devices_in_one_place_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "fleet.yaml", {**SHARED, "limits": {"gpu_index": 1, "gpu_uuid": UUID}})
    with pytest.raises(ConfigError, match=f"gpu_index 1 and gpu_uuid {UUID} are both given; give one of them"):
        ServerOfController(path).load()


def test_a_file_that_is_read_again_keeps_what_the_options_say(path: Path) -> None:
    own = ServerOfController(path, name="triton-0", is_sidecar=True, memory_limit_bytes=1 << 30)
    fleet, server = own.load()
    resolved: list[ServerSettings] = []

    def resolve(server: ServerSettings, fleet: FleetSettings) -> Limits:
        resolved.append(server)
        return Limits(0, (), fleet.controller)

    file = SettingsFile(own.load, server, fleet, resolve=resolve)
    write(path, {**SHARED, "limits": {"max_instances": 2, "gpu_index": 1}})
    assert file.reload()[1] == ("servers[triton-0].limits.max_instances 3 → 2",)
    assert (resolved[0].name, resolved[0].limits.memory_limit_mib) == ("triton-0", 1024.0)
