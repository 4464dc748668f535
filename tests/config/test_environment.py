from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from orchestrator.config import FleetSettings, load_fleet
from orchestrator.config.environment import override, without_overrides
from orchestrator.config.fleet import read_fleet
from orchestrator.errors import ConfigError, SettingsError

FILE = "servers: [{name: gpu-0, grpc: 'h:1'}, {name: b, grpc: 'h:2'}]\ngateway: {grpc: '127.0.0.1:9001'}\n"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "fleet.yaml"
    path.write_text(FILE)
    return path


def test_addresses_urls_and_paths_come_from_the_environment_in_place_of_the_file(path: Path) -> None:
    fleet, origins = read_fleet(
        path,
        {
            "SLIM_GATEWAY__GRPC": "0.0.0.0:7",
            "SLIM_GATEWAY__AUTH__TOKENS_FILE": "/run/tokens.yaml",
            "SLIM_GATEWAY__TRACING__ENDPOINT": "https://collector:4318/v1/traces",
            "SLIM_SERVERS__GPU_0__GRPC": "10.0.0.1:8001",
            "SLIM_SERVERS__B__METRICS": "http://10.0.0.2:8002/metrics",
            "HOME": "/root",
        },
    )
    assert fleet.gateway.grpc == "0.0.0.0:7"
    assert fleet.gateway.auth is not None
    assert fleet.gateway.auth.tokens_file == Path("/run/tokens.yaml")
    assert fleet.gateway.tracing is not None
    assert fleet.gateway.tracing.endpoint == "https://collector:4318/v1/traces"
    assert [server.grpc for server in fleet.servers] == ["10.0.0.1:8001", "h:2"]
    assert fleet.servers[1].metrics == "http://10.0.0.2:8002/metrics"
    assert origins["servers", 0, "grpc"] == "SLIM_SERVERS__GPU_0__GRPC"
    assert origins["servers", 0, "name"] == "line 1"


def test_every_load_of_the_fleet_looks_at_the_environment(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLIM_SERVERS__B__GRPC", "10.0.0.2:8001")
    assert load_fleet(path).servers[1].grpc == "10.0.0.2:8001"


@pytest.mark.parametrize("name", ["SLIM_SCHEDULER_SERVICE_HOST", "SLIM_SLOWDOWN", "slim_gateway__grpc", "SLIM__X"])
def test_variables_of_another_form_are_nobody_s(path: Path, name: str) -> None:
    assert read_fleet(path, {name: "10.0.0.1"})[0] == read_fleet(path, {})[0]


def test_a_process_whose_file_has_them_already_is_given_none_of_them() -> None:
    environment = {"SLIM_GATEWAY__GRPC": "h:1", "SLIM_SLOWDOWN": "2", "HOME": "/root"}
    assert without_overrides(environment) == {"SLIM_SLOWDOWN": "2", "HOME": "/root"}


def test_a_variable_of_a_server_that_left_the_file_is_passed_over(path: Path) -> None:
    assert read_fleet(path, {"SLIM_SERVERS__C__GRPC": "h:3"})[0] == read_fleet(path, {})[0]


def test_an_empty_variable_counts_as_none(path: Path) -> None:
    assert read_fleet(path, {"SLIM_GATEWAY__GRPC": ""})[0].gateway.grpc == "127.0.0.1:9001"


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("SLIM_GATEWAY__GRCP", "SLIM_GATEWAY__GRCP names no address.*; known: SLIM_GATEWAY__GRPC, SLIM_GATEWAY__HTTP"),
        ("SLIM_SERVERS__B__GRCP", "names no address, .*; known: SLIM_SERVERS__GPU_0__GRPC, "),
        ("SLIM_SERVERS__GRPC", "names no address"),
        ("SLIM_ROUTER__DEADLINE_MS", "names no address, .*; known: SLIM_ROUTER__POLICY_FILE, "),
        ("SLIM_GATEWEY__GRPC", "names no address, .*; known: SLIM_GATEWAY__…, SLIM_ROUTER__…, SLIM_SERVERS__…"),
    ],
)
def test_a_variable_that_names_nothing_is_refused_with_those_that_do(path: Path, name: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        read_fleet(path, {name: "x"})


def test_a_wrong_value_is_told_with_its_variable(path: Path) -> None:
    with pytest.raises(SettingsError, match=r"SLIM_GATEWAY__HTTP: gateway\.http: must be host:port, .*, got 'x'"):
        read_fleet(path, {"SLIM_GATEWAY__HTTP": "x"})


def test_wrong_variables_and_all_that_is_wrong_in_the_file_are_told_together(path: Path) -> None:
    path.write_text(FILE + "router: {seed: x}\nrouter: {deadline_ms: 0}\n")
    wrong = {"SLIM_GATEWAY__GRCP": "h:1", "SLIM_GATEWAY__HTTP": "x", "SLIM_SERVERS__B__GRCP": "h:1"}
    with pytest.raises(SettingsError) as caught:
        read_fleet(path, wrong)
    first, second, *others = caught.value.problems
    assert first.startswith("the environment's SLIM_GATEWAY__GRCP names no address")
    assert second.startswith("the environment's SLIM_SERVERS__B__GRCP names no address")
    assert [problem.partition(",")[0] for problem in others] == [
        "line 4: router is given twice",
        "line 4: router.deadline_ms: must be above 0",
        "SLIM_GATEWAY__HTTP: gateway.http: must be host:port",
    ]


def test_servers_whose_variables_would_be_the_same_are_named() -> None:
    values: dict[str, Any] = {"servers": [{"name": "a-b"}, {"name": "a.b"}]}
    *_, (refusal,) = override(FleetSettings, values, {"SLIM_SERVERS__A_B__GRPC": "h:1"})
    assert "stands for servers[0].grpc and servers[1].grpc" in refusal


def test_what_two_keys_share_in_the_file_is_changed_for_one_alone() -> None:
    shared = {"tokens_file": "a"}
    values: dict[str, Any] = {"gateway": {"auth": shared}, "servers": [{"name": "a", "x": shared}]}
    changed, *_ = override(FleetSettings, values, {"SLIM_GATEWAY__AUTH__TOKENS_FILE": "b"})
    assert changed["gateway"]["auth"] == {"tokens_file": "b"}
    assert shared == {"tokens_file": "a"}
