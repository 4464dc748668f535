"""Servers that come, go and move while requests are on their way."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from orchestrator.config import FleetSettings, RouterSettings, ServerSettings
from orchestrator.errors import ConfigError, ServerUnavailableError
from orchestrator.profile.document import write_profile
from orchestrator.router import Answer, Router
from orchestrator.router.servers.membership import ResolvedNames, addresses_to_use
from orchestrator.snapshot import ServerName
from tests.fakes.servers import NO_TIME_LIMITS, FakeServer, item
from tests.fakes.troubled import TroubledServer
from tests.profile.profiles import SHA256, model_profile, profile_of, server_profile
from tests.router.test_router import right

pytestmark = pytest.mark.virtual_time


def fleet_of(addresses: Mapping[str, str], **router: Any) -> FleetSettings:
    return FleetSettings(
        servers=tuple(ServerSettings(name=name, grpc=address) for name, address in addresses.items()),
        router=RouterSettings.model_validate({"policy": "lert", "probes": None, "guard": NO_TIME_LIMITS, **router}),
    )


@asynccontextmanager
async def routed(fleet: FleetSettings, fakes: Mapping[str, FakeServer]) -> AsyncIterator[Router]:
    async with Router.from_fleet(fleet, connect=lambda server, settings: fakes[server.grpc]) as router:
        yield router


@pytest.mark.parametrize("policy", ["lert", "round-robin", "jsq"])
async def test_servers_are_exchanged_under_load_without_losing_a_request(policy: str) -> None:
    fakes = {f"127.0.0.1:{n}": FakeServer(per_item_s=0.005) for n in range(1, 5)}
    async with routed(fleet_of({"a": "127.0.0.1:1", "b": "127.0.0.1:2"}, policy=policy), fakes) as router:
        loop = asyncio.get_running_loop()
        changes = [
            {"b": "127.0.0.1:2", "c": "127.0.0.1:3"},
            {"c": "127.0.0.1:3"},
            {"c": "127.0.0.1:4"},
            {"a": "127.0.0.1:1", "c": "127.0.0.1:4"},
        ]
        for n, addresses in enumerate(changes):
            loop.call_later(0.5 + 0.5 * n, router.reconfigure, fleet_of(addresses, policy=policy))
        calls = []
        for n in range(600):
            calls.append(asyncio.create_task(router.infer(item(n % 10))))
            await asyncio.sleep(0.005)
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
        assert all(isinstance(o, Answer) and right(o, n % 10) for n, o in enumerate(outcomes))
        assert sum(len(server.batches) for server in fakes.values()) > 0
        assert set(router.served_by()) == {"a", "c"}
        assert [fakes[address].closed for address in ("127.0.0.1:2", "127.0.0.1:3")] == [True, True]
        assert not fakes["127.0.0.1:4"].closed


async def test_a_server_that_leaves_finishes_what_it_has_before_it_is_let_go() -> None:
    slow, other = FakeServer(per_item_s=0.5), FakeServer(per_item_s=0.8)
    async with routed(
        fleet_of({"a": "127.0.0.1:1", "b": "127.0.0.1:2"}), {"127.0.0.1:1": slow, "127.0.0.1:2": other}
    ) as router:
        call = asyncio.create_task(router.infer(item(3), deadline_ms=60_000))
        await asyncio.sleep(0.1)
        router.reconfigure(fleet_of({"b": "127.0.0.1:2"}))
        await asyncio.sleep(0.2)
        assert not slow.closed
        answer = await call
        assert right(answer, 3)
        assert answer.server == "a"
        await asyncio.sleep(0.5)
        assert slow.closed
        assert (await router.infer(item(1), deadline_ms=60_000)).server == "b"


async def test_what_was_abandoned_on_a_server_that_leaves_is_not_cut_off_there() -> None:
    hanging = TroubledServer(per_item_s=0.001)
    async with routed(
        fleet_of({"a": "127.0.0.1:1", "b": "127.0.0.1:2"}), {"127.0.0.1:1": hanging, "127.0.0.1:2": FakeServer()}
    ) as router:
        hanging.hangs = True
        assert (await router.infer(item(3))).server == "b"
        router.reconfigure(fleet_of({"b": "127.0.0.1:2"}))
        await asyncio.sleep(30)
        assert not hanging.closed
        hanging.hangs = False
        await asyncio.sleep(1)
        assert hanging.closed


async def test_settings_change_live(caplog: pytest.LogCaptureFixture) -> None:
    fakes = {"127.0.0.1:1": FakeServer()}
    async with routed(fleet_of({"a": "127.0.0.1:1"}), fakes) as router:
        assert (await router.infer(item(0))).width == 100
        router.reconfigure(fleet_of({"a": "127.0.0.1:1"}, policy="lert:25"))
        answer = await router.infer(item(0))
        assert (answer.width, answer.policy) == (25, "lert:25")
        assert "start again" not in caplog.text
        router.reconfigure(fleet_of({"a": "127.0.0.1:1"}, policy="lert:25", seed=1))
        assert "router.seed has changed; start again for it to take effect" in caplog.text
        assert not fakes["127.0.0.1:1"].closed


async def test_what_needs_a_new_start_is_told_as_it_is_until_then(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Else the status page would look for decisions where nobody writes any."""
    logs = [{"directory": tmp_path / name, "sample_ratio": ratio} for name, ratio in (("one", 1.0), ("two", 0.5))]
    first, *others = [fleet_of({"a": "127.0.0.1:1"}, decision_log=log) for log in (logs[0], logs[1], None)]
    async with routed(first, {"127.0.0.1:1": FakeServer()}) as router:
        for other in others:
            router.reconfigure(other)
            overview = await router.describe()
            assert (overview.decision_log, overview.sample_ratio) == (str(tmp_path / "one"), 1.0)
        assert caplog.text.count("router.decision_log has changed") == 2
        router.reconfigure(first)  # taken back
        assert caplog.text.count("router.decision_log has changed") == 2


async def test_what_can_not_be_used_changes_nothing() -> None:
    fakes = {"127.0.0.1:1": FakeServer()}
    async with routed(fleet_of({"a": "127.0.0.1:1"}), fakes) as router:
        with pytest.raises(ConfigError, match="no-such-rule"):
            router.reconfigure(fleet_of({"b": "127.0.0.1:2"}, policy="no-such-rule"))
        assert (await router.infer(item(0))).server == "a"


async def test_a_server_that_moves_is_another_machine_of_the_same_name() -> None:
    first, second = FakeServer(per_item_s=0.001), FakeServer(per_item_s=0.2)
    async with routed(fleet_of({"a": "127.0.0.1:1"}), {"127.0.0.1:1": first, "127.0.0.1:2": second}) as router:
        await router.infer(item(0))
        quick = router.inspect().latency.line(ServerName("a"), first.models[3], first.models)
        router.reconfigure(fleet_of({"a": "127.0.0.1:2"}))
        answer = await router.infer(item(4), deadline_ms=10_000)
        assert right(answer, 4)
        assert second.batches
        assert router.inspect().latency.line(ServerName("a"), first.models[3], first.models)[0] > 50 * quick[0]


async def test_a_fleet_in_which_nobody_answers_is_taken_and_waited_for() -> None:
    gone = FakeServer()
    gone.is_up = False
    async with routed(fleet_of({"a": "127.0.0.1:1"}), {"127.0.0.1:1": FakeServer(), "127.0.0.1:2": gone}) as router:
        router.reconfigure(fleet_of({"b": "127.0.0.1:2"}))
        call = asyncio.create_task(router.infer(item(0)))
        await asyncio.sleep(5)
        assert not call.done()
        gone.is_up = True
        assert (await call).server == "b"


class Names:
    """A resolver whose answers change."""

    def __init__(self, *addresses: str) -> None:
        self.addresses: tuple[str, ...] = addresses
        self.own_names: dict[str, str] = {}
        self.identifiers: dict[str, str] = {}
        self.asked = 0

    async def resolve(self, host: str) -> tuple[str, ...]:
        await asyncio.sleep(0.01)
        self.asked += 1
        return self.addresses if host == "tritons.svc" else ()

    async def name_of(self, address: str) -> str:
        return self.own_names.get(address, "")

    async def identify(self, server: ServerSettings) -> str:
        if server.grpc not in self.identifiers:
            raise ServerUnavailableError(f"nobody listens at {server.grpc}")
        return self.identifiers[server.grpc]


@asynccontextmanager
async def resolved(fleet: FleetSettings, fakes: Mapping[str, FakeServer], names: Names) -> AsyncIterator[Router]:
    async with Router.from_fleet(
        fleet,
        connect=lambda server, settings: fakes[server.grpc],
        names=ResolvedNames(names.resolve, names.name_of, names.identify),
    ) as router:
        yield router


async def test_a_name_with_several_addresses_is_several_servers_that_come_and_go() -> None:
    fakes = {f"10.0.0.{n}:8001": FakeServer(per_item_s=0.004) for n in (1, 2, 3)}
    names = Names("10.0.0.1", "10.0.0.2")
    fleet = fleet_of({"t": "tritons.svc:8001"}, policy="round-robin", resolve_period_s=1)
    async with resolved(fleet, fakes, names) as router:
        assert set(router.served_by()) == {"t-10.0.0.1", "t-10.0.0.2"}
        loop = asyncio.get_running_loop()
        for at_s, addresses in ((0.5, ("10.0.0.2", "10.0.0.3")), (2.5, ()), (3.5, ("10.0.0.3",))):
            loop.call_later(at_s, setattr, names, "addresses", addresses)
        calls = []
        for n in range(600):
            calls.append(asyncio.create_task(router.infer(item(n % 10))))
            await asyncio.sleep(0.01)
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
        assert all(isinstance(o, Answer) and right(o, n % 10) for n, o in enumerate(outcomes))
        assert set(router.served_by()) == {"t-10.0.0.3"}
        assert router.membership is not None
        assert [server.grpc for server in router.membership.servers] == ["10.0.0.3:8001"]
        assert [fakes[f"10.0.0.{n}:8001"].closed for n in (1, 2, 3)] == [True, True, False]
    assert names.asked <= 8


async def test_a_name_that_moves_to_a_dead_address_keeps_the_server_that_answers_until_the_new_one_does() -> None:
    fakes = {f"10.0.0.{n}:8001": FakeServer(per_item_s=0.004) for n in (1, 2)}
    names, dead = Names("10.0.0.1"), fakes["10.0.0.2:8001"]
    dead.is_up = False
    fleet = fleet_of({"t": "tritons.svc:8001"}, policy="lert", resolve_period_s=1)

    async def ask(seconds: float) -> list[Any]:
        calls = []
        for n in range(round(seconds * 100)):
            calls.append(asyncio.create_task(router.infer(item(n % 10), deadline_ms=500)))
            await asyncio.sleep(0.01)
        return await asyncio.gather(*calls, return_exceptions=True)

    async with resolved(fleet, fakes, names) as router:
        names.addresses = ("10.0.0.2",)
        assert {o.server for o in await ask(4)} == {"t"}
        dead.is_up = True
        assert all(isinstance(o, Answer) for o in await ask(4))
        assert set(router.served_by()) == {"t-10.0.0.2"}
        names.addresses = ("10.0.0.1",)
        fakes["10.0.0.1:8001"].is_up = dead.is_up = False
        await asyncio.sleep(3)
        assert router.membership is not None
        assert [server.grpc for server in router.membership.servers] == ["10.0.0.1:8001"], "neither answers"


async def test_pods_are_called_as_pods_even_where_the_dns_says_so_late_or_never_and_lose_no_request() -> None:
    fakes = {f"10.0.0.{n}:8001": FakeServer(per_item_s=0.004) for n in (1, 2)}
    names = Names("10.0.0.1", "10.0.0.2")
    fleet = fleet_of({"t": "tritons.svc:8001"}, policy="lert", resolve_period_s=1)
    loop = asyncio.get_running_loop()

    async def name_of(address: str) -> str:
        if loop.time() - began_s < 3.0 or address == "10.0.0.1":
            await asyncio.sleep(30.0)
        return f"gpu-{address[-1]}.tritons.svc.cluster.local"

    names.name_of, began_s = name_of, loop.time()  # type: ignore[method-assign]
    async with resolved(fleet, fakes, names) as router:
        assert loop.time() - began_s < 1.5
        assert set(router.served_by()) == {"t-10.0.0.1", "t-10.0.0.2"}
        calls = []
        for n in range(1000):
            calls.append(asyncio.create_task(router.infer(item(n % 10))))
            await asyncio.sleep(0.01)
        assert all(right(answer, n % 10) for n, answer in enumerate(await asyncio.gather(*calls)))
        assert set(router.served_by()) == {"t-10.0.0.1", "gpu-2"}


async def test_tritons_that_are_called_by_their_nodes_are_as_soon_as_they_answer_whoever_asks() -> None:
    fakes = {f"10.0.0.{n}:8001": FakeServer(per_item_s=0.004) for n in (1, 2)}
    names, fakes["10.0.0.2:8001"].is_up = Names("10.0.0.1", "10.0.0.2"), False
    names.identifiers = {"10.0.0.1:8001": "t-node-a"}
    fleet = fleet_of({"t": "tritons.svc:8001"}, policy="lert", resolve_period_s=3600)
    async with resolved(fleet, fakes, names) as first:
        assert set(first.served_by()) == {"t-node-a"}
        await asyncio.sleep(5.0)
        fakes["10.0.0.2:8001"].is_up, names.identifiers["10.0.0.2:8001"] = True, "t-node-b"
        await asyncio.sleep(2.0)
        assert set(first.served_by()) == {"t-node-a", "t-node-b"}
        asked = names.asked
        await asyncio.sleep(60.0)
        assert names.asked == asked, "all have said what they are called"
        async with resolved(fleet, fakes, names) as second:
            assert set(second.served_by()) == {"t-node-a", "t-node-b"}


async def test_a_triton_that_comes_back_under_another_name_is_called_by_it() -> None:
    fakes, names = {"10.0.0.1:8001": FakeServer(per_item_s=0.004)}, Names("10.0.0.1")
    names.identifiers = {"10.0.0.1:8001": "t-node-a"}
    fleet = fleet_of({"t": "tritons.svc:8001"}, policy="lert", resolve_period_s=1)
    async with resolved(fleet, fakes, names) as router:
        assert set(router.served_by()) == {"t-node-a"}
        fakes["10.0.0.1:8001"].is_up = False
        names.identifiers = {}
        await asyncio.sleep(5.0)
        assert [server.name for server in router.membership.servers] == ["t-node-a"], "while it says nothing"  # type: ignore[union-attr]
        fakes["10.0.0.1:8001"].is_up, names.identifiers = True, {"10.0.0.1:8001": "t-node-c"}
        await asyncio.sleep(5.0)
        assert set(router.served_by()) == {"t-node-c"}


async def test_a_pod_whose_key_file_is_away_is_used_once_it_is_back_and_the_log_says_why(
    caplog: pytest.LogCaptureFixture,
) -> None:
    fakes = {f"10.0.0.{n}:8001": FakeServer(per_item_s=0.004) for n in (1, 2)}
    names, is_away = Names("10.0.0.1"), False
    fleet = fleet_of({"t": "tritons.svc:8001"}, policy="lert", resolve_period_s=1)

    def connect(server: ServerSettings, settings: RouterSettings) -> FakeServer:
        if is_away:
            raise ConfigError("protocol_key_file key: there is no such file")
        return fakes[server.grpc]

    resolved_names = ResolvedNames(names.resolve, names.name_of, names.identify)
    async with Router.from_fleet(fleet, connect=connect, names=resolved_names) as router:
        is_away, names.addresses = True, ("10.0.0.1", "10.0.0.2")
        await asyncio.sleep(5.0)
        assert set(router.served_by()) == {"t"}
        assert "kept as before: protocol_key_file key: there is no such file" in caplog.text
        assert "unexpectedly" not in caplog.text
        is_away = False
        await asyncio.sleep(5.0)
        assert len(router.served_by()) == 2


async def test_a_triton_that_says_nothing_at_all_is_asked_often_for_a_minute_only() -> None:
    fakes, names = {"10.0.0.1:8001": FakeServer(per_item_s=0.004)}, Names("10.0.0.1")
    fleet = fleet_of({"t": "tritons.svc:8001"}, policy="lert", resolve_period_s=100)
    async with resolved(fleet, fakes, names) as router:
        assert set(router.served_by()) == {"t"}
        await asyncio.sleep(120.0)
        asked = names.asked
        assert 55 < asked < 70
        await asyncio.sleep(200.0)
        assert names.asked <= asked + 3


@pytest.mark.parametrize(
    ("found", "before", "answering", "expected"),
    [
        ("b", "a", "a", "ab"),
        ("b", "ab", "ab", "b"),
        ("b", "a", "", "b"),
        ("bc", "abd", "ab", "bc"),
        ("c", "abd", "ab", "abc"),
        ("", "ab", "", "ab"),
    ],
)
def test_addresses_that_answer_are_used_until_one_of_those_that_were_found_does(
    found: str, before: str, answering: str, expected: str
) -> None:
    assert addresses_to_use(tuple(found), tuple(before), answering.__contains__) == tuple(expected)


async def test_a_fleet_with_a_new_name_is_taken_once_the_name_is_known() -> None:
    fakes = {"127.0.0.1:1": FakeServer(), "10.0.0.1:8001": FakeServer()}
    names = Names("10.0.0.1")
    async with resolved(fleet_of({"a": "127.0.0.1:1"}), fakes, names) as router:
        router.reconfigure(fleet_of({"b": "tritons.svc:8001"}))
        assert right(await router.infer(item(3)), 3)
        await asyncio.sleep(1)
        assert set(router.served_by()) == {"b"}


async def test_a_router_that_was_given_its_connections_can_not_be_given_others() -> None:
    async with Router(RouterSettings(guard=NO_TIME_LIMITS), {ServerName("a"): FakeServer()}) as router:
        with pytest.raises(ConfigError, match=r"Router\.from_fleet"):
            router.reconfigure(fleet_of({"a": "127.0.0.1:1"}))


def is_serving(router: Router) -> bool:
    try:
        return bool(router.served_by())
    except ConfigError:
        return False


async def test_a_router_that_needs_no_server_yet_serves_soon_after_the_first_has_something() -> None:
    loop, fake = asyncio.get_running_loop(), FakeServer()
    models, fake.models = fake.models, ()
    fleet = fleet_of({"a": "127.0.0.1:1"}, discovery_period_s=3600.0)
    async with Router.from_fleet(fleet, connect=lambda *_: fake, requires_server=False) as router:
        for change in (lambda: setattr(fake, "is_up", False), lambda: setattr(fake, "is_up", True)):
            change()
            await asyncio.sleep(10.0)
        assert not is_serving(router)
        fake.models, began_s = models, loop.time()
        while not is_serving(router):
            await asyncio.sleep(0.01)
        assert loop.time() - began_s < 1.0
        assert right(await router.infer(item(3)), 3)


@pytest.mark.parametrize(("known", "pause_s"), [(["10.0.0.1"], 10.0), ([], 1.0)])
async def test_a_name_that_stands_for_nothing_yet_is_soon_looked_up_again(known: list[str], pause_s: float) -> None:
    async def resolve(host: str) -> tuple[str, ...]:
        return tuple(known)

    async def name_of(address: str) -> str:
        return ""

    async def identify(server: ServerSettings) -> str:
        return "triton"

    names, servers = ResolvedNames(resolve, name_of, identify), fleet_of({"a": "fleet.test:1"}).servers
    assert names.pause_s(servers, 10.0) == 1.0
    await names.look_up(servers, lambda name: True)
    assert names.pause_s(servers, 10.0) == pause_s
    assert names.pause_s(servers, 0.1) == 0.1
    known.clear()
    await names.look_up(servers, lambda name: False)
    assert names.pause_s(servers, 10.0) == pause_s, "an answer that shrinks to nothing changes nothing"
    assert [server.grpc for server in names.expand(servers)] == ["10.0.0.1:1" if pause_s > 1 else "fleet.test:1"]


async def test_a_pod_that_comes_back_at_another_address_starts_from_its_profile_again(tmp_path: Path) -> None:
    def server() -> FakeServer:
        fake = FakeServer((25, 100), per_item_s=0.01, fixed_s=0.002)
        fake.models = tuple(replace(model, sha256=SHA256) for model in fake.models)
        return fake

    path = tmp_path / "profile.json"
    write_profile(profile_of(server_profile("t", model_profile(25), model_profile(100))), path)
    fakes, names = {f"10.0.0.{n}:8001": server() for n in (1, 2)}, Names("10.0.0.1")
    names.identifiers = {"10.0.0.1:8001": "t-node-a", "10.0.0.2:8001": "t-node-a"}
    fleet = FleetSettings(
        servers=(ServerSettings(name="t", grpc="tritons.svc:8001"),),
        router=RouterSettings.model_validate(
            {"policy": "lert", "probes": None, "guard": NO_TIME_LIMITS, "resolve_period_s": 1, "profile": path}
        ),
    )
    async with resolved(fleet, fakes, names) as router:
        name = ServerName("t-node-a")
        assert set(router.served_by()) == {name}
        narrow, wide = router.models()
        assert router.inspect().latency.line(name, wide, (narrow, wide)) == pytest.approx((0.01, 0.002))
        fakes["10.0.0.1:8001"].is_up = False
        names.addresses = ("10.0.0.2",)
        await asyncio.sleep(10.0)
        assert set(router.served_by()) == {name}
        assert [server.grpc for server in router.membership.servers] == ["10.0.0.2:8001"]
        known = router.inspect().latency.line(name, wide, (narrow, wide))
        was_warmed_up = bool(fakes["10.0.0.2:8001"].batches)
        assert was_warmed_up or known == pytest.approx((0.01, 0.002)), known
