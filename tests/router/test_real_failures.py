"""Two real Tritons under 200 requests a second, of which one dies, hangs, fails, turns slow or answers wrong.

Every request brings a deadline that the other server can keep, so every one must be answered, once, and right. All
tests share one fleet; the one that kills a server comes last.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper

from orchestrator.config import FleetSettings, RouterSettings, ServerSettings
from orchestrator.embedded.server import EmbeddedOptions, EmbeddedServer
from orchestrator.errors import SlimError
from orchestrator.loadgen.sample import load_sample
from orchestrator.router import Answer, Router
from orchestrator.snapshot import ServerName, Width
from orchestrator.triton.client import TritonClient
from tests.ports import choose_free_ports, with_ports
from tests.router.dispatch.test_sender import RecordingObserver
from tests.triton.calls import read_statistics

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]
MODEL = "fashion_w025"
RPS = 200
DEADLINE_MS = 3000  # far above what one server takes, and far below group_timeout_s: a hang that is waited out is late
A, B = ServerName("a"), ServerName("b")
PROBED = 10  # items of golden probes that may be asked meanwhile


@dataclass
class RestartableTriton:
    """A Triton with a repository of its own."""

    repository: Path
    server: EmbeddedServer

    def signal(self, number: signal.Signals) -> None:
        for pid in (self.server.pid, *self.server.stub_pids()):
            os.kill(pid, number)

    async def restart_if_dead(self) -> None:
        """Start the server again, at its address, when it or its stub is dead.

        Some die of SIGCONT: what the stop made wait too long for a lock of the Python backend throws
        ``boost::interprocess::lock_exception``, which nobody catches.
        """
        if self.server.is_running and self.server.stub_pids():
            return
        _, _, port = self.server.grpc_address.rpartition(":")
        await self.server.stop()
        options = EmbeddedOptions(models=(MODEL,), grpc_port=int(port), exit_timeout_s=2)
        self.server = EmbeddedServer(self.repository, with_ports(options))
        await self.server.start()
        print(f"the Triton of {self.repository.name} did not survive its test and was started again")


@dataclass
class Tritons:
    """Both, on an event loop of their own."""

    runner: asyncio.Runner
    a: RestartableTriton
    b: RestartableTriton
    labels: list[int] = field(default_factory=list)
    images: np.ndarray = field(default_factory=lambda: np.empty(0))  # type: ignore[type-arg]

    def fleet(self, *, b: str | None = None, **router: object) -> FleetSettings:
        addresses = {"a": self.a.server.grpc_address, "b": b or self.b.server.grpc_address}
        values = {"policy": "round-robin:25", "warm_up": True, **router}
        return FleetSettings(
            servers=tuple(ServerSettings(name=name, grpc=address) for name, address in addresses.items()),
            router=RouterSettings.model_validate(values),
        )

    async def until_back(self, router: Router) -> None:
        """Go on with what was stopped, and wait until the router trusts it again: itself, or a new one in its place."""

        async def is_back() -> bool:
            is_trusted = bool(router.served_by().get(B)) and B not in router.inspect().suspects
            return is_trusted and await runs_an_item(self.b, self.images)

        self.b.signal(signal.SIGCONT)
        began_s = time.monotonic()
        async with asyncio.timeout(60):
            while not await is_back():
                await asyncio.to_thread(self.runner.run, self.b.restart_if_dead())  # the loop that has its process
                await asyncio.sleep(0.05)
        print(f"back {time.monotonic() - began_s:.2f} s after SIGCONT")


@pytest.fixture(scope="module")
def fleet_of_two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tritons]:
    options = EmbeddedOptions(models=(MODEL,), exit_timeout_s=2)
    started: list[RestartableTriton] = []
    with asyncio.Runner() as runner:
        try:
            for name in ("a", "b"):
                repository = tmp_path_factory.mktemp(name)
                shutil.copytree(ROOT / "model_repository" / MODEL, repository / MODEL)
                server = EmbeddedServer(repository, with_ports(options))
                runner.run(server.__aenter__())
                started.append(RestartableTriton(repository, server))
            tritons = Tritons(runner, *started)
            tritons.images = load_sample(ROOT / "examples" / "fashion-mnist" / "test_1000.npz").images[:100]
            session = onnxruntime.InferenceSession(ROOT / "model_repository" / MODEL / "1" / "model.onnx")
            tritons.labels = list(session.run(None, {"pixels": tritons.images})[0].argmax(axis=1))
            yield tritons
        finally:
            for triton in started:
                if triton.server.is_running:
                    triton.signal(signal.SIGCONT)
                runner.run(triton.server.stop())


@pytest.fixture
def tritons(fleet_of_two: Tritons) -> Tritons:
    """Both run, however the test before went."""
    for triton in (fleet_of_two.a, fleet_of_two.b):
        fleet_of_two.runner.run(triton.restart_if_dead())
    return fleet_of_two


async def load(
    router: Router, tritons: Tritons, seconds: float, *, at: dict[float, Callable[[], object]] | None = None
) -> list[Answer]:
    """Ask 200 times a second; return all answers, each of which must be there, be right and be in time."""
    loop = asyncio.get_running_loop()
    for when_s, act in (at or {}).items():
        loop.call_later(when_s, act)
    began_s, calls = loop.time(), []
    for n in range(int(RPS * seconds)):
        await asyncio.sleep(max(0.0, began_s + n / RPS - loop.time()))
        calls.append(asyncio.create_task(router.infer(tritons.images[n % 100], deadline_ms=DEADLINE_MS)))
    outcomes = await asyncio.gather(*calls, return_exceptions=True)
    lost = [o for o in outcomes if not isinstance(o, Answer)]
    assert not lost, f"{len(lost)} lost, the first of: {lost[0]!r}"
    answers = [o for o in outcomes if isinstance(o, Answer)]
    assert len(answers) == len(calls)
    wrong = sum(int(answer.output.argmax()) != tritons.labels[n % 100] for n, answer in enumerate(answers))
    late = sum(not answer.deadline_met for answer in answers)
    assert (wrong, late) == (0, 0)
    return answers


async def until(condition: Callable[[], bool], within_s: float = 60.0) -> float:
    """Wait for something, and return how long it took."""
    began_s = time.monotonic()
    async with asyncio.timeout(within_s):
        while not condition():
            await asyncio.sleep(0.01)
    return time.monotonic() - began_s


def servers_of(answers: list[Answer]) -> set[str]:
    return {answer.server for answer in answers}


async def test_a_server_that_hangs_costs_nothing_and_is_back_when_it_goes_on(tritons: Tritons) -> None:
    observer = RecordingObserver()
    async with Router.from_fleet(tritons.fleet(), observer=observer) as router:
        assert servers_of(await load(router, tritons, 1)) == {A, B}
        stopped = {0.5: lambda: tritons.b.signal(signal.SIGSTOP)}
        answers = await load(router, tritons, 5, at=stopped)
        assert servers_of(answers[-RPS:]) == {A}
        assert observer.count("retry") > 0
        await tritons.until_back(router)
        assert servers_of(await load(router, tritons, 1)) == {A, B}


async def test_a_hang_beyond_the_batch_timeout_costs_nothing_either(tritons: Tritons) -> None:
    settings = tritons.fleet(group_timeout_s=1.5, connect_timeout_s=1.0)
    async with Router.from_fleet(settings) as router:
        answers = await load(router, tritons, 5, at={0.5: lambda: tritons.b.signal(signal.SIGSTOP)})
        assert servers_of(answers[-RPS:]) == {A}
        assert not router.served_by().get(B)
        await tritons.until_back(router)
        assert servers_of(await load(router, tritons, 1)) == {A, B}


async def test_what_a_slow_server_has_is_hedged_and_answered_once(tritons: Tritons) -> None:
    observer = RecordingObserver()
    patient = {"overdue_floor_ms": 60_000}  # so that what is sent a second time is hedged
    ends = threading.Event()

    def stutter() -> None:
        while not ends.is_set():
            tritons.b.signal(signal.SIGSTOP)
            ends.wait(0.08)
            tritons.b.signal(signal.SIGCONT)
            ends.wait(0.02)

    thread = threading.Thread(target=stutter)
    settings = tritons.fleet(hedge={"quantile": 0.9, "floor_ms": 5}, retries=patient, ejection={"latency_factor": 1e9})
    async with Router.from_fleet(settings, observer=observer) as router:
        await load(router, tritons, 1)
        before = [await counted(triton) for triton in (tritons.a, tritons.b)]
        thread.start()
        try:
            answers = await load(router, tritons, 4)  # each request is answered, rightly and in time
        finally:
            ends.set()
            thread.join()
        assert observer.count("hedge") > 0
        assert observer.count("retry") == 0
    after = [await counted(triton) for triton in (tritons.a, tritons.b)]
    ran = sum(after) - sum(before)
    assert len(answers) == 4 * RPS
    assert len(answers) < ran <= len(answers) + observer.count("hedge") + PROBED, "copies ran, and were nobody's"
    print(f"{observer.count('hedge')} of {len(answers)} hedged, {ran} ran")


async def runs_an_item(triton: RestartableTriton, images: np.ndarray) -> bool:
    """Return whether a Triton answers an item, which it does after all that it had when it was stopped."""
    try:
        async with TritonClient(triton.server.grpc_address) as client, asyncio.timeout(5):
            return bool(await client.infer(MODEL, {"pixels": images[:1]}, ["logits"]))
    except (SlimError, TimeoutError):
        return False


async def counted(triton: RestartableTriton) -> int:
    """Return how many items a Triton has run."""
    async with TritonClient(triton.server.grpc_address) as client:
        return int((await read_statistics(client, MODEL)).inference_count)


async def test_a_server_that_turns_slow_costs_nothing(tritons: Tritons) -> None:
    """Stopped nine tenths of the time, it is about ten times slower."""
    ends = threading.Event()

    def slow_down() -> None:
        while not ends.is_set():
            tritons.b.signal(signal.SIGSTOP)
            ends.wait(0.18)
            tritons.b.signal(signal.SIGCONT)
            ends.wait(0.02)

    thread = threading.Thread(target=slow_down)
    async with Router.from_fleet(tritons.fleet(policy="lert:25")) as router:
        await load(router, tritons, 1)
        thread.start()
        try:
            answers = await load(router, tritons, 6)
        finally:
            ends.set()
            thread.join()
        by_slow = sum(answer.server == B for answer in answers[-2 * RPS :])
        assert by_slow < RPS / 2, "the quick one takes nearly all"


async def test_a_server_that_answers_errors_costs_nothing(tritons: Tritons) -> None:
    """The stub of a Python-based backend is killed: the model stays ready and each of its calls is an error."""
    observer = RecordingObserver()
    (stub,) = tritons.b.server.stub_pids()
    async with (
        Router.from_fleet(tritons.fleet(), observer=observer) as router,
        TritonClient(tritons.b.server.grpc_address) as client,
    ):
        answers = await load(router, tritons, 4, at={1: lambda: os.kill(stub, signal.SIGKILL)})
        assert servers_of(answers[-RPS:]) == {A}
        assert observer.count("retry") > 0
        await client.unload_model(MODEL)
        await client.load_model(MODEL)
        await until(lambda: bool(router.served_by()[B]))


def tamper(path: Path) -> None:
    """Turn the sign of the last layer, and keep everything that the file says of itself."""
    model = onnx.load(path)
    last = next(w for w in model.graph.initializer if w.name == model.graph.node[-1].input[1])
    last.CopyFrom(numpy_helper.from_array(-numpy_helper.to_array(last), last.name))
    onnx.save(model, path)


async def test_a_server_that_turns_wrong_is_found_out_by_a_probe_and_taken_back_when_right(tritons: Tritons) -> None:
    observer, path = RecordingObserver(), tritons.b.repository / MODEL / "1" / "model.onnx"
    original = path.read_bytes()
    settings = tritons.fleet(probes={"period_s": 0.5}, discovery_period_s=5)  # so that a probe is first to show it
    async with (
        Router.from_fleet(settings, observer=observer) as router,
        TritonClient(tritons.b.server.grpc_address) as client,
    ):
        await load(router, tritons, 1)
        await client.unload_model(MODEL)
        path.unlink()
        path.write_bytes(original)
        tamper(path)
        await client.load_model(MODEL)
        calls = []
        while ("wrong", "b", "25") not in observer.events:  # it is asked because it is used
            calls.append(asyncio.create_task(router.infer(tritons.images[0])))
            await asyncio.sleep(1 / RPS)
        await asyncio.gather(*calls)
        assert servers_of(await load(router, tritons, 1)) == {A}
        await client.unload_model(MODEL)
        path.write_bytes(original)
        await client.load_model(MODEL)
        await until(lambda: bool(router.served_by()[B]))
        assert servers_of(await load(router, tritons, 1)) == {A, B}


async def test_servers_change_under_load(tritons: Tritons) -> None:
    both = tritons.fleet()
    only_b = both.model_copy(update={"servers": both.servers[1:]})
    only_a = both.model_copy(update={"servers": both.servers[:1]})
    async with Router.from_fleet(only_a) as router:
        changes = {1.0: both, 2.0: only_b, 3.0: only_a}
        at = {when_s: lambda fleet=fleet: router.reconfigure(fleet) for when_s, fleet in changes.items()}  # type: ignore[misc]
        answers = await load(router, tritons, 4, at=at)
        assert servers_of(answers) == {A, B}


async def test_a_full_accept_queue_holds_nobody_up(tritons: Tritons) -> None:
    """SYNs to it are dropped, as a server's that hangs for long; later a Triton listens at the address."""
    (port,) = choose_free_ports(1)
    with socket.socket() as full:
        full.bind(("127.0.0.1", port))
        full.listen(0)
        waiting = [socket.socket() for _ in range(4)]
        for connection in waiting:
            connection.setblocking(False)
            connection.connect_ex(("127.0.0.1", port))
        settings = tritons.fleet(b=f"127.0.0.1:{port}")
        async with Router.from_fleet(settings) as router:
            assert servers_of(await load(router, tritons, 2)) == {A}
            for connection in (*waiting, full):
                connection.close()
            options = EmbeddedOptions(models=(MODEL,), grpc_port=port, exit_timeout_s=2)
            async with EmbeddedServer(tritons.b.repository, with_ports(options)):
                back_s = await until(lambda: bool(router.served_by().get(B)))
                print(f"joined {back_s:.2f} s after it was ready")
                assert servers_of(await load(router, tritons, 1)) == {A, B}


async def test_the_death_of_a_server_costs_nothing_and_its_return_is_noticed(tritons: Tritons) -> None:
    observer = RecordingObserver()
    port = int(tritons.b.server.grpc_address.rpartition(":")[2])
    async with Router.from_fleet(tritons.fleet(), observer=observer) as router:
        answers = await load(router, tritons, 4, at={1: lambda: os.kill(tritons.b.server.pid, signal.SIGKILL)})
        assert servers_of(answers[-RPS:]) == {A}
        assert {answer.width for answer in answers} == {Width(25)}
        options = EmbeddedOptions(models=(MODEL,), grpc_port=port, exit_timeout_s=2)
        async with EmbeddedServer(tritons.b.repository, with_ports(options)):
            back_s = await until(lambda: bool(router.served_by().get(B)))
            print(f"back {back_s:.2f} s after it was ready")
            assert servers_of(await load(router, tritons, 1)) == {A, B}
    assert observer.count("readmission") > 0
