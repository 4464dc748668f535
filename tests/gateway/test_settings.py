"""The gateway's section of fleet.yaml, and its command's one-line errors."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from orchestrator.cli import main
from orchestrator.config import GatewaySettings, parse_fleet, render_fleet
from orchestrator.errors import ConfigError

SERVERS = "servers: [{name: a, grpc: '127.0.0.1:9'}]\n"


def test_the_defaults_leave_tritons_ports_alone() -> None:
    settings = parse_fleet(SERVERS).gateway
    assert settings == GatewaySettings()
    assert (settings.grpc, settings.http, settings.metrics) == ("127.0.0.1:8081", "127.0.0.1:8080", "127.0.0.1:8082")


def test_what_is_set_comes_back_from_its_yaml() -> None:
    fleet = parse_fleet(SERVERS + "gateway: {grpc: '0.0.0.0:9001', http: null, max_message_mib: 8, drain_s: 0}")
    assert fleet.gateway.http is None
    assert parse_fleet(render_fleet(fleet)) == fleet


@pytest.mark.parametrize(
    ("section", "problem"),
    [
        ("{grcp: '127.0.0.1:1'}", "unknown key gateway.grcp; allowed here: grpc, http, metrics, max_message_mib"),
        ("{grpc: null, http: null}", "grpc and http are both null"),
        ("{grpc: '127.0.0.1:0'}", "port 0 is outside 1 to 65535"),
        ("{http: 'localhost'}", "gateway.http"),
        ("{grpc: '127.0.0.1:9000', http: '127.0.0.1:9000'}", "127.0.0.1:9000 is used twice"),
        ("{max_message_mib: 0}", "gateway.max_message_mib"),
        ("{max_message_mib: .nan}", "gateway.max_message_mib"),
        ("{drain_s: -1}", "gateway.drain_s"),
        (
            "{pass_on_models: [{name: m, time_s: 1}]}",
            "unknown key gateway.pass_on_models[0].time_s; allowed here: name",
        ),
        ("{pass_on_models: [{name: m}, {name: m}]}", "pass_on_models[1].name: is there twice; must be unique, got 'm'"),
        (
            "{pass_on_models: [{name: m, max_calls: 9}], pass_on_calls: 16}",
            "max_calls 9 is above half of pass_on_calls",
        ),
    ],
)
def test_what_is_wrong_is_refused_with_its_key(section: str, problem: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_fleet(f"{SERVERS}gateway: {section}")
    assert problem in str(caught.value)


def test_the_command_fails_in_one_line(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["gateway", "--fleet", str(tmp_path / "absent.yaml"), "--log-level", "error"])
    assert result.exit_code == 1
    (line,) = [line for line in result.output.splitlines() if line.startswith("Error: ")]
    assert "no fleet file" in line
