"""`slimsched controller`, `status` and `demand` as an operator runs them, on a real tritonserver."""

from __future__ import annotations

import fcntl
import hashlib
import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import tritonclient.grpc as grpcclient
from click.testing import CliRunner
from prometheus_client.parser import text_string_to_metric_families

from orchestrator.cli import main
from orchestrator.embedded.server import EmbeddedOptions, EmbeddedServer
from tests.ports import choose_free_ports
from tests.tritons import Tritons

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]
REPOSITORY = ROOT / "model_repository"
WAIT_S = 30.0
WIDTHS = ["fashion_w025", "fashion_w050", "fashion_w075", "fashion_w100"]


class Host:
    """A fleet file of one server, and the commands on it."""

    def __init__(self, directory: Path, tritons: Tritons) -> None:
        self._tritons = tritons
        self.grpc_port, self.http_port, self.metrics_port = choose_free_ports(3)
        (self.port,) = choose_free_ports(1)
        self.path = directory / "fleet.yaml"
        self.log = directory / "controller.log"
        self.write()

    @contextmanager
    def triton(self, *flags: str, repository: Path = REPOSITORY) -> Iterator[EmbeddedServer]:
        """Run its Triton, with nothing loaded."""
        options = EmbeddedOptions(
            models=(),
            grpc_port=self.grpc_port,
            http_port=self.http_port,
            metrics_port=self.metrics_port,
            extra_flags=flags,
        )
        with self._tritons.running(repository, options) as server:
            yield server

    def write(
        self,
        *,
        port: int | None = None,
        limits: dict[str, Any] | None = None,
        repository: Path = REPOSITORY,
        **settings: Any,
    ) -> None:
        server = {
            "name": "here",
            "grpc": f"127.0.0.1:{self.grpc_port}",
            "metrics": f"http://127.0.0.1:{self.metrics_port}/metrics",
            "repository": str(repository),
            "controller": f"127.0.0.1:{port or self.port}",
            "limits": limits or {},
        }
        self.path.write_text(json.dumps({"servers": [server], "controller": {"period_s": 0.2, **settings}}))

    def call(self, command: str, *arguments: object) -> tuple[int, str]:
        flags = ["--config", str(self.path), "--server", "here"]
        result = CliRunner().invoke(main, [command, *flags, *map(str, arguments)], env={"COLUMNS": "100"})
        return result.exit_code, result.output

    def status(self) -> dict[str, Any]:
        code, output = self.call("status", "--json")
        (page,) = json.loads(output)["servers"]
        assert (code == 1) == (page["error"] is not None)  # 3: it can be reached, and is in trouble
        found: dict[str, Any] = page
        return found

    @contextmanager
    def daemon(self) -> Iterator[subprocess.Popen[bytes]]:
        """Run the controller in the background, and end it when a test has not."""
        script = "from orchestrator.cli import main; main()"
        command = [sys.executable, "-c", script, "controller", "--config", str(self.path), "--server", "here"]
        with self.log.open("wb") as log, subprocess.Popen(command, cwd=ROOT, stderr=log) as process:
            try:
                yield process
            finally:
                if process.poll() is None:
                    process.send_signal(signal.SIGTERM)
                    process.wait(WAIT_S)

    def wait_log(self, pattern: str) -> None:
        wait(lambda: re.search(pattern, self.log.read_text()) is not None, lambda: self.log.read_text())


@pytest.fixture
def host(tmp_path: Path, tritons: Tritons) -> Host:
    return Host(tmp_path, tritons)


def wait(is_so: Callable[[], bool], describe: Callable[[], object]) -> None:
    deadline_s = time.monotonic() + WAIT_S
    while not is_so():
        assert time.monotonic() < deadline_s, str(describe())
        time.sleep(0.1)


def loaded(server: EmbeddedServer) -> list[str]:
    with grpcclient.InferenceServerClient(server.grpc_address) as client:
        index = client.get_model_repository_index().models
    return sorted(model.name for model in index if model.state == "READY")


def ready(page: dict[str, Any]) -> list[str]:
    return [model["model"] for model in page.get("models", ()) if model["status"] == "ready"]


def test_a_dry_run_says_what_it_would_do_and_once_does_it(host: Host) -> None:
    with host.triton() as server:
        code, output = host.call("controller", "--dry-run")
        assert code == 0, output
        text = " ".join(output.split())
        assert text.startswith("here, seen for 0.2 s; nothing is changed would w025: load, minimum-set: budget ")
        assert re.search(r"would w100: load, wanted: budget [\d.]+ GiB, used [\d.]+ MiB, .*needed \d+ MiB", text)
        assert loaded(server) == []

        code, output = host.call("controller", "--once")
        assert code == 0, output
        assert re.search(r"did +w025: load, minimum-set: .*; took [\d.]+ m?s", " ".join(output.split()))
        assert loaded(server) == WIDTHS

        code, output = host.call("controller", "--dry-run")
        assert (code, output.split()[-3:]) == (0, ["would", "change", "nothing"])


def test_a_width_that_would_not_fit_is_refused_with_the_numbers(host: Host) -> None:
    host.write(limits={"memory_budget_mib": 170}, minimum_widths=[25])
    with host.triton() as server:
        code, output = host.call("controller", "--once")
        assert code == 0, output
        text = " ".join(output.split())
        assert re.search(
            r"refused w075: load refused, memory-budget: budget 170 MiB, used \d+ MiB, .*needed \d+ MiB", text
        )
        assert loaded(server) == ["fashion_w025", "fashion_w050"]
        # What the wider one would give back is known, and would not do.
        host.write(limits={"memory_budget_mib": 2}, minimum_widths=[25])
        code, output = host.call("controller", "--once")
        assert code == 1
        assert "servers[here].limits.memory_budget_mib: a budget of 2 MiB can't hold the minimum set" in output
        assert "can be given back, and all is loaded; raise it to at least" in output


def test_a_daemon_is_let_in_again_beside_its_minimum_set_whatever_the_budget(host: Host) -> None:
    host.write(minimum_widths=[25], wanted_widths=[25])
    with host.triton():
        assert host.call("controller", "--once")[0] == 0
        host.write(limits={"memory_budget_mib": 2}, minimum_widths=[25], wanted_widths=[25])
        with host.daemon():
            host.wait_log("WARNING .*a budget of 2 MiB can't hold the minimum set.*may have been killed here")
            wait(lambda: [n["kind"] for n in host.status().get("notices", ())] == ["over-budget"], host.status)
            assert ready(host.status()) == ["fashion_w025"]


def test_the_daemon_shows_what_it_does_and_takes_demands(host: Host) -> None:
    host.write(minimum_widths=[25], wanted_widths=[25])
    with host.triton() as server, host.daemon() as process:
        wait(lambda: ready(host.status()) == ["fashion_w025"], host.status)
        page = host.status()
        assert [(a["action"]["model"], a["action"]["reason"], a["error"]) for a in page["actions"]] == [
            ("fashion_w025", "minimum-set", None)
        ]
        assert page["memory"]["used_bytes"]["value"] > 0
        assert page["memory"]["learned"]["fashion_w025"]["load_bytes"] > 0

        code, output = host.call("demand", "--width", 50, "--hold", 30)
        assert (code, output) == (0, "here keeps fashion_w050 for 30 s, if its budget has room\n")
        wait(lambda: ready(host.status()) == ["fashion_w025", "fashion_w050"], host.status)
        (half,) = (model for model in host.status()["models"] if model["width"] == 50)
        assert 0 < half["demanded_for_s"] <= 30
        assert loaded(server) == ["fashion_w025", "fashion_w050"]

        code, output = host.call("status")
        assert code == 0
        assert re.search(r"w025 +ready +1 +no wait", output)
        assert re.search(r"w075 +absent +0 ", output)
        assert re.search(r"s ago +w050: load, demanded: .*; took", " ".join(output.split()))

        url = f"http://127.0.0.1:{host.port}"
        with urllib.request.urlopen(f"{url}/healthz") as answer:
            assert json.load(answer) == {"server": "here"}
        with urllib.request.urlopen(f"{url}/metrics") as answer:
            samples = {
                (s.name, s.labels.get("model"), s.labels.get("reason")): s.value
                for family in text_string_to_metric_families(answer.read().decode())
                for s in family.samples
            }
        assert samples[("slim_controller_triton_up", None, None)] == 1
        assert samples[("slim_controller_instances", "fashion_w050", None)] == 1
        assert samples[("slim_controller_actions_total", None, "demanded")] == 1
        assert samples[("slim_controller_actions_total", None, "minimum-set")] == 1

        for mode in ([], ["--once"]):
            code, output = host.call("controller", *mode)
            assert code == 1
            assert "is in use; does another controller run for this server?" in output

        process.send_signal(signal.SIGTERM)
        assert process.wait(WAIT_S) == 0
        assert host.status()["error"].startswith(f"no controller answers at 127.0.0.1:{host.port}")
        assert loaded(server) == ["fashion_w025", "fashion_w050"], "a controller that ends takes nothing down"


def test_sighup_takes_new_settings_and_refuses_bad_ones(host: Host) -> None:
    host.write(minimum_widths=[25], wanted_widths=[25])
    with host.triton() as server, host.daemon() as process:
        wait(lambda: ready(host.status()) == ["fashion_w025"], host.status)

        host.path.write_text("servers: {")
        process.send_signal(signal.SIGHUP)
        host.wait_log("ERROR the fleet file is refused and the old settings stay: .* is no YAML")
        host.write(minimum_widths=[25], wanted_widths=[33])
        process.send_signal(signal.SIGHUP)
        host.wait_log(r"stay: controller\.wanted_widths: the repository has no width 33")
        host.write(port=host.port + 1, minimum_widths=[25])
        process.send_signal(signal.SIGHUP)
        host.wait_log(rf"stay: servers\[here\]\.controller changed from .*:{host.port} to .*needs a restart")
        host.write(limits={"memory_budget_mib": 3}, minimum_widths=[25])
        process.send_signal(signal.SIGHUP)
        host.wait_log(r"stay: servers\[here\]\.limits\.memory_budget_mib: a budget of 3 MiB can't hold")
        assert loaded(server) == ["fashion_w025"]

        host.write(limits={"memory_budget_mib": 2000}, minimum_widths=[25], wanted_widths=[25, 75])
        process.send_signal(signal.SIGHUP)
        host.wait_log(
            r"INFO the fleet file was read again: servers\[here\]\.limits\.memory_budget_mib None → 2000\.0; "
            r"controller\.wanted_widths \[25\] → \[25, 75\]"
        )
        wait(lambda: ready(host.status()) == ["fashion_w025", "fashion_w075"], host.status)
        assert host.status()["memory"]["budget_bytes"] == 2000 << 20
        process.send_signal(signal.SIGINT)
        assert process.wait(WAIT_S) == 0
        assert "Traceback" not in host.log.read_text()


def test_what_a_repository_gets_under_a_running_daemon_is_loaded_as_what_was_there(host: Host, tmp_path: Path) -> None:
    repository = tmp_path / "models"
    shutil.copytree(REPOSITORY / WIDTHS[0], repository / WIDTHS[0])
    shutil.copytree(REPOSITORY / WIDTHS[-1], tmp_path / WIDTHS[-1])
    host.write(repository=repository)
    with host.triton(repository=repository) as server, host.daemon():
        wait(lambda: loaded(server) == WIDTHS[:1], lambda: loaded(server))
        (tmp_path / WIDTHS[-1]).rename(repository / WIDTHS[-1])
        wait(lambda: loaded(server) == [WIDTHS[0], WIDTHS[-1]], lambda: host.log.read_text())
        host.wait_log("the repository holds other widths; wanted are fashion_w025, fashion_w100")


def test_a_daemon_waits_for_its_triton(host: Host, tritons: Tritons) -> None:
    host.write(minimum_widths=[25], wanted_widths=[25])
    with host.daemon() as process:
        host.wait_log(rf"WARNING waiting for Triton at 127\.0\.0\.1:{host.grpc_port}: ")
        wait(lambda: host.status()["error"] is None, lambda: host.log.read_text())
        assert host.status()["trouble"] is not None
        code, output = host.call("status")
        assert code == 3, "the controller answers; what it says is trouble"
        assert "trouble" in output
        with host.triton():
            wait(lambda: ready(host.status()) == ["fashion_w025"], host.status)
            assert host.status()["trouble"] is None
        wait(lambda: host.status()["trouble"] is not None, host.status)
        tritons.wait_ended()
        with host.triton():
            wait(lambda: ready(host.status()) == ["fashion_w025"], host.status)
        process.send_signal(signal.SIGTERM)
        assert process.wait(WAIT_S) == 0


def test_a_daemon_that_waited_refuses_a_budget_until_it_is_raised(host: Host) -> None:
    host.write(limits={"memory_budget_mib": 3}, minimum_widths=[25], wanted_widths=[25])
    with host.daemon() as process:
        host.wait_log("waiting for Triton")
        with host.triton() as server:
            wait(lambda: "can't hold the minimum set" in str(host.status().get("trouble")), host.status)
            assert loaded(server) == []
            host.write(limits={"memory_budget_mib": 500}, minimum_widths=[25], wanted_widths=[25])
            process.send_signal(signal.SIGHUP)
            wait(lambda: ready(host.status()) == ["fashion_w025"], host.status)


def test_sigterm_ends_a_daemon_that_still_waits(host: Host) -> None:
    with host.daemon() as process:
        host.wait_log("waiting for Triton")
        process.send_signal(signal.SIGTERM)
        assert process.wait(WAIT_S) == 0


def test_a_triton_that_can_t_be_controlled_is_one_line(host: Host) -> None:
    with host.triton("--model-control-mode=none", "--exit-on-error=false"):
        for mode in ([], ["--once"], ["--dry-run"]):
            code, output = host.call("controller", *mode)
            line = output.strip().splitlines()[-1]
            assert code == 1
            assert line.startswith("Error: ")
            assert "start it with --model-control-mode=explicit" in line


def test_a_restricted_triton_needs_its_key(host: Host, tmp_path: Path) -> None:
    flag = "--grpc-restricted-protocol=model-repository,model-config,statistics:slim=secret"
    key = tmp_path / "key"
    with host.triton(flag):
        code, output = host.call("controller", "--once")
        assert code == 1
        assert "restricts its control protocols to the key 'slim', and no key was given" in output
        key.write_text("slim=secret\n")
        values = json.loads(host.path.read_text())
        values["servers"][0]["protocol_key_file"] = str(key)
        host.path.write_text(json.dumps(values))
        code, output = host.call("controller", "--once")
        assert code == 0, output
        assert "did" in output


@contextmanager
def unopenable(path: Path) -> Iterator[None]:
    """Let whoever opens the file wait until the end, as for one on a dead disk.

    A lease of the kernel does that (fcntl(2), F_SETLEASE; 45 s by default). A stopped stub would hang as well, but
    stopped in an unlucky moment it takes its tritonserver with it.
    """
    before = signal.signal(signal.SIGIO, signal.SIG_IGN)  # tells the holder that somebody waits, and ends it else
    try:
        with path.open("rb") as file:
            fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_WRLCK)
            yield
    finally:
        signal.signal(signal.SIGIO, before)


def test_a_load_that_hangs_is_reported_as_stuck_until_it_ends(host: Host, tmp_path: Path) -> None:
    repository = tmp_path / "repository"
    repository.mkdir()
    os.symlink(REPOSITORY / "fashion_w025", repository / "fashion_w025")
    network = shutil.copytree(REPOSITORY / "fashion_w100", repository / "fashion_w100") / "1" / "model.onnx"
    host.write(repository=repository, minimum_widths=[25], wanted_widths=[25], action_timeout_s=0.5, stuck_after_s=2)
    with host.triton(repository=repository), host.daemon():
        wait(lambda: ready(host.status()) == ["fashion_w025"], host.status)
        with unopenable(network):
            assert host.call("demand", "--width", 100, "--hold", 60)[0] == 0
            wait(lambda: bool(host.status()["notices"]), host.status)
            page = host.status()
            (notice,) = page["notices"]
            assert (notice["kind"], notice["model"]) == ("stuck", "fashion_w100")
            assert notice["numbers"]["for_s"] >= 2
            assert ready(page) == ["fashion_w025"]
            assert [a["is_under_way"] for a in page["actions"] if a["action"]["model"] == "fashion_w100"] == [True]
            text = " ".join(host.call("status")[1].split())
            assert re.search(r"notice w100: stuck: for \d", text), text
        wait(lambda: ready(host.status()) == ["fashion_w025", "fashion_w100"], host.status)
        wait(lambda: host.status()["notices"] == [], host.status)


def test_what_fails_is_reported_left_alone_for_longer_each_time_and_tried_at_once_when_it_changes(
    host: Host, tmp_path: Path
) -> None:
    repository = tmp_path / "repository"
    repository.mkdir()
    for name in WIDTHS[:2]:
        os.symlink(REPOSITORY / name, repository / name)
    folder = shutil.copytree(REPOSITORY / "fashion_w100", repository / "fashion_w100")
    network, config = folder / "1" / "model.onnx", folder / "config.pbtxt"
    right, bad = hashlib.sha256(network.read_bytes()).hexdigest(), hashlib.sha256(b"no network").hexdigest()
    config.write_text(config.read_text().replace(right, bad))
    network.write_bytes(b"no network")
    host.write(repository=repository, quarantine_s=0.5)
    with host.triton(repository=repository):
        code, output = host.call("controller", "--once")
        assert code == 1
        assert re.search(r"did w100: load, wanted: .*; FAILED after [\d.]+ m?s: ", " ".join(output.split())), output

        with host.daemon():
            failed = r"load fashion_w100 .* failed: .*model\.onnx"
            wait(lambda: len(re.findall(failed, host.log.read_text())) >= 4, lambda: host.log.read_text())
            (entry,) = next(m for m in host.status()["models"] if m["width"] == 100)["quarantine"]
            assert entry["failures"] >= 4
            assert "model.onnx" in entry["reason"]
            assert ready(host.status()) == WIDTHS[:2]
            at_s = [_clock_s(line) for line in re.findall(rf"(?m)^(\S+ \S+) WARNING .*{failed}", host.log.read_text())]
            pauses_s = [later - earlier for earlier, later in itertools.pairwise(at_s[:4])]
            assert all(pause_s >= least_s for pause_s, least_s in zip(pauses_s, (0.5, 1.0, 2.0), strict=True)), pauses_s

            shutil.copy(REPOSITORY / "fashion_w100" / "config.pbtxt", config)
            wait(lambda: any(n["kind"] == "weights-differ" for n in host.status()["notices"]), host.status)
            text = " ".join(host.call("status")[1].split())
            assert re.search(r"notice w100: weights-differ: .*model\.onnx has sha256 \w+…, its config", text), text
            with urllib.request.urlopen(f"http://127.0.0.1:{host.port}/metrics") as answer:
                assert 'kind="weights-differ",model="fashion_w100"' in answer.read().decode()
            shutil.copy(REPOSITORY / "fashion_w100" / "1" / "model.onnx", network)
            wait(lambda: ready(host.status()) == [*WIDTHS[:2], "fashion_w100"], host.status)


def _clock_s(text: str) -> float:
    return datetime.strptime(text, "%Y-%m-%d %H:%M:%S,%f").timestamp()
