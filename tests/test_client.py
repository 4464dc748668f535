"""The client of gateways, at gateways over fake servers."""

from __future__ import annotations

import asyncio
import inspect
import ssl
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from orchestrator.client import AsyncClient, Client, Decided
from orchestrator.errors import CapacityError, DeadlineError, ServerUnavailableError, SlimError
from orchestrator.http2.grpc.wire import RpcError
from tests.gateway.auth.test_tls import Authority
from tests.gateway.fakes import World, open_world
from tests.ports import choose_free_port


def items(count: int = 1) -> dict[str, np.ndarray]:
    return {"pixels": np.full((count, 1, 2, 2), 3.0, np.float32)}


class Scripted(AsyncClient):
    """A client whose calls end as a test says: with a refusal, or with an answer."""

    def __init__(self, *script: RpcError | None, gateways: int = 2) -> None:
        super().__init__(*(f"127.0.0.1:{n + 1}" for n in range(gateways)))
        self.script = list(script)
        self.asked: list[tuple[int, float]] = []
        for number, channel in enumerate(self._channels):
            channel.call = self._scripted(number)  # type: ignore[method-assign]

    def _scripted(self, number: int) -> Any:
        async def call(*_: object, **__: object) -> bytes:
            self.asked.append((number, asyncio.get_running_loop().time()))
            failure = self.script.pop(0)
            if failure is not None:
                raise failure
            return b""

        return call


def refused(retry_after_s: float | None) -> RpcError:
    return RpcError("RESOURCE_EXHAUSTED", "too much", retry_after_s=retry_after_s)


def unreachable() -> RpcError:
    return RpcError("UNAVAILABLE", "failed to connect: refused")


async def test_an_answer_says_what_was_decided() -> None:
    async with open_world() as world, AsyncClient(world.grpc) as client:
        answer = await client.infer("fashion", items(2), width=50, deadline_ms=60_000, preference="energy", priority=1)
        assert (answer.width, answer.batch, answer.energy_j) == (50, 2, None)
        assert answer.server in world.servers
        assert answer.decision_id
        assert answer.queue_s is not None
        assert answer.outputs["logits"].argmax(axis=1).tolist() == [3, 3]


async def test_a_model_of_no_family_is_answered_without_a_decision() -> None:
    async with open_world() as world, AsyncClient(world.grpc) as client:
        x = np.ones((2,), np.float32)
        assert await client.infer("echo", {"x": x}) == Decided({"x": pytest.approx(x)})


async def test_what_can_not_be_served_is_told_once() -> None:
    async with open_world() as world, AsyncClient(world.grpc) as client:
        with pytest.raises(SlimError, match="33"):
            await client.infer("fashion", items(), width=33)


async def test_a_gateway_that_is_away_costs_a_call_to_the_next_one() -> None:
    async with open_world() as world, AsyncClient(f"127.0.0.1:{choose_free_port()}", world.grpc) as client:
        for _ in range(3):
            assert (await client.infer("fashion", items())).width


async def test_a_token_and_tls_are_told(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "ours")
    async with open_world(tls=authority.write()) as world:
        context = ssl.create_default_context(cadata=authority.pem.decode())
        async with AsyncClient(world.grpc, tls=context, token="unheard") as client:
            assert (await client.infer("fashion", items())).width


def test_without_an_event_loop_it_is_the_same() -> None:
    async def serve(started: asyncio.Event) -> None:
        async with open_world() as world:
            answer = await asyncio.to_thread(ask, world)
            assert answer.width == 75

    def ask(world: World) -> Decided:
        with Client(world.grpc) as client:
            with pytest.raises(SlimError):
                client.infer("nobody_has_it", items())
            return client.infer("fashion", items(), width=75)

    asyncio.run(serve(asyncio.Event()))


def test_both_clients_take_the_same_arguments() -> None:
    for name in ("__init__", "infer"):
        ours, theirs = (inspect.signature(getattr(kind, name)) for kind in (Client, AsyncClient))
        assert ours.parameters == theirs.parameters


@pytest.mark.parametrize(
    ("gateways", "options", "kind"),
    [((), {}, ValueError), (("h:1",), {"attempts": 0}, ValueError), (("h:1",), {"tokn": "x"}, TypeError)],
)
def test_wrong_arguments_leave_no_thread_behind(
    gateways: tuple[str, ...], options: dict[str, Any], kind: type[Exception]
) -> None:
    before = threading.active_count()
    with pytest.raises(kind):
        Client(*gateways, **options)
    assert threading.active_count() == before


@pytest.mark.virtual_time
async def test_a_refusal_is_waited_out_for_as_long_as_it_says() -> None:
    async with Scripted(refused(0.5), refused(2.0), None) as client:
        await client.infer("fashion", items())
    (_, first_s), (_, second_s), (_, third_s) = client.asked
    assert (second_s - first_s, third_s - second_s) == (pytest.approx(0.5), pytest.approx(2.0))


@pytest.mark.virtual_time
@pytest.mark.parametrize(
    ("script", "options", "kind", "sent"),
    [
        ([refused(None)], {}, CapacityError, 1),  # nobody knows when to come again
        ([refused(0.5)], {"deadline_ms": 400}, CapacityError, 1),  # too late by then
        ([refused(0.1)] * 4, {}, CapacityError, 4),
        ([unreachable()] * 4, {}, ServerUnavailableError, 4),
        ([RpcError("DEADLINE_EXCEEDED", "late")], {}, DeadlineError, 1),  # it may have run
        ([RpcError("INVALID_ARGUMENT", "no")], {}, SlimError, 1),
    ],
)
async def test_what_does_not_help_is_not_repeated(
    script: list[RpcError], options: dict[str, Any], kind: type[SlimError], sent: int
) -> None:
    async with Scripted(*script) as client:
        with pytest.raises(kind):
            await client.infer("fashion", items(), **options)
    assert len(client.asked) == sent


@pytest.mark.virtual_time
async def test_gateways_that_can_not_be_reached_are_passed_over_at_once_and_all_of_them_after_a_pause() -> None:
    async with Scripted(unreachable(), unreachable(), None) as client:
        await client.infer("fashion", items())
    assert [number for number, _ in client.asked] == [0, 1, 0]
    begun_s = [at_s for _, at_s in client.asked]
    assert (begun_s[1] - begun_s[0], begun_s[2] - begun_s[1]) == (pytest.approx(0.0), pytest.approx(0.1))
