"""Units that systemd itself finds nothing wrong with, and that fit what they run."""

from __future__ import annotations

import configparser
import shutil
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner

from orchestrator.cli import main
from orchestrator.config import ControllerSettings, GatewaySettings
from orchestrator.policies.tables.code_cache import cache_places

FOLDER = Path(__file__).parents[2] / "deploy" / "systemd"
UNITS = sorted(FOLDER.glob("*.service"))
SOCKETS = sorted(FOLDER.glob("*.socket"))


def read_service(name: str) -> configparser.SectionProxy:
    return read_section(next(unit for unit in UNITS if unit.name.startswith(name)), "Service")


def read_section(unit: Path, section: str) -> configparser.SectionProxy:
    parser = configparser.RawConfigParser()
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    parser.read(unit)
    return parser[section]


def test_systemd_finds_nothing_to_say(tmp_path: Path) -> None:
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("no systemd-analyze on PATH; it comes with systemd")
    copies = []
    for unit in (*UNITS, *SOCKETS):
        copies.append(tmp_path / unit.name.replace("@", "@a"))  # an instance of a template
        copies[-1].write_text(unit.read_text().replace("/opt/slimsched/bin/slimsched", "/bin/true"))
    assert len(copies) == 5
    done = subprocess.run([analyze, "verify", *copies], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


@pytest.mark.parametrize("command", ["gateway", "controller"])
def test_the_command_has_the_options_that_its_unit_gives(command: str) -> None:
    arguments = read_service(f"slimsched-{command}")["ExecStart"].split()[1:]
    assert arguments[0] == command
    shown = CliRunner().invoke(main, [command, "--help"]).output
    assert all(argument in shown for argument in arguments if argument.startswith("--"))


def test_systemd_waits_for_longer_than_a_drain_may_take() -> None:
    gateway, controller = (
        int(read_service(f"slimsched-{name}")["TimeoutStopSec"]) for name in ("gateway", "controller")
    )
    assert gateway > GatewaySettings().drain_s
    assert controller > ControllerSettings().action_timeout_s


def test_sockets_are_named_as_the_gateway_expects_and_at_its_default_addresses() -> None:
    found = {}
    for unit in SOCKETS:
        section = read_section(unit, "Socket")
        assert (FOLDER / section["Service"]).exists()
        assert unit.stem == f"slimsched-gateway-{section['FileDescriptorName']}"
        found[section["FileDescriptorName"]] = section["ListenStream"]
    settings = GatewaySettings()
    assert found == {"grpc": settings.grpc, "http": settings.http, "metrics": settings.metrics}


def test_what_is_compiled_is_kept_where_the_gateway_may_write() -> None:
    unit = read_service("slimsched-gateway")
    name, _, value = unit["Environment"].partition("=")
    given = {name: value.replace("%C", "/var/cache")}
    assert Path("/var/cache", unit["CacheDirectory"]) in list(cache_places(Path("package"), given))[-1].parents


def test_systemd_finds_nothing_to_say_against_hardening(tmp_path: Path) -> None:
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("no systemd-analyze on PATH; it comes with systemd")
    unit = next(unit for unit in UNITS if unit.name.startswith("slimsched-gateway"))
    copy = tmp_path / unit.name
    copy.write_text(unit.read_text().replace("/opt/slimsched/bin/slimsched", "/bin/true"))
    shutil.copytree(unit.with_name(f"{unit.name}.d"), tmp_path / f"{unit.name}.d")
    done = subprocess.run([analyze, "verify", copy], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_decisions_can_be_logged_where_the_gateway_may_write() -> None:
    unit = read_service("slimsched-gateway")
    assert unit["ProtectSystem"] == "strict"
    text = (FOLDER / "slimsched-gateway.service").read_text()
    assert f"{{directory: /var/lib/{unit['StateDirectory']}}}" in text


@pytest.mark.parametrize("command", ["gateway", "controller"])
def test_who_is_stopped_while_it_starts_has_not_failed(command: str) -> None:
    assert read_service(f"slimsched-{command}")["SuccessExitStatus"] == "130"
