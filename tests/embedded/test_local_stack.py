"""What ``slimsched up`` starts, ends and keeps when its fleet file changes, with runs that a test makes up."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import pytest

from orchestrator.config import FleetSettings, GatewaySettings, RouterSettings, ServerSettings, load_fleet
from orchestrator.config.fleet import LimitSettings
from orchestrator.embedded import local_stack
from orchestrator.embedded.local_stack import RELEASE_S, LocalStack
from orchestrator.processes.managed import ManagedProcess
from tests.processes.test_managed import FakeRun, FakeRuns

pytestmark = pytest.mark.virtual_time


class FakeProcesses:
    """Notes what is started and ended, in order; what is in ``troubles`` does not start."""

    def __init__(self, troubles: tuple[str, ...] = ()) -> None:
        self.events: list[str] = []
        self._troubles = troubles
        self._path: Path | None = None

    def triton(self, server: ServerSettings) -> ManagedProcess:
        return self._make(server.name)

    def controller(self, server: ServerSettings) -> ManagedProcess:
        return self._make(f"controller {server.name}")

    def gateway(self, fleet: FleetSettings) -> ManagedProcess:
        return self._make("gateway")

    def _make(self, name: str) -> ManagedProcess:
        runs = FakeRuns([f"{name} is broken"] if name in self._troubles else [])

        def make() -> FakeRun:
            run = runs()
            run.report = lambda what: self.events.append(f"{name} {what}")
            return run

        return ManagedProcess(name, make)

    def take(self) -> list[str]:
        """Return what has happened since the last time."""
        events, self.events = self.events, []
        return events


def fleet(*servers: tuple[str, float | None], deadline_ms: float = 100.0) -> FleetSettings:
    return FleetSettings(
        servers=tuple(
            ServerSettings(
                name=name,
                grpc=f"127.0.0.1:{9000 + ord(name)}",
                metrics=f"http://127.0.0.1:{9500 + ord(name)}/metrics",
                controller=f"127.0.0.1:{9700 + ord(name)}",
                repository=Path("/models"),
                emulated_slowdown=slowdown,
            )
            for name, slowdown in servers
        ),
        router=RouterSettings(deadline_ms=deadline_ms),
    )


A, B, C = ("a", None), ("b", None), ("c", None)


async def begun(
    tmp_path: Path, processes: FakeProcesses, *servers: tuple[str, float | None]
) -> tuple[LocalStack, Path]:
    path = tmp_path / "fleet.yaml"
    stack = LocalStack(fleet(*servers), path, processes)
    await stack.start()
    processes.take()
    return stack, path


def names(path: Path) -> list[str]:
    return [server.name for server in load_fleet(path).servers]


async def test_processes_start_in_stages_and_end_the_other_way_round(tmp_path: Path) -> None:
    processes = FakeProcesses()
    stack = LocalStack(fleet(A, B), tmp_path / "fleet.yaml", processes)
    await stack.start()
    tritons, controllers = ["a started", "b started"], ["controller a started", "controller b started"]
    assert processes.take() == [*tritons, *controllers, "gateway started"]
    await stack.stop()
    assert processes.take() == ["gateway ended", "controller a ended", "controller b ended", "a ended", "b ended"]


async def test_settings_alone_start_nothing_and_are_announced(tmp_path: Path) -> None:
    processes = FakeProcesses()
    stack, path = await begun(tmp_path, processes, A)
    await stack.take(fleet(A, deadline_ms=50.0))
    assert processes.take() == [f"gateway had {signal.SIGHUP.name}", f"controller a had {signal.SIGHUP.name}"]
    assert load_fleet(path).router.deadline_ms == 50.0
    await stack.stop()


async def test_who_comes_is_there_before_the_gateway_hears_and_who_goes_ends_after_it_has_let_go(
    tmp_path: Path,
) -> None:
    processes = FakeProcesses()
    stack, path = await begun(tmp_path, processes, A, B)
    taking = asyncio.create_task(stack.take(fleet(A, C)))
    await asyncio.sleep(0.5)
    assert names(path) == ["a", "b"], "c has not started"
    await asyncio.sleep(0.6)
    assert names(path) == ["a", "b", "c"]
    await asyncio.sleep(1.0)
    assert (processes.take(), names(path)) == (["c started", "controller c started"], ["a", "c"])
    await asyncio.sleep(RELEASE_S - 0.2)
    assert processes.take() == []
    await taking
    assert processes.take()[:2] == ["controller b ended", "b ended"]
    assert [process.name for process in stack.processes] == ["a", "c", "controller a", "controller c", "gateway"]
    await stack.stop()


async def test_who_has_changed_goes_first_and_comes_again(tmp_path: Path) -> None:
    processes = FakeProcesses()
    stack, path = await begun(tmp_path, processes, A, B)
    await stack.take(fleet(A, ("b", 3.0)))
    assert processes.take()[:4] == ["controller b ended", "b ended", "b started", "controller b started"]
    assert {server.name: server.emulated_slowdown for server in load_fleet(path).servers} == {"a": None, "b": 3.0}
    await stack.stop()


def changed(given: FleetSettings, name: str, **update: object) -> FleetSettings:
    servers = (s.model_copy(update=update) if s.name == name else s for s in given.servers)
    return given.model_copy(update={"servers": tuple(servers)})


@pytest.mark.parametrize("update", [{"limits": LimitSettings(utilisation_ceiling=0.8)}, {"device_class": "small"}])
async def test_what_a_running_controller_and_the_gateway_take_restarts_no_server(
    update: dict[str, object], tmp_path: Path
) -> None:
    processes = FakeProcesses()
    stack, path = await begun(tmp_path, processes, A, B)
    await stack.take(changed(fleet(A, B), "b", **update))
    had = [f"{name} had {signal.SIGHUP.name}" for name in ("gateway", "controller a", "controller b")]
    assert processes.take() == had
    assert load_fleet(path) == changed(fleet(A, B), "b", **update)
    await stack.stop()


async def test_servers_that_have_changed_go_and_come_one_after_another(tmp_path: Path) -> None:
    processes = FakeProcesses()
    stack, _ = await begun(tmp_path, processes, A, B)
    await stack.take(fleet(("a", 2.0), ("b", 3.0)))
    events = [event for event in processes.take() if not event.startswith("controller")]
    assert events[:4] == ["a ended", "a started", "b ended", "b started"]
    await stack.stop()


async def test_servers_that_take_each_others_ports_go_before_one_comes(tmp_path: Path) -> None:
    processes = FakeProcesses()
    stack, path = await begun(tmp_path, processes, A, B)
    a, b = fleet(A, B).servers
    swapped = changed(changed(fleet(A, B), "a", grpc=b.grpc), "b", grpc=a.grpc)
    await stack.take(swapped)
    events = [event for event in processes.take() if not event.startswith("controller")]
    assert (set(events[:2]), set(events[2:4])) == ({"a ended", "b ended"}, {"a started", "b started"})
    assert load_fleet(path) == swapped
    await stack.stop()


async def test_the_fleet_file_has_a_server_while_the_only_one_is_started_again(tmp_path: Path) -> None:
    processes = FakeProcesses()
    stack, path = await begun(tmp_path, processes, A)
    taking = asyncio.create_task(stack.take(fleet(("a", 2.0))))
    while not taking.done():
        assert names(path) == ["a"]
        await asyncio.sleep(0.1)
    assert load_fleet(path).servers[0].emulated_slowdown == 2.0
    await stack.stop()


async def test_who_has_a_new_name_comes_when_its_ports_are_free(tmp_path: Path) -> None:
    processes = FakeProcesses()
    stack, path = await begun(tmp_path, processes, A, B)
    b = fleet(A, B).servers[1]
    renamed = (*fleet(A).servers, b.model_copy(update={"name": "c"}))
    await stack.take(fleet(A).model_copy(update={"servers": renamed}))
    events = processes.take()
    assert events.index("b ended") < events.index("c started")
    assert [server.name for server in load_fleet(path).servers] == ["a", "c"]
    await stack.stop()


@pytest.mark.parametrize("trouble", ["c", "controller c"])
async def test_who_does_not_start_is_missing_and_all_else_is_taken(
    tmp_path: Path, trouble: str, caplog: pytest.LogCaptureFixture
) -> None:
    processes = FakeProcesses((trouble,))
    stack, path = await begun(tmp_path, processes, A, B)
    await stack.take(fleet(A, C, deadline_ms=50.0))
    assert f"c missing from now on: {trouble} is broken" in caplog.text
    assert (names(path), load_fleet(path).router.deadline_ms) == (["a"], 50.0)
    assert [process.name for process in stack.processes] == ["a", "controller a", "gateway"]
    await stack.stop()


async def test_servers_keep_the_addresses_that_were_chosen_for_them(tmp_path: Path) -> None:
    repository = Path(__file__).parents[2] / "model_repository"
    stack, _ = await begun(tmp_path, FakeProcesses(), A)
    bare = FleetSettings(servers=(ServerSettings(name="a", grpc=stack.fleet.servers[0].grpc),))
    (server,) = stack.complete(bare, repository).servers
    assert (server.metrics, server.controller) == ("http://127.0.0.1:9597/metrics", "127.0.0.1:9797")
    await stack.stop()


async def test_a_gateway_that_is_started_again_finds_the_section_that_its_sockets_are_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    processes = FakeProcesses()
    stack, path = await begun(tmp_path, processes, A)
    moved = fleet(A, deadline_ms=50.0).model_copy(update={"gateway": GatewaySettings(http="127.0.0.1:9999")})
    await stack.take(moved)
    found = load_fleet(path)
    assert (found.gateway, found.router.deadline_ms) == (GatewaySettings(), 50.0)
    assert "the gateway section has changed" in caplog.text
    await stack.stop()


async def test_who_goes_while_the_disk_is_full_is_ended_once_that_can_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    processes = FakeProcesses()
    stack, path = await begun(tmp_path, processes, A, B)

    def refuse(path: Path, text: str) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as full:
        full.setattr(local_stack, "write_atomically", refuse)
        with pytest.raises(OSError, match="No space left"):
            await stack.take(fleet(A))
    assert (processes.take(), names(path)) == ([], ["a", "b"])
    await stack.take(fleet(A))
    assert processes.take()[:2] == ["controller b ended", "b ended"]
    assert names(path) == ["a"]
    await stack.stop()
