"""``slimsched gateway`` with two workers before a real Triton: killed, asked for the truth, drained."""

from __future__ import annotations

import asyncio
import collections
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import pytest
import tritonclient.grpc as grpcclient
from prometheus_client.parser import text_string_to_metric_families
from tritonclient.utils import InferenceServerException

from orchestrator.config import FleetSettings, GatewaySettings, RouterSettings, ServerSettings, render_fleet
from orchestrator.embedded.server import EmbeddedOptions, EmbeddedServer
from tests.ports import choose_free_ports
from tests.tritons import Tritons

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[3]
WAIT_S = 60.0
INFER = "/v2/models/fashion/infer"
BODY = json.dumps(
    {"inputs": [{"name": "pixels", "shape": [1, 1, 28, 28], "datatype": "FP32", "data": [0.0] * 784}]}
).encode()
DRAIN_S = 10.0
OPTIONS = EmbeddedOptions(models=("fashion_w025", "fashion_w100"))


@pytest.fixture(scope="module")
def triton(tritons: Tritons) -> Iterator[EmbeddedServer]:
    with tritons.running(ROOT / "model_repository", OPTIONS) as server:
        yield server


class Team:
    """A gateway, of two workers by default."""

    def __init__(
        self,
        directory: Path,
        triton: EmbeddedServer,
        *,
        workers: int = 2,
        drain_s: float = DRAIN_S,
        lame_duck_s: float = 0.0,
        **router: float | str,
    ) -> None:
        self.grpc, self.http, self.metrics = (f"127.0.0.1:{port}" for port in choose_free_ports(3))
        self.path = directory / "fleet.yaml"
        self.log = directory / "gateway.log"
        self._stop = {"drain_s": drain_s, "lame_duck_s": lame_duck_s}
        self._workers = workers
        # What is asked here is whether requests are lost, not whether a busy machine is quick.
        relaxed = {"deadline_ms": 10_000.0, "discovery_period_s": 0.3, "request_timeout_s": 20.0}
        self._router = RouterSettings.model_validate(relaxed | router)
        self.write(here=triton.grpc_address.replace("127.0.0.1", "localhost"))
        self.process: subprocess.Popen[bytes]

    def write(self, **servers: str) -> None:
        """Write a fleet file with these servers."""
        fleet = FleetSettings(
            servers=tuple(ServerSettings(name=name, grpc=address) for name, address in servers.items()),
            router=self._router,
            gateway=GatewaySettings(
                grpc=self.grpc, http=self.http, metrics=self.metrics, workers=self._workers, **self._stop
            ),
        )
        written = self.path.with_suffix(".new")
        written.write_text(render_fleet(fleet))
        written.replace(self.path)

    def command(self) -> list[str]:
        script = "from orchestrator.cli import main; main()"
        return [sys.executable, "-c", script, "gateway", "--fleet", str(self.path)]

    @contextmanager
    def running(self) -> Iterator[None]:
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(self.command(), cwd=ROOT, stderr=log, start_new_session=True)
        try:
            wait(lambda: "metrics on" in self.log.read_text(), self.log.read_text)
            yield
        finally:
            if self.process.poll() is None:
                self.process.send_signal(signal.SIGTERM)
                self.process.wait(WAIT_S)

    def workers(self) -> list[int]:
        path = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        return [int(pid) for pid in path.read_text().split()]

    def get(self, path: str, *, of: str = "http") -> str:
        address = self.http if of == "http" else self.metrics
        with urllib.request.urlopen(f"http://{address}{path}", timeout=20) as answer:
            text: str = answer.read().decode()
            return text

    def ask(self, path: str, body: bytes | None = None) -> set[int]:
        """Return the statuses of answers over some new connections, which go to all workers."""
        statuses = set()
        for _ in range(8):
            try:
                with urllib.request.urlopen(f"http://{self.http}{path}", body, timeout=20) as answer:
                    statuses.add(answer.status)
            except urllib.error.HTTPError as exc:
                with exc:
                    statuses.add(exc.code)
        return statuses

    def status(self, path: str) -> int:
        """Return the status of an answer at the address of health and metrics."""
        try:
            self.get(path, of="metrics")
        except urllib.error.HTTPError as exc:
            with exc:
                return exc.code
        return 200

    def sample(self, name: str, **labels: str) -> float:
        families = text_string_to_metric_families(self.get("/metrics", of="metrics"))
        samples = (sample for family in families for sample in family.samples)
        return sum(s.value for s in samples if s.name == name and labels.items() <= s.labels.items())


@pytest.fixture
def team(tmp_path: Path, triton: EmbeddedServer) -> Iterator[Team]:
    made = Team(tmp_path, triton)
    with made.running():
        yield made


def wait(is_so: Callable[[], bool], describe: Callable[[], object]) -> None:
    deadline_s = time.monotonic() + WAIT_S
    while not is_so():
        assert time.monotonic() < deadline_s, describe()
        time.sleep(0.02)


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in "ZX"


class HttpLoad:
    """Eight clients with a connection each, which ask again and again; counts ends by client."""

    def __init__(self, team: Team, clients: int = 8) -> None:
        self.ends = [collections.Counter[str]() for _ in range(clients)]
        self.is_over = False
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run(f"http://{team.http}{INFER}")))

    def __enter__(self) -> HttpLoad:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.is_over = True
        self._thread.join()

    @property
    def total(self) -> collections.Counter[str]:
        return sum(self.ends, collections.Counter[str]())

    async def _run(self, url: str) -> None:
        await asyncio.gather(*(self._ask(url, ends) for ends in self.ends))

    async def _ask(self, url: str, ends: collections.Counter[str]) -> None:
        async with aiohttp.ClientSession() as session:
            while not self.is_over:
                try:
                    async with session.post(url, data=BODY) as response:
                        await response.read()
                        ends[str(response.status)] += 1
                except aiohttp.ClientConnectorError:
                    ends["refused"] += 1
                    await asyncio.sleep(0.02)
                except aiohttp.ClientError as exc:
                    ends[type(exc).__name__] += 1


def test_a_killed_worker_takes_its_own_connections_only_and_comes_back(team: Team) -> None:
    first = team.workers()
    assert len(first) == 2
    with HttpLoad(team) as load:
        wait(lambda: min(ends["200"] for ends in load.ends) > 20, lambda: load.ends)
        os.kill(first[0], signal.SIGKILL)
        wait(lambda: "; again in " in team.log.read_text(), team.log.read_text)
        wait(lambda: team.log.read_text().count("takes requests") == 3, team.log.read_text)
        before = load.total["200"]
        wait(lambda: load.total["200"] > before + 100, lambda: load.total)
    broken = [sum(n for end, n in ends.items() if end != "200") for ends in load.ends]
    assert broken.count(0) == 4, "eight connections are four a worker, and the other worker's saw nothing"
    assert sum(broken) <= 4, f"at most one request each was lost: {load.ends}"
    second = team.workers()
    assert len(second) == 2
    assert first[1] in second
    assert team.sample("slim_gateway_worker_restarts_total") == 1
    assert team.sample("slim_gateway_workers") == 2
    # What a killed worker counted in its last second is lost, and nothing else.
    assert team.sample("slim_gateway_requests_total", outcome="ok") >= before - 1000


def test_a_worker_that_is_stopped_is_replaced_and_the_others_get_its_share(team: Team) -> None:
    first = team.workers()
    with HttpLoad(team) as load:
        wait(lambda: min(ends["200"] for ends in load.ends) > 20, lambda: load.ends)
        os.kill(first[0], signal.SIGSTOP)
        wait(lambda: "has done nothing for" in team.log.read_text(), team.log.read_text)
        wait(lambda: team.log.read_text().count("takes requests") == 3, team.log.read_text)
        before = [ends["200"] for ends in load.ends]
        wait(
            lambda: all(ends["200"] > old + 10 for ends, old in zip(load.ends, before, strict=True)), lambda: load.ends
        )
    assert sum(sum(n for end, n in ends.items() if end != "200") for ends in load.ends) <= 4, load.ends
    assert first[0] not in team.workers()
    assert team.sample("slim_gateway_worker_restarts_total") == 1


def test_statistics_index_and_readiness_are_one_truth_over_all_workers(team: Team) -> None:
    """Every call on a connection of its own, so that it reaches both workers in turn."""
    counts: list[int] = []
    with HttpLoad(team, clients=2) as load:
        for turn in range(40):
            stats = json.loads(team.get("/v2/models/fashion/stats"))["model_stats"]
            counts.append(stats[0]["inference_count"])
            if turn == 20:
                os.kill(team.workers()[0], signal.SIGKILL)  # and one that is new knows it too
                time.sleep(0.5)
    assert counts == sorted(counts)
    assert counts[-1] - counts[0] > 20, load.total
    request = urllib.request.Request(f"http://{team.http}/v2/repository/index", method="POST")
    indices = set()
    for _ in range(4):
        with urllib.request.urlopen(request, timeout=20) as answer:
            indices.add(answer.read())
        assert team.get("/v2/health/ready") == ""
    (index,) = indices
    assert json.loads(index)[0] == {"name": "fashion", "version": "1", "state": "READY"}


def test_the_status_page_is_of_all_workers_together(team: Team) -> None:
    with HttpLoad(team, clients=4):
        document = json.loads(team.get("/status", of="metrics"))
        wait(lambda: json.loads(team.get("/status", of="metrics"))["traffic"]["answered_per_s"] > 0, lambda: "")
    assert document["workers"] == 2
    [server] = document["servers"]
    assert server["condition"] == "up"
    assert [width for width, _ in server["instances"]] == [25, 100]
    assert "fashion" in [family["name"] for family in document["families"]]
    assert document["policy"]["name"]


def test_without_its_supervisor_a_worker_ends(team: Team) -> None:
    workers = team.workers()
    team.process.send_signal(signal.SIGKILL)
    team.process.wait(WAIT_S)
    wait(lambda: not any(map(is_alive, workers)), lambda: workers)


def test_a_hangup_reaches_every_worker(team: Team) -> None:
    team.process.send_signal(signal.SIGHUP)
    # The supervisor for its own reading, and each worker for its router.
    wait(lambda: team.log.read_text().count("the fleet's servers") >= 3, team.log.read_text)
    assert team.log.read_text().count(": read again") == 3
    team.get("/v2/health/ready")


@pytest.mark.parametrize("workers", [1, 2])
def test_servers_are_exchanged_by_the_fleet_file_without_losing_a_request(
    tmp_path: Path, triton: EmbeddedServer, tritons: Tritons, workers: int
) -> None:
    # By default a server that is enough for four callers is left everything while it looks quicker.
    team = Team(tmp_path, triton, workers=workers, policy="round-robin")

    def answered(by: str) -> float:
        return team.sample("slim_gateway_requests_total", server=by, outcome="ok")

    with tritons.running(ROOT / "model_repository", OPTIONS) as other, team.running():
        with HttpLoad(team, clients=4) as load:
            wait(lambda: answered("here") > 50, lambda: load.total)
            team.write(here=triton.grpc_address.replace("127.0.0.1", "localhost"), there=other.grpc_address)
            wait(lambda: answered("there") > 50, team.log.read_text)  # nobody said anything: it is looked at
            team.write(there=other.grpc_address)
            team.process.send_signal(signal.SIGHUP)
            wait(lambda: team.log.read_text().count("server here has left") == workers, team.log.read_text)
            before = answered("here"), answered("there")
            wait(lambda: answered("there") > before[1] + 50, team.log.read_text)
            assert answered("here") == before[0]
        assert set(load.total) == {"200"}


def test_a_triton_that_hangs_holds_up_the_end_no_longer_than_drain_s(tmp_path: Path, triton: EmbeddedServer) -> None:
    """Else the supervisor would have killed its workers, and the status be another one."""
    hour_s = 3600.0  # nothing ends the wait for Triton but the end of the gateway, however busy the machine is
    team = Team(
        tmp_path, triton, drain_s=1.0, request_timeout_s=hour_s, group_timeout_s=hour_s, connect_timeout_s=hour_s
    )
    assert triton.pid is not None
    with team.running():
        os.kill(triton.pid, signal.SIGSTOP)
        try:
            with HttpLoad(team, clients=4) as load:
                wait(lambda: team.sample("slim_gateway_in_flight") == 4, team.log.read_text)
                team.process.send_signal(signal.SIGTERM)
                assert team.process.wait(WAIT_S) == 0
                load.is_over = True
        finally:
            os.kill(triton.pid, signal.SIGCONT)
    assert "killed" not in team.log.read_text()
    assert "are not answered after drain_s" in team.log.read_text()


def test_a_second_gateway_is_told_that_the_address_is_taken(team: Team) -> None:
    done = subprocess.run(team.command(), cwd=ROOT, capture_output=True, text=True, timeout=WAIT_S, check=False)
    assert done.returncode == 1
    assert re.search(r"can't listen on gateway\.metrics = \S+ \(Address already in use\)", done.stderr)
    assert "Traceback" not in done.stderr


def test_under_load_it_drains_and_ends_well(team: Team) -> None:
    inputs = grpcclient.InferInput("pixels", [1, 1, 28, 28], "FP32")
    inputs.set_data_from_numpy(np.zeros((1, 1, 28, 28), np.float32))
    grpc_ends: list[str] = []

    def ask_over_grpc() -> None:
        private: Any = [("grpc.use_local_subchannel_pool", 1)]
        with grpcclient.InferenceServerClient(team.grpc, channel_args=private) as client:
            while True:
                try:
                    client.infer("fashion", [inputs])
                    grpc_ends.append("ok")
                except InferenceServerException as exc:
                    grpc_ends.append(str(exc.status()))
                    return

    threads = [threading.Thread(target=ask_over_grpc) for _ in range(4)]
    with HttpLoad(team, clients=4) as load:
        for thread in threads:
            thread.start()
        wait(lambda: min(ends["200"] for ends in load.ends) > 20 and len(grpc_ends) > 100, lambda: load.ends)
        team.process.send_signal(signal.SIGTERM)
        assert team.process.wait(DRAIN_S + 10) == 0, team.log.read_text()
    for thread in threads:
        thread.join()
    assert set(grpc_ends) <= {"ok", "StatusCode.UNAVAILABLE"}, "refused, never broken off"
    assert set(load.total) <= {"200", "503", "refused"}, "refused, never broken off"
    log = team.log.read_text()
    assert "not answered" not in log
    assert "killed" not in log


def test_before_it_leaves_every_worker_says_unready_and_serves_on(tmp_path: Path, triton: EmbeddedServer) -> None:
    team = Team(tmp_path, triton, lame_duck_s=3600.0)  # longer than any test
    ready = "/v2/health/ready"
    with team.running():
        wait(lambda: team.ask(ready) == {200}, team.log.read_text)
        assert team.status("/readyz") == 200
        team.process.send_signal(signal.SIGTERM)
        wait(lambda: team.ask(ready) == {503}, team.log.read_text)
        assert team.status("/readyz") == 503
        assert team.status("/livez") == 200
        assert team.ask(INFER, BODY) == {200}
        os.kill(team.workers()[0], signal.SIGKILL)
        wait(lambda: team.log.read_text().count("takes requests") == 3, team.log.read_text)
        assert team.ask(INFER, BODY) == {200}
        assert team.ask(ready) == {503}, "the one that was started again as well"
        assert team.process.poll() is None
        team.process.send_signal(signal.SIGTERM)
        assert team.process.wait(WAIT_S) == -signal.SIGTERM


@pytest.mark.parametrize("workers", [1, 2])
def test_it_starts_before_any_triton_and_is_ready_once_one_comes(
    tmp_path: Path, triton: EmbeddedServer, tritons: Tritons, workers: int
) -> None:
    team = Team(tmp_path, triton, workers=workers)
    (nobody,) = choose_free_ports(1)
    team.write(here=f"127.0.0.1:{nobody}")
    with team.running():
        assert team.ask("/v2/health/live") == {200}
        assert team.ask("/v2/health/ready") == {503}
        assert team.ask(INFER, BODY) == {503}
        assert (team.status("/livez"), team.status("/readyz")) == (200, 503)
        with tritons.running(ROOT / "model_repository", replace(OPTIONS, grpc_port=nobody)):
            wait(lambda: team.status("/readyz") == 200, team.log.read_text)
            wait(lambda: team.ask("/v2/health/ready") == {200}, team.log.read_text)
            assert team.ask(INFER, BODY) == {200}


def test_it_leaves_after_lame_duck_s_and_nothing_fails(tmp_path: Path, triton: EmbeddedServer) -> None:
    team = Team(tmp_path, triton, lame_duck_s=1.0)
    with team.running(), HttpLoad(team) as load:
        wait(lambda: min(ends["200"] for ends in load.ends) > 20, lambda: load.ends)
        team.process.send_signal(signal.SIGTERM)
        assert team.process.wait(WAIT_S) == 0, team.log.read_text()
    assert set(load.total) <= {"200", "refused"}, load.total
    assert "killed" not in team.log.read_text()


@pytest.mark.parametrize("is_at_once", [False, True], ids=["while it drains", "with the first"])
def test_a_second_signal_ends_it_at_once(team: Team, is_at_once: bool) -> None:
    workers = team.workers()
    (hanging,) = workers[:1]
    os.kill(hanging, signal.SIGSTOP)  # it will not drain
    team.process.send_signal(signal.SIGTERM)
    if is_at_once:  # of two kinds, as two of one are one
        team.process.send_signal(signal.SIGINT)
        assert team.process.wait(WAIT_S) in (-signal.SIGTERM, 130)  # 130: by the interrupt, whichever was second
    else:
        wait(lambda: "stopping" in team.log.read_text(), team.log.read_text)
        team.process.send_signal(signal.SIGTERM)
        assert team.process.wait(WAIT_S) == -signal.SIGTERM
    wait(lambda: not any(map(is_alive, workers)), lambda: workers)


def test_a_signal_ends_it_at_once_when_a_successor_has_replaced_it(team: Team) -> None:
    workers = team.workers()
    os.kill(workers[0], signal.SIGSTOP)  # it will not drain
    with team.log.open("ab") as log:
        successor = subprocess.Popen([*team.command(), "--replace"], cwd=ROOT, stderr=log, start_new_session=True)
    try:
        wait(lambda: "stopping" in team.log.read_text(), team.log.read_text)
        team.process.send_signal(signal.SIGTERM)
        assert team.process.wait(WAIT_S) == -signal.SIGTERM
        wait(lambda: not any(map(is_alive, workers)), lambda: workers)
        assert successor.poll() is None
    finally:
        successor.send_signal(signal.SIGTERM)
        successor.wait(WAIT_S)
