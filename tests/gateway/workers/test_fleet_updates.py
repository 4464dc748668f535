"""A model index whose servers change, and a fleet file that is followed."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from orchestrator.config import FleetSettings, GatewaySettings, ServerSettings, find_changes, render_fleet
from orchestrator.config.names import ServerChanges
from orchestrator.errors import ConfigError, ModelNotFoundError
from orchestrator.files import stamp_of
from orchestrator.gateway import FollowedFleet, Gateway
from orchestrator.gateway.dataplane.fleet_statistics import FleetStatistics
from orchestrator.gateway.dataplane.model_index import ModelIndex
from orchestrator.gateway.metrics.gateway_metrics import DEPARTED_S, MEASURES, GatewayMetrics
from orchestrator.gateway.metrics.snapshot import MetricSnapshot
from orchestrator.gateway.protocol.messages import pb
from orchestrator.gateway.protocol.wire import Address
from orchestrator.gateway.workers.fleet_updates import follow_fleet
from orchestrator.gateway.workers.supervisor import Supervisor
from orchestrator.gateway.workers.worker import WorkerLaunch
from orchestrator.router import Router
from orchestrator.snapshot import ServerName, Width
from orchestrator.triton.discovery import ModelDiscovery
from orchestrator.triton.families import Described
from tests.fakes.servers import FakeServer
from tests.gateway.fakes import FakeTriton
from tests.ports import choose_free_ports

A, B = ServerName("a"), ServerName("b")


def servers(**addresses: str) -> tuple[ServerSettings, ...]:
    return tuple(ServerSettings(name=name, grpc=address) for name, address in addresses.items())


def test_what_to_open_and_to_close() -> None:
    changes = find_changes(servers(a="h:1", b="h:2", c="h:3"), servers(d="h:4", c="h:5", a="h:1"))
    assert [server.name for server in changes.opened] == ["d", "c"]
    assert changes.closed == ("b", "c")
    renamed = find_changes(servers(a="h:1"), servers(b="h:1"))
    assert ([s.name for s in renamed.opened], renamed.closed) == (["b"], ("a",))


@pytest.mark.virtual_time
async def test_a_model_index_takes_new_servers_and_lets_old_ones_finish() -> None:
    old, new = FakeTriton(others=["plus"]), FakeTriton(others=["plus", "minus"])
    discovery = ModelDiscovery({A: old}, timeout_s=1)
    model_index = ModelIndex(discovery)
    watching = asyncio.create_task(discovery.watch(1000))
    await discovery.refresh()
    old.in_flight = 1
    discovery.reconfigure({B: new}, [A])
    await asyncio.sleep(1)
    assert [server.name for server in model_index.find(Address("minus", ""))] == ["b"]
    assert not old.closed
    old.in_flight = 0
    await asyncio.sleep(1)
    assert old.closed
    watching.cancel()
    await discovery.close()
    assert new.closed


class HangingTriton(FakeTriton):
    """Answers no question for its statistics while it hangs."""

    hangs = False

    async def call(self, method: str, *args: Any, **kwargs: Any) -> bytes:
        if self.hangs and method == "ModelStatistics":
            await asyncio.Event().wait()
        return await super().call(method, *args, **kwargs)


@pytest.mark.virtual_time
async def test_statistics_do_not_wait_for_a_server_that_hangs() -> None:
    hanging, well = HangingTriton(others=["plus"]), FakeTriton(others=["plus"])
    hanging.counts["plus"], well.counts["plus"] = 7, 2
    discovery = ModelDiscovery({A: hanging, B: well}, timeout_s=1)
    fleet_statistics = FleetStatistics(ModelIndex(discovery), lambda family: True)
    asked = pb.ModelStatisticsRequest(name="plus").SerializeToString()
    await discovery.refresh()
    for hangs in (False, True):
        hanging.hangs = hangs
        well.counts["plus"] += 1
        async with asyncio.timeout(5):
            answers = await asyncio.gather(*(fleet_statistics.answer("ModelStatistics", asked) for _ in range(3)))
        counts = {pb.ModelStatisticsResponse.FromString(answer).model_stats[0].inference_count for answer in answers}
        assert counts == {7 + well.counts["plus"]}
    await discovery.close()


@pytest.mark.virtual_time
async def test_statistics_keep_what_a_server_counted_that_has_left() -> None:
    old, new = FakeTriton(others=["plus"]), FakeTriton(others=["plus"])
    old.counts["plus"], new.counts["plus"] = 7, 2
    discovery = ModelDiscovery({A: old, B: new}, timeout_s=1)
    model_index = ModelIndex(discovery)
    fleet_statistics = FleetStatistics(model_index, lambda family: True)
    asked = pb.ModelStatisticsRequest(name="plus").SerializeToString()

    async def count() -> int:
        await discovery.refresh()
        answer = pb.ModelStatisticsResponse.FromString(await fleet_statistics.answer("ModelStatistics", asked))
        return int(answer.model_stats[0].inference_count)

    assert await count() == 9
    discovery.reconfigure({}, [A])
    assert await count() == 9
    moved = FakeTriton(others=["plus"])
    moved.counts["plus"] = 1
    discovery.reconfigure({B: moved}, [B])
    assert await count() == 10
    with pytest.raises(ModelNotFoundError):
        model_index.find(Address("minus", ""))
    await discovery.close()


async def test_a_fleet_file_is_followed_and_one_that_can_not_be_used_is_not(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ports = choose_free_ports(3)
    settings = GatewaySettings(grpc=f"127.0.0.1:{ports[0]}", http=None, metrics=None, drain_s=0.2)

    def fleet(**addresses: str) -> FleetSettings:
        return FleetSettings(servers=servers(**addresses), gateway=settings)

    path = tmp_path / "fleet.yaml"
    one, two = f"127.0.0.1:{ports[1]}", f"127.0.0.1:{ports[2]}"  # where nobody listens
    path.write_text(render_fleet(fleet(a=one)))
    start = fleet(a=one)
    async with (
        Router.from_fleet(start, connect=lambda server, router: FakeServer(per_item_s=1e-5)) as router,
        Gateway(start.gateway, router, ModelDiscovery({}, timeout_s=30.0)) as gateway,
    ):
        files = follow_fleet(path, router, gateway, known=start)
        files.refresh()
        assert set(router.served_by()) == {"a"}
        path.write_text(render_fleet(fleet(a=one, b=two)))
        with caplog.at_level("INFO"):
            files.refresh()
        assert f"servers[b].grpc (none) → {two}" in caplog.text
        assert "servers[a]" not in caplog.text
        async with asyncio.timeout(10):
            while set(router.served_by()) != {"a", "b"}:
                await asyncio.sleep(0.01)
        assert [server.name for server in gateway._model_index.servers] == ["a", "b"]
        path.write_text("servers: []\nunknown: 1\n")
        with caplog.at_level("WARNING"):
            files.refresh()
        assert ": kept as before" in caplog.text
        assert set(router.served_by()) == {"a", "b"}


@pytest.mark.virtual_time
async def test_what_changed_while_a_gateway_started_is_taken_as_it_is_followed(tmp_path: Path) -> None:
    path = tmp_path / "fleet.yaml"
    start = FleetSettings(servers=servers(a="127.0.0.1:1"), gateway=GatewaySettings(http=None, metrics=None))
    path.write_text(render_fleet(start))
    stamps = (stamp_of(path),)
    path.write_text(render_fleet(start.model_copy(update={"servers": servers(a="127.0.0.1:1", b="127.0.0.1:2")})))
    async with Router.from_fleet(start, connect=lambda server, router: FakeServer(per_item_s=1e-5)) as router:
        gateway = Gateway(start.gateway, router, ModelDiscovery({}, timeout_s=30.0))
        follow_fleet(path, router, gateway, known=start, stamps=stamps).refresh()
        async with asyncio.timeout(10):
            while set(router.served_by()) != {"a", "b"}:
                await asyncio.sleep(0.01)


@pytest.mark.virtual_time
async def test_a_server_that_has_left_and_answered_all_has_no_gauge_any_more() -> None:
    start = FleetSettings(servers=servers(a="127.0.0.1:1", b="127.0.0.1:2"), gateway=GatewaySettings(metrics=None))
    metrics = GatewayMetrics()
    fakes = {"127.0.0.1:1": FakeServer(per_item_s=1e-5), "127.0.0.1:2": FakeServer(per_item_s=1e-5)}
    async with Router.from_fleet(start, observer=metrics.router, connect=lambda s, _: fakes[s.grpc]) as router:
        gateway = Gateway(start.gateway, router, ModelDiscovery({}, timeout_s=30.0), metrics=metrics)

        def in_flight() -> dict[tuple[str, ...], list[float]]:
            return gateway.snapshot_metrics().values["slim_router_groups_in_flight"]

        for name in ("a", "b"):
            metrics.router.on_sent(ServerName(name), Width(25), 1)
        metrics.router.on_ended(ServerName("a"), Width(25), 1)
        router.reconfigure(FleetSettings(servers=servers(a="127.0.0.1:1")))
        assert in_flight() == {("a",): [0.0], ("b",): [1.0]}
        metrics.router.on_ended(ServerName("b"), Width(25), 1)
        assert in_flight() == {("a",): [0.0]}


@pytest.mark.virtual_time
async def test_servers_of_ever_new_names_leave_no_metrics_for_ever() -> None:
    start = FleetSettings(servers=servers(a="127.0.0.1:1"), gateway=GatewaySettings(metrics=None))
    metrics = GatewayMetrics()
    async with Router.from_fleet(
        start, observer=metrics.router, connect=lambda server, router: FakeServer(per_item_s=1e-5)
    ) as router:
        gateway = Gateway(start.gateway, router, ModelDiscovery({}, timeout_s=30.0), metrics=metrics)

        def counted() -> MetricSnapshot:
            return gateway.snapshot_metrics()

        metrics.router.on_sent(ServerName("pod-1"), Width(25), 1)  # never answers
        for number in range(20):
            pod = f"pod-{number}"
            for server in ("a", "", pod):
                metrics.time("fashion", "ok", latency_s=0.01, width="25", server=server, queue_s=0.0)
            metrics.router.on_ejection(ServerName(pod), "failed")
            assert pod in counted().named("server", MEASURES), "shown until all have read it"
            await asyncio.sleep(DEPARTED_S)
        assert len(counted().named("server", MEASURES)) < 6
        await asyncio.sleep(2 * DEPARTED_S)
        assert counted().named("server", MEASURES) == {"a", "pod-1"}
        ended = counted().values["slim_gateway_requests"]
        assert ended["fashion", "25", "a", "ok"] == ended["fashion", "25", "", "ok"] == [20.0]
        metrics.time("fashion", "ok", latency_s=0.01, width="25", server="pod-7", queue_s=0.0)
        assert counted().values["slim_gateway_requests"]["fashion", "25", "pod-7", "ok"] == [1.0]


@pytest.mark.virtual_time
async def test_a_supervisor_forgets_too_what_dead_workers_counted_by_servers_that_left(tmp_path: Path) -> None:
    settings = FleetSettings(servers=servers(a="127.0.0.1:1"), gateway=GatewaySettings(metrics=None))
    fleet = FollowedFleet(settings, tmp_path / "fleet.yaml")
    await fleet.resolve()
    launch = WorkerLaunch(lambda channel, handoff: [], {}, lambda number: {})
    supervisor, dead = Supervisor(fleet, launch), GatewayMetrics()
    for server in ("a", "gone"):
        dead.time("fashion", "ok", latency_s=0.01, width="25", server=server, queue_s=0.0)
    supervisor._ended.add(dead.snapshot(), MEASURES, with_gauges=False)
    for shown in ({"a", "gone"}, {"a"}, {"a"}):
        assert (await supervisor.read_metrics()).named("server", MEASURES) == shown
        await asyncio.sleep(DEPARTED_S)
    assert supervisor._ended.named("server", MEASURES) == {"a"}


async def test_a_supervisor_takes_changes_of_its_file_but_for_the_gateway_section(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "fleet.yaml"
    first = FleetSettings(servers=servers(a="127.0.0.1:1"), gateway=GatewaySettings(workers=2))
    fleet = FollowedFleet(first, path)
    path.write_text(render_fleet(first))
    await fleet.resolve()
    assert [server.name for server in fleet.servers] == ["a"]
    taken: list[ServerChanges] = []
    described: list[Described] = []

    def take(changes: ServerChanges) -> None:
        if any(server.name == "refused" for server in changes.opened):
            raise ConfigError("no such key file")
        taken.append(changes)

    file = fleet.watch_file(take, described.append)
    path.write_text(render_fleet(FleetSettings(servers=servers(b="127.0.0.1:2"), gateway=GatewaySettings(workers=3))))
    file.refresh()
    assert [([server.name for server in changes.opened], changes.closed) for changes in taken] == [(["b"], ("a",))]
    assert ([s.name for s in fleet.settings.servers], fleet.settings.gateway.workers) == (["b"], 2)
    assert described == [{}]
    for refused in (servers(refused="127.0.0.1:3"), ()):
        path.write_text(render_fleet(first.model_copy(update={"servers": refused})))
        file.refresh(is_forced=True)
    assert ([server.name for server in fleet.servers], len(taken)) == (["b"], 1)
    assert caplog.text.count(": kept as before") == 2
