"""The client of gateways, at gateways over fake servers."""

from __future__ import annotations

import asyncio
import inspect
import socket
import ssl
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from orchestrator.client import AsyncClient, Client, Decided
from orchestrator.errors import (
    CapacityError,
    ConfigError,
    ConnectionLostError,
    DeadlineError,
    ServerUnavailableError,
    SlimError,
)
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
        for number, gateway in enumerate(self._gateways):
            gateway.channel.call = self._scripted(number)  # type: ignore[method-assign]

    def _scripted(self, number: int) -> Any:
        async def call(*_: object, **__: object) -> bytes:
            self.asked.append((number, asyncio.get_running_loop().time()))
            failure = self.script.pop(0)
            if failure is not None:
                raise failure
            return b""

        return call


class Standing(AsyncClient):
    """A client of gateways that answer after ``service_s``, but for those that ``stand``: they take calls."""

    def __init__(self, gateways: int, *, stand: set[int], service_s: float = 0.0, **options: Any) -> None:
        super().__init__(*(f"127.0.0.1:{n + 1}" for n in range(gateways)), **options)
        self.stand, self.service_s = stand, service_s
        self.asked: list[int] = []
        self.asked_for_life: list[int] = []
        self.unreachable = ""
        for number, gateway in enumerate(self._gateways):
            gateway.channel.call = gateway._life.call = self._answering(number)  # type: ignore[method-assign]

    def _answering(self, number: int) -> Any:
        async def call(path: str, *_: object, **__: object) -> bytes:
            is_inference = path.endswith("ModelInfer")
            (self.asked if is_inference else self.asked_for_life).append(number)
            if self.unreachable and number == 0 and not is_inference:
                raise RpcError("UNAVAILABLE", f"failed to connect: {self.unreachable}")
            await asyncio.sleep(self.service_s if is_inference else 0.001)
            while number in self.stand:
                await asyncio.sleep(0.01)
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


async def test_a_deadline_that_can_not_be_is_refused_before_anybody_is_asked() -> None:
    async with AsyncClient(f"127.0.0.1:{choose_free_port()}") as client:
        with pytest.raises(ConfigError, match="deadline_ms is -1; give 0 or more"):
            await client.infer("fashion", items(), deadline_ms=-1)


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


@pytest.mark.parametrize(
    ("name", "is_trusted", "reason"),
    [
        ("127.0.0.1", False, r"certificate verify failed \(unable to get local issuer certificate\)"),
        ("127.0.0.2", True, r"certificate verify failed \(IP address mismatch\)"),
    ],
)
async def test_why_tls_failed_is_told(tmp_path: Path, name: str, is_trusted: bool, reason: str) -> None:
    authority = Authority(tmp_path / "ours")
    async with open_world(tls=authority.write(name)) as world:
        context = ssl.create_default_context(cadata=authority.pem.decode() if is_trusted else None)
        async with AsyncClient(world.grpc, tls=context) as client:
            with pytest.raises(ServerUnavailableError, match=f"failed to connect: TLS failed: {reason}"):
                await client.infer("fashion", items())


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


class Told(dict[str, Any]):
    """Inputs that tell when a call has begun to send them."""

    def __init__(self) -> None:
        super().__init__(items())
        self.are_asked_for = threading.Event()

    def items(self) -> Any:
        self.are_asked_for.set()
        return super().items()


@pytest.mark.parametrize("calls", [0, 3])
def test_closing_ends_the_calls_of_other_threads_and_refuses_later_ones(calls: int) -> None:
    ended: list[Exception] = []
    given = [Told() for _ in range(calls)]

    def ask(inputs: Told) -> None:
        with pytest.raises(ConnectionLostError, match="the client was closed") as caught:
            client.infer("fashion", inputs)
        ended.append(caught.value)

    with socket.create_server(("127.0.0.1", 0)) as silent:
        client = Client(f"127.0.0.1:{silent.getsockname()[1]}")
        threads = [threading.Thread(target=ask, args=(inputs,), daemon=True) for inputs in given]
        for thread in threads:
            thread.start()
        assert all(inputs.are_asked_for.wait(30.0) for inputs in given)
        client.close()
        for thread in threads:
            thread.join(30.0)
    assert len(ended) == calls
    client.close()
    with pytest.raises(RuntimeError, match="the client is closed; make another one"):
        client.infer("fashion", items())


FORKED = """
import os, signal, sys, numpy as np
from orchestrator.client import Client

with Client("127.0.0.1:1", attempts=1) as client:
    if os.fork():
        sys.exit(os.waitstatus_to_exitcode(os.wait()[1]))
    signal.alarm(60)  # it stays behind otherwise, if it waits
    try:
        client.infer("fashion", {"x": np.zeros(1)})
    except RuntimeError as exc:
        print(exc)
"""


def test_a_client_that_was_forked_says_so_and_does_not_wait_for_the_thread_that_is_not_there() -> None:
    done = subprocess.run([sys.executable, "-c", FORKED], capture_output=True, text=True, timeout=120, check=True)
    assert "which was forked since; make another one" in done.stdout


@pytest.mark.parametrize("kind", [">f4", "c16", "M8[D]"])
async def test_arrays_that_no_model_takes_are_refused_by_their_name(kind: str) -> None:
    async with AsyncClient("127.0.0.1:1") as client:
        with pytest.raises(ConfigError, match=r"input 'pixels' is an array of .*, which no model takes; convert it"):
            await client.infer("fashion", {"pixels": np.zeros((1, 1, 2, 2), kind)})


def test_both_clients_take_the_same_arguments() -> None:
    for name in ("__init__", "infer"):
        ours, theirs = (inspect.signature(getattr(kind, name)) for kind in (Client, AsyncClient))
        assert ours.parameters == theirs.parameters


@pytest.mark.parametrize(
    ("gateways", "options", "kind"),
    [
        ((), {}, ValueError),
        (("h",), {}, ValueError),
        (("h:1",), {"attempts": 0}, ValueError),
        (("h:1",), {"tokn": "x"}, TypeError),
    ],
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


@pytest.mark.virtual_time
async def test_a_gateway_that_stands_still_costs_one_call_a_second_and_the_next_ones_nothing() -> None:
    loop = asyncio.get_running_loop()
    async with Standing(3, stand={0, 1}) as client:
        took_s = []
        for _ in range(6):
            began_s = loop.time()
            await client.infer("fashion", items())
            took_s.append(loop.time() - began_s)
    assert took_s == [pytest.approx(2.0), *[pytest.approx(0.0)] * 5]
    assert client.asked == [0, 1, *[2] * 6]


@pytest.mark.virtual_time
async def test_a_gateway_that_goes_on_is_asked_again_once_it_says_that_it_lives() -> None:
    async with Standing(2, stand={0}) as client:
        await client.infer("fashion", items())
        client.stand.clear()
        await asyncio.sleep(0.1)
        client.asked.clear()
        for _ in range(4):
            await client.infer("fashion", items())
    assert sorted(client.asked) == [0, 0, 1, 1]


@pytest.mark.virtual_time
async def test_a_gateway_that_lives_has_as_long_as_it_takes_and_is_sent_nothing_twice() -> None:
    async with Standing(2, stand=set(), service_s=30.0) as client:
        await asyncio.gather(*(client.infer("fashion", items()) for _ in range(20)))
    assert len(client.asked) == 20
    assert len(client.asked_for_life) <= 2 * 30 / 0.5  # however many calls wait


@pytest.mark.virtual_time
@pytest.mark.parametrize(("unreachable", "asked"), [("Connection refused", [0]), ("no answer", [0, 1])])
async def test_a_gateway_that_drains_answers_what_it_has_and_one_whose_host_is_gone_is_left(
    unreachable: str, asked: list[int]
) -> None:
    async with Standing(2, stand=set(), service_s=5.0) as client:
        client.unreachable = unreachable
        await client.infer("fashion", items())
    assert client.asked == asked


@pytest.mark.virtual_time
@pytest.mark.parametrize(("deadline_ms", "asked"), [(4000, [0, 1]), (400, [0, 1]), (80, [0])])
async def test_of_a_short_deadline_enough_is_left_for_another_gateway(deadline_ms: float, asked: list[int]) -> None:
    async with Standing(2, stand={0}) as client:
        if len(asked) == 2:
            await client.infer("fashion", items(), deadline_ms=deadline_ms)
        else:
            with pytest.raises(DeadlineError):
                await client.infer("fashion", items(), deadline_ms=deadline_ms)
        assert client.asked == asked
        await client.infer("fashion", items(), deadline_ms=deadline_ms)
        assert client.asked[-1] == 1


@pytest.mark.virtual_time
async def test_what_must_not_run_twice_waits_and_a_single_gateway_has_all_the_time() -> None:
    loop = asyncio.get_running_loop()
    for gateways, options in ((2, {"idempotent": False}), (1, {})):
        async with Standing(gateways, stand={0}, timeout_s=5.0) as client:
            began_s = loop.time()
            with pytest.raises(DeadlineError):
                await client.infer("counter", items(), **options)  # type: ignore[arg-type]
            assert loop.time() - began_s == pytest.approx(5.0)
            assert client.asked == [0]


@pytest.mark.virtual_time
@pytest.mark.parametrize(("idempotent", "sent"), [(True, 2), (False, 1)])
async def test_what_a_lost_connection_may_have_run_is_repeated_unless_it_must_not_be(
    idempotent: bool, sent: int
) -> None:
    async with Scripted(RpcError("UNAVAILABLE", "Connection reset"), None) as client:
        if idempotent:
            await client.infer("fashion", items())
        else:
            with pytest.raises(ConnectionLostError):
                await client.infer("fashion", items(), idempotent=False)
    assert len(client.asked) == sent


@pytest.mark.virtual_time
async def test_where_all_gateways_stand_still_the_error_names_one_and_a_call_is_sent_no_oftener_than_asked() -> None:
    async with Standing(2, stand={0, 1}, attempts=3) as client:
        with pytest.raises(ConnectionLostError, match=r"127.0.0.1:1 takes calls"):
            await client.infer("fashion", items())
    assert client.asked == [0, 1, 0]


async def test_a_process_that_stands_still_takes_calls_and_another_gateway_answers_them() -> None:
    async with open_world() as world:
        with socket.create_server(("127.0.0.1", 0)) as standing:  # as SIGSTOP leaves it: its kernel takes connections
            async with AsyncClient(f"127.0.0.1:{standing.getsockname()[1]}", world.grpc) as client:
                for _ in range(4):
                    assert (await client.infer("fashion", items())).width
