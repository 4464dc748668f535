"""`slimsched controller`, `status` and `demand`: what they refuse, without any Triton."""

from __future__ import annotations

import asyncio
import json
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from orchestrator.cli import main
from orchestrator.cli.client.status import _ask_gateway
from orchestrator.config import FleetSettings, GatewaySettings, ServerSettings
from orchestrator.controller.daemon import hold_lease
from orchestrator.controller.status.endpoint import ControllerEndpoint, Heartbeat
from orchestrator.controller.status.holder import HolderKeeper
from orchestrator.controller.status.metrics import ControllerMetrics
from orchestrator.errors import ConfigError
from orchestrator.snapshot import ServerName
from tests.controller.status.reports import NOW_S, full_report, repository_model
from tests.gateway.fakes import open_world
from tests.gateway.page.fleets import Gateway, Minutes, admin_of
from tests.ports import choose_free_port

ROOT = Path(__file__).parents[2]
REPOSITORY = ROOT / "model_repository"


def call(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments], env={"COLUMNS": "100"})


def fail(*arguments: object) -> str:
    result = call(*arguments)
    assert result.exit_code == 1, result.output
    assert result.output.startswith("Error: ")
    assert result.output.count("\n") == 1, result.output
    return result.output.removeprefix("Error: ").rstrip()


def write_fleet(path: Path, settings: dict[str, Any] | None = None, **server: Any) -> Path:
    """Write a fleet of one server 'a' that is complete, but for what is given; None leaves a key out."""
    complete = {
        "name": "a",
        "grpc": "127.0.0.1:9",
        "metrics": "http://127.0.0.1:9/metrics",
        "repository": str(REPOSITORY),
        "controller": f"127.0.0.1:{choose_free_port()}",
    }
    values = {key: value for key, value in {**complete, **server}.items() if value is not None}
    file = path / "fleet.yaml"
    file.write_text(json.dumps({"servers": [values], "controller": settings or {}}))  # JSON is YAML
    return file


@pytest.mark.parametrize("is_by_environment", [False, True])
def test_beside_its_triton_it_goes_by_what_it_is_told_of_its_pod(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_by_environment: bool
) -> None:
    path = write_fleet(tmp_path, grpc="tritons.invalid:9", metrics="http://tritons.invalid:9/metrics")
    options = ["--sidecar", "--name", "pod-0"]
    if is_by_environment:
        options = []
        monkeypatch.setenv("SLIMSCHED_SIDECAR", "1")
        monkeypatch.setenv("SLIMSCHED_SERVER_NAME", "pod-0")
    problem = fail("controller", "--config", path, "--dry-run", *options)
    assert "servers[pod-0].grpc: " in problem
    assert "start the Triton at 127.0.0.1:9 " in problem


@pytest.mark.parametrize("flag", ["--config", "--fleet"])
def test_an_unknown_server_is_named_with_those_there_are(tmp_path: Path, flag: str) -> None:
    fleet = write_fleet(tmp_path)
    for command in (["controller"], ["status"], ["demand", "--width", "50"]):
        assert fail(*command, flag, fleet, "--server", "b") == "no server 'b' in the fleet; it has a"


@pytest.mark.parametrize("mode", [[], ["--once"], ["--dry-run"]], ids=["daemon", "once", "dry-run"])
@pytest.mark.parametrize(
    ("settings", "server", "problem"),
    [
        ({}, {"repository": None}, "servers[a].repository is not set; give the folder that its Triton serves"),
        ({}, {"metrics": None}, "servers[a].metrics is not set; give the URL of its Triton's metrics"),
        (
            {},
            {"repository": "/nowhere"},
            "can't read repository /nowhere (No such file or directory); set the server's",
        ),
        ({"family": "cats"}, {}, "holds no width of family 'cats'; it has fashion; run 'slimsched export'"),
        ({"minimum_widths": [33]}, {}, "controller.minimum_widths: the repository has no width 33; it has 25, 50, 75"),
        ({"wanted_widths": [1]}, {}, "controller.wanted_widths: the repository has no width 1; it has 25, 50, 75, 100"),
        ({"shrink_busy_ratio": 0.8}, {}, "shrink_busy_ratio 0.8 must be below grow_busy_ratio 0.7"),
        ({"period": 1}, {}, "unknown key controller.period; allowed here: minimum_widths, wanted_widths, family"),
        ({}, {"limits": {"memory_budget_mib": -1}}, "servers[0].limits.memory_budget_mib: must be above 0"),
        ({}, {"protocol_key_file": "/nowhere"}, "no protocol key file at /nowhere; write one line KEY=VALUE into it"),
    ],
)
def test_settings_that_can_t_be_kept_to_are_one_line(
    tmp_path: Path, mode: list[str], settings: dict[str, Any], server: dict[str, Any], problem: str
) -> None:
    line = fail("controller", "--config", write_fleet(tmp_path, settings, **server), "--server", "a", *mode)
    assert problem in line


def test_a_repository_without_a_family_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "repository" / "other").mkdir(parents=True)
    fleet = write_fleet(tmp_path, repository=str(tmp_path / "repository"))
    line = fail("controller", "--config", fleet, "--server", "a")
    assert "holds no width of any family; run 'slimsched export'" in line


def test_widths_that_one_of_two_families_lacks_are_refused(tmp_path: Path) -> None:
    repository = tmp_path / "repository"
    for family in ("fashion", "cats"):
        folder = shutil.copytree(REPOSITORY / "fashion_w025", repository / f"{family}_w025")
        config = folder / "config.pbtxt"
        text = config.read_text().replace('"fashion"', f'"{family}"').replace("fashion_w025", f"{family}_w025")
        config.write_text(text)
    fleet = write_fleet(tmp_path, {"minimum_widths": [50]}, repository=str(repository))
    assert fail("controller", "--config", fleet, "--server", "a") == (
        "controller.minimum_widths: family cats has no width 50; it has 25; name its own in controller.families.cats"
    )


@pytest.mark.parametrize("mode", ["--once", "--dry-run"])
def test_a_single_run_needs_its_triton(tmp_path: Path, mode: str) -> None:
    line = fail("controller", "--config", write_fleet(tmp_path), "--server", "a", mode)
    assert line.startswith("servers[a].grpc: Triton at 127.0.0.1:9: ")
    assert line.endswith("; start the Triton at 127.0.0.1:9 ('slimsched local up' starts local ones), or correct the "
                         "address")  # fmt: skip


_WAITS_TO_READ = """
import sys
from orchestrator.config import fleet
read_file = fleet.read_file

def wait(path, **more):
    fleet.read_file = read_file
    print("reading", flush=True)
    sys.stdin.readline()
    return read_file(path, **more)

fleet.read_file = wait
from orchestrator.cli import main
main()
"""


def test_a_sighup_during_the_start_is_kept_until_the_daemon_is_ready(tmp_path: Path) -> None:
    path, log = write_fleet(tmp_path), tmp_path / "log"
    command = [sys.executable, "-c", _WAITS_TO_READ, "controller", "--config", str(path), "--server", "a"]
    with (
        log.open("wb") as errors,
        subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors) as daemon,
    ):
        assert daemon.stdin is not None and daemon.stdout is not None
        try:
            assert daemon.stdout.readline() == b"reading\n"
            daemon.send_signal(signal.SIGHUP)
            daemon.send_signal(signal.SIGHUP)
            daemon.stdin.write(b"\n")
            daemon.stdin.flush()
            deadline_s = time.monotonic() + 20
            while "the fleet file was read again: nothing changed" not in log.read_text():
                assert daemon.poll() is None and time.monotonic() < deadline_s, log.read_text()
                time.sleep(0.05)
        finally:
            daemon.send_signal(signal.SIGTERM)
            daemon.wait(20)
    assert daemon.returncode == 0, log.read_text()


@pytest.mark.parametrize("mode", [[], ["--once"]], ids=["daemon", "once"])
def test_an_address_in_use_means_another_controller(tmp_path: Path, mode: list[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = f"127.0.0.1:{other.getsockname()[1]}"
        fleet = write_fleet(tmp_path, {}, controller=address)
        line = fail("controller", "--config", fleet, "--server", "a", *mode)
    assert line.startswith(f"the controller address {address} of server 'a' is in use; does another controller run")


@pytest.mark.parametrize("mode", [[], ["--once"]], ids=["daemon", "once"])
@pytest.mark.parametrize("name", ["127.0.0.1", "localhost"])
def test_a_second_controller_of_one_triton_is_refused_whatever_its_own_address(
    tmp_path: Path, mode: list[str], name: str
) -> None:
    port = choose_free_port()
    first = ServerSettings(name="b", grpc=f"127.0.0.1:{port}")
    fleet = write_fleet(tmp_path, {}, grpc=f"{name}:{port}")
    with hold_lease(first):
        line = fail("controller", "--config", fleet, "--server", "a", *mode)
        with hold_lease(ServerSettings(name="c", grpc=f"127.0.0.1:{choose_free_port()}")):
            pass  # another Triton is another lease
    assert line == (
        f"another controller of this host acts on the Triton of server 'a' at {name}:{port}; end it, or give the "
        "server the address of its own Triton in 'grpc'"
    )
    with hold_lease(first):
        pass  # it went with its holder


def test_a_name_that_is_long_and_not_known_yet_is_a_lease_too() -> None:
    first, second = (ServerSettings(name="a", grpc=f"{'a.' * 60}invalid:{port}") for port in (1, 2))
    with hold_lease(first), hold_lease(second), pytest.raises(ConfigError, match="another controller"):
        hold_lease(first).__enter__()


def test_dry_run_and_once_exclude_each_other(tmp_path: Path) -> None:
    result = call("controller", "--config", write_fleet(tmp_path), "--server", "a", "--once", "--dry-run")
    assert result.exit_code == 2
    assert "--dry-run changes nothing and --once does; give one of them" in result.output


@pytest.fixture
def answering(tmp_path: Path) -> Iterator[Path]:
    """A fleet of three: one answers, one does not, one has no address."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    address = f"127.0.0.1:{choose_free_port()}"
    server = ServerName("gpu-0")
    endpoint = ControllerEndpoint(
        address,
        server=server,
        registry=ControllerMetrics(server).registry,
        report=full_report,
        heartbeat=Heartbeat(60.0, loop.time),
        models=lambda: [repository_model(50)],
        demand=lambda model, hold_s: None,
        keeper=HolderKeeper(loop.time, first_term=1, headers={}),
        loop=loop,
        clock=lambda: NOW_S + 3600.0,
    )
    fleet = tmp_path / "fleet.yaml"
    servers = [
        {"name": "gpu-0", "grpc": "127.0.0.1:1", "device_class": "h100", "controller": address},
        {"name": "gpu-1", "grpc": "127.0.0.1:2", "device_class": "l4", "controller": f"127.0.0.1:{choose_free_port()}"},
        {"name": "gpu-2", "grpc": "127.0.0.1:3"},
    ]
    fleet.write_text(json.dumps({"servers": servers}))
    with endpoint:
        yield fleet
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


def test_status_shows_who_answers_and_why_others_do_not(answering: Path) -> None:
    result = call("status", "--config", answering)
    assert result.exit_code == 1
    text = " ".join(result.output.split())
    assert "gpu-0 (h100) · fashion · step 312" in text
    assert "refused w100: load refused, memory-budget: budget 300 MiB, used 250 MiB, needed 80 MiB" in text
    assert "gpu-1 (l4) controller no controller answers at 127.0.0.1:" in text
    assert "gpu-2 controller the fleet file names none Triton it does not answer" in text
    assert max(map(len, result.output.splitlines())) <= 100
    alone = call("status", "--fleet", answering, "--server", "gpu-0")
    assert alone.exit_code == 3  # it answers, and says that it was quiet for an hour, with a failed model
    assert "gpu-1" not in alone.output
    assert "step 312, 60 min ago" in alone.output, "by its own clock, which is years from this one"


def test_status_as_json_has_an_entry_a_server(answering: Path) -> None:
    result = call("status", "--config", answering, "--json")
    assert result.exit_code == 1
    here, away, without = json.loads(result.output)["servers"]
    assert (here["server"], here["error"], here["steps"], len(here["models"])) == ("gpu-0", None, 312, 4)
    assert (away["server"], set(away)) == ("gpu-1", {"server", "error", "device_class", "misfits"})
    assert (here["device_class"], away["device_class"]) == ("h100", "l4")
    assert away["misfits"] is None, "nobody is there to be asked"
    assert "no controller answers" in away["error"]
    assert without == {"server": "gpu-2", "error": None, "device_class": None, "misfits": None}
    assert call("status", "--config", answering, "--json", "--server", "gpu-0").exit_code == 3


async def test_a_fleet_without_controllers_is_in_order_as_its_tritons_and_its_gateway_are(tmp_path: Path) -> None:
    gateway, address = Gateway(), f"127.0.0.1:{choose_free_port()}"
    async with open_world() as world:  # whose own gateway answers as a Triton does
        fleet = tmp_path / "fleet.yaml"
        servers = [{"name": "a", "grpc": world.grpc}]
        fleet.write_text(json.dumps({"servers": servers, "gateway": {"metrics": address}}))

        async def status(*more: str) -> tuple[int, str]:
            result = await asyncio.to_thread(call, "status", "--fleet", fleet, "--timeout", "30", *more)
            return result.exit_code, " ".join(result.output.split())

        code, shown = await status()
        assert (code, "gateway status page no gateway answers at 127.0.0.1:" in shown) == (1, True)
        code, shown = await status("--server", "a")  # which lacks a width, as a family in one piece does
        assert (code, shown.startswith("a controller the fleet file names none left out fashion")) == (0, True)
        assert "gateway" not in shown
        fleet.write_text(json.dumps({"servers": servers}))
        assert (await status())[0] == 0, "a gateway that nobody named may be away"
        fleet.write_text(json.dumps({"servers": servers, "gateway": {"metrics": address}}))
        admin = admin_of(gateway, Minutes())
        admin.address = address
        await admin.start()
        try:
            code, shown = await status()
            assert (code, shown.endswith("gateway alerts none")) == (0, True)
            gateway.unready = "it is paused"
            code, shown = await status()
            assert (code, "gateway alert Not ready: it is paused" in shown) == (3, True)
            code, shown = await status("--json")
            told = json.loads(shown)
        finally:
            await admin.stop()
    assert (code, told["servers"][0]["error"], told["gateway"]["error"]) == (3, None, None)
    assert [alert["text"] for alert in told["gateway"]["alerts"]] == ["Not ready: it is paused"]


async def test_a_gateway_of_another_fleet_at_the_default_address_does_not_count() -> None:
    gateway = Gateway()
    gateway.unready = "it is paused"
    admin = admin_of(gateway, Minutes())
    await admin.start()
    own, other = (ServerSettings(name="local-0", grpc=f"127.0.0.1:{port}") for port in (1, 2))
    fleet = FleetSettings(servers=(own,), gateway=GatewaySettings(metrics=admin.address))
    try:
        for there, is_named, is_other in ((other, False, True), (own, False, False), (other, True, False)):
            gateway.servers = (there,)
            alerts = await asyncio.to_thread(_ask_gateway, fleet, 60.0, None, is_named=is_named)
            assert isinstance(alerts, str) == ("is another fleet's" in str(alerts)) == is_other
    finally:
        await admin.stop()


def test_json_is_not_watched(answering: Path) -> None:
    assert call("status", "--config", answering, "--json", "--watch", "1").exit_code == 2


def test_watching_shows_anew_until_interrupted(answering: Path) -> None:
    script = "from orchestrator.cli import main; main()"
    command = [sys.executable, "-uc", script, "status", "--config", str(answering), "--watch", "0.1"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        shown, seen = [], 0
        while seen < 2 and len(shown) < 500 and (line := process.stdout.readline()):
            shown.append(line)
            seen += "gpu-0 (h100) · fashion · step 312" in line
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=30)
    assert seen == 2, shown
    assert (process.returncode, errors) == (0, "")


def test_a_demand_says_what_is_kept_or_why_not(answering: Path) -> None:
    result = call("demand", "--config", answering, "--server", "gpu-0", "--width", 50, "--hold", 30)
    assert (result.exit_code, result.output) == (0, "gpu-0 keeps fashion_w050 for 30 s, if its budget has room\n")
    assert "the repository has no width 33" in fail("demand", "--config", answering, "--server", "gpu-0", "--width", 33)
    assert "has no 'controller' address in fleet.yaml" in fail(
        "demand", "--config", answering, "--server", "gpu-2", "--width", 50
    )
    assert call("demand", "--config", answering, "--server", "gpu-0", "--width", 50, "--hold", 3601).exit_code == 2
