"""What is known of a fleet's servers, as they come, go, change, hang and return."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest

from orchestrator.config import FleetSettings
from orchestrator.errors import ServerUnavailableError
from orchestrator.http2.grpc.wire import Metadata
from orchestrator.snapshot import ServedModel, ServerName
from orchestrator.triton.discovery import ModelDiscovery
from orchestrator.triton.errors import RefusedCallError
from orchestrator.triton.families import describe_models
from orchestrator.triton.messages import pb
from tests.fakes.servers import served_model
from tests.gateway.fakes import FakeTriton

pytestmark = pytest.mark.virtual_time

A, B = ServerName("a"), ServerName("b")
WIDTHS = [served_model(25), served_model(100)]


class Triton(FakeTriton):
    """Takes ``delay_s`` for a call, and says how many instances its widths have."""

    def __init__(self, widths: Sequence[ServedModel] = (), others: Sequence[str] = (), *, delay_s: float = 0.0) -> None:
        super().__init__(widths, others)
        self.delay_s = delay_s

    async def call(self, method: str, message: bytes, metadata: Metadata = (), **rest: Any) -> bytes:
        if self.delay_s:
            await asyncio.sleep(self.delay_s)
        return await super().call(method, message, metadata, **rest)

    def answer_config(self, message: bytes) -> Any:
        answer = super().answer_config(message)
        model = self.widths.get(answer.config.name)
        if model is not None:
            answer.config.instance_group.add(count=model.instances)
            if model.sha256 is not None:
                answer.config.parameters["slim.sha256"].string_value = model.sha256
        return answer

    @property
    def asked(self) -> Counter[str]:
        return Counter(method for method, *_ in self.seen)


@asynccontextmanager
async def watched(period_s: float = 10.0, timeout_s: float = 2.0, **servers: Triton) -> AsyncIterator[Any]:
    discovery = ModelDiscovery({ServerName(name): server for name, server in servers.items()}, timeout_s=timeout_s)
    watching = asyncio.create_task(discovery.watch(period_s))
    try:
        yield discovery
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
        await discovery.close()


async def test_a_server_is_asked_once_a_period_whoever_else_asks() -> None:
    a = Triton(WIDTHS, ["echo"], delay_s=0.1)
    async with watched(a=a) as discovery:
        await asyncio.sleep(0.01)
        await asyncio.gather(*(discovery.refresh(A) for _ in range(5)), discovery.refresh(), discovery.served_models(A))
        assert a.asked["RepositoryIndex"] == 1, "they share one reading"
        await asyncio.sleep(25)
        assert a.asked["RepositoryIndex"] == 3
        for _ in range(20):
            await asyncio.sleep(5)
            await discovery.refresh(A)
        assert a.asked["RepositoryIndex"] in (23, 24), "the period begins anew with each reading"


async def test_configs_of_widths_are_read_each_time_and_those_of_other_models_once() -> None:
    a = Triton(WIDTHS, ["echo"])
    async with watched(a=a) as discovery:
        served = await discovery.served_models(A)
        assert [(model.name, model.instances) for model in served] == [("fashion_w025", 1), ("fashion_w100", 1)]
        assert await discovery.served_models(A) is served, "the same tuple for as long as nothing changes"
        assert a.asked["ModelConfig"] == 2 * 2 + 1
        a.widths["fashion_w100"] = replace(a.widths["fashion_w100"], instances=3)
        assert [model.instances for model in await discovery.served_models(A)] == [1, 3]


async def test_a_server_that_hangs_holds_up_no_other_and_is_reported_and_found_again() -> None:
    a, b = Triton(WIDTHS, delay_s=1000.0), Triton(WIDTHS)
    async with watched(a=a, b=b) as discovery:
        await asyncio.sleep(1)
        one, other = discovery.servers
        assert (one.is_new, other.is_new, other.problem) == (True, False, None)
        await asyncio.sleep(2)
        assert one.problem == "no answer within 2 s"
        with pytest.raises(ServerUnavailableError, match="no answer within 2 s"):
            await discovery.served_models(A)
        a.delay_s = 0.0
        await asyncio.sleep(1)
        assert one.problem is None
        assert [model.width for model in one.served] == [25, 100]
        assert b.asked["RepositoryIndex"] == 1
        b.is_up = False
        await asyncio.sleep(10)
        assert other.problem == "failed to connect"
        assert len(other.served) == 2, "what it was last seen to serve"


async def test_a_width_that_is_not_ready_is_expected_and_not_served() -> None:
    a = Triton(WIDTHS)
    async with watched(a=a) as discovery:
        await discovery.refresh()
        del a.widths["fashion_w100"]
        a.unready["fashion_w100"] = "it broke"
        (server,) = discovery.servers
        assert [model.width for model in await discovery.served_models(A)] == [25]
        assert sorted(server.widths) == ["fashion_w025", "fashion_w100"]
        a.unready.clear()
        await discovery.refresh()
        assert sorted(server.widths) == ["fashion_w025"]


async def test_a_width_of_other_weights_than_the_familys_is_not_used_and_that_is_told(
    caplog: pytest.LogCaptureFixture,
) -> None:
    other = [replace(WIDTHS[0], sha256="other"), WIDTHS[1]]
    tritons = {"a": Triton(WIDTHS), "b": Triton(other), "c": Triton(WIDTHS)}

    def used() -> dict[str, list[int]]:
        return {server.name: [model.width for model in server.served] for server in discovery.servers}

    async with watched(**tritons) as discovery:
        await discovery.refresh()
        assert used() == {"a": [25, 100], "b": [100], "c": [25, 100]}
        assert [m.width for m in await discovery.served_models(B)] == [100]
        b = discovery.servers[1]
        assert (b.has_ready("fashion_w025"), b.has_ready("fashion_w100"), list(b.widths)) == (
            *(False, True),
            ["fashion_w100"],
        )
        assert [r.getMessage() for r in caplog.records] == [
            "model fashion_w025 on b is not used: its slim.sha256 is other, and the one that is used is sha-25"
        ]
        tritons["a"].is_up = tritons["c"].is_up = False
        await discovery.refresh()
        assert used()["b"] == [100], "an outage makes no majority of what is left"
        tritons["a"].is_up = tritons["c"].is_up = True
        tritons["a"].widths["fashion_w025"] = other[0]
        await discovery.refresh()
        assert used() == {"a": [25, 100], "b": [25, 100], "c": [100]}, "most have the new weights"
        tritons["c"].widths["fashion_w025"] = replace(WIDTHS[0], sha256=None)
        await discovery.refresh()
        assert used()["c"] == [100], "none is another one"
        tritons["c"].widths["fashion_w025"] = other[0]
        served = await discovery.served_models(ServerName("c"))
        assert [model.width for model in served] == [25, 100]


async def test_of_as_many_servers_each_those_with_the_weights_that_were_used_before_go_on() -> None:
    tritons = {"a": Triton(WIDTHS), "b": Triton(WIDTHS)}
    async with watched(**tritons) as discovery:
        await discovery.refresh()
        tritons["a"].widths["fashion_w025"] = replace(WIDTHS[0], sha256="new")
        await discovery.refresh()
        a, b = discovery.servers
        assert [model.width for model in a.served] == [100]
        assert [model.width for model in b.served] == [25, 100]
        discovery.reconfigure({}, [B])
        assert [model.width for model in a.served] == [25, 100]


async def test_a_model_that_goes_between_index_and_config_is_passed_over() -> None:
    class Forgetful(Triton):
        def answer_config(self, message: bytes) -> Any:
            self.widths.pop("fashion_w100", None)
            return super().answer_config(message)

    a = Forgetful(WIDTHS)
    async with watched(a=a) as discovery:
        assert [model.width for model in await discovery.served_models(A)] == [25]


@pytest.mark.parametrize("how", ["the_index_fails", "the_index_is_empty", "one_is_not_shown"])
async def test_what_a_server_serves_is_served_while_its_repository_does_not_show_it(
    how: str, caplog: pytest.LogCaptureFixture
) -> None:
    a = Triton(WIDTHS, ["echo"])
    async with watched(a=a) as discovery:
        await discovery.refresh()
        (server,) = discovery.servers
        if how == "the_index_fails":
            a.index_failure = RefusedCallError("INTERNAL", "failed to open directory /models")
        else:
            a.hidden = {"fashion_w025", "fashion_w100", "echo"} if how == "the_index_is_empty" else {"fashion_w025"}
        for _ in range(2):
            await discovery.refresh()
            assert (server.problem, [model.width for model in server.served]) == (None, [25, 100])
            assert server.has_ready("echo")
        assert caplog.text.count("model fashion_w025 on a is served, and its repository does not show it: ") == 1
        del a.widths["fashion_w025"]  # and now it is unloaded
        await discovery.refresh()
        assert [model.width for model in server.served] == [100]
        a.index_failure, a.hidden = None, set()
        await discovery.refresh()
        assert [model.width for model in server.served] == [100]


async def test_a_server_that_serves_nothing_and_can_not_say_what_it_holds_is_gone() -> None:
    a = Triton(WIDTHS)
    async with watched(a=a) as discovery:
        await discovery.refresh()
        a.index_failure = RefusedCallError("INTERNAL", "failed to open directory /models")
        a.widths.clear()
        await discovery.refresh()
        await discovery.refresh()
        (server,) = discovery.servers
        assert (server.served, server.problem) == ((), "failed to open directory /models")


async def test_who_listens_is_called_after_each_reading_and_when_servers_change() -> None:
    heard: list[ServerName | None] = []
    async with watched(a=Triton(WIDTHS)) as discovery:
        await discovery.refresh()
        discovery.listen(heard.append)
        await discovery.refresh(A)
        discovery.reconfigure({B: Triton(WIDTHS)}, [A])
        await asyncio.sleep(1)
        assert heard == [A, None, B], "one that is new is asked at once"
        with pytest.raises(ServerUnavailableError, match="server a has left the fleet"):
            await discovery.served_models(A)


async def test_a_reading_is_given_up_when_all_is_closed() -> None:
    hanging = Triton(WIDTHS, delay_s=1000.0)
    async with watched(a=hanging, timeout_s=500.0) as discovery:
        asking = asyncio.create_task(discovery.refresh())
        await asyncio.sleep(1)
    await asyncio.wait([asking], timeout=1)
    assert asking.cancelled()
    assert hanging.closed


class Uneven(Triton):
    async def call(self, method: str, message: bytes, metadata: Any = (), **rest: Any) -> bytes:
        if method == "ModelConfig" and pb.ModelConfigRequest.FromString(message).name == "slow":
            await asyncio.sleep(1.0)
        return await super().call(method, message, metadata, **rest)


async def test_what_is_described_while_a_server_is_being_asked_is_found() -> None:
    a = Uneven([], ["echo", "slow"])
    fleet = FleetSettings.model_validate(
        {
            "servers": [{"name": "a", "grpc": "127.0.0.1:1"}],
            "families": [{"name": "texts", "variants": [{"width": 100, "model": "echo", "quality": 0.9}]}],
        }
    )
    async with watched(1.0, a=a) as discovery:
        await asyncio.sleep(0.5)  # the config of echo has been read, and that of slow is being
        discovery.describe(describe_models(fleet.families))
        await asyncio.sleep(60.0)
        (server,) = discovery.servers
        assert "echo" in server.found | server.misfits


async def test_nobody_is_watched_any_more_when_all_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    loop, looks = asyncio.get_running_loop(), itertools.count()
    time = loop.time

    def limited_time() -> float:
        assert next(looks) < 10_000, "it goes round without a pause"
        return time()

    monkeypatch.setattr(loop, "time", limited_time)
    a = Triton(WIDTHS)
    async with watched(a=a) as discovery:
        await asyncio.sleep(1.0)
        await discovery.close()
        asked, beginning_s = a.asked, time()
        await asyncio.sleep(60.0)
        assert next(looks) < 1_000
        assert time() - beginning_s >= 60.0
    assert a.asked == asked


class Damaged(Triton):
    """One of its widths says of its usual item what no integer is."""

    def answer_config(self, message: bytes) -> Any:
        answer = super().answer_config(message)
        if answer.config.name == "fashion_w100":
            answer.config.parameters["slim.item"].string_value = '{"pixels": [1e999]}'
        return answer


async def test_a_width_with_a_damaged_parameter_takes_no_other_with_it() -> None:
    async with watched(a=Damaged(WIDTHS)) as discovery:
        assert [model.name for model in await discovery.served_models(A)] == ["fashion_w025"]
