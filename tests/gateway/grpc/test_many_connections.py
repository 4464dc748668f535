"""A client that takes many places, or begins what it does not finish, over gRPC."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import grpc
import pytest
import yaml

from orchestrator.gateway.protocol.messages import pb
from orchestrator.http2.frames import DATA, HEADERS, PREFACE, frame, settings_frame
from orchestrator.http2.grpc.wire import pack_message
from orchestrator.triton.messages import SERVICE
from tests.gateway.calls import RawCalls, item_request
from tests.gateway.fakes import open_world
from tests.http2.test_misbehaviour import block

LIVE = block(f"/{SERVICE}/ServerLive")
OPEN = PREFACE + settings_frame([]) + frame(HEADERS, 4, 1, LIVE)


class Peer:
    """A connection of raw bytes to ``target`` from some address of the loopback interface."""

    def __init__(self, target: str, address: str) -> None:
        self._target = target
        self._address = address

    async def __aenter__(self) -> Peer:
        host, _, port = self._target.rpartition(":")
        self.reader, self.writer = await asyncio.open_connection(host, int(port), local_addr=(self._address, 0))
        return self

    async def __aexit__(self, *exc: object) -> None:
        self.writer.transport.abort()

    async def hear_all(self) -> bytes:
        try:
            return await self.reader.read()
        except ConnectionError:
            return b""


async def test_who_takes_all_places_with_open_calls_shuts_out_nobody_and_keeps_good_idle_connections() -> None:
    channel: Any
    async with (
        open_world(limits={"max_connections": 20}) as world,
        grpc.aio.insecure_channel(world.grpc) as channel,
        AsyncExitStack() as stack,
    ):
        calls = RawCalls(channel)
        assert (await calls.infer(item_request())).outputs
        assert world.gateway.grpc is not None
        bad = [await stack.enter_async_context(Peer(world.grpc, "127.0.0.9")) for _ in range(40)]
        for peer in bad:
            peer.writer.write(OPEN)
        lost = await bad[0].hear_all()
        assert b"another connection needs the place" in lost
        new = grpc.aio.insecure_channel(world.grpc, options=[("grpc.use_local_subchannel_pool", 1)])
        async with new:
            assert (await RawCalls(new).infer(item_request())).outputs
        assert (await calls.infer(item_request())).outputs
        assert channel.get_state() is grpc.ChannelConnectivity.READY


async def test_who_opens_thousands_of_calls_loses_them_and_not_who_has_opened_one() -> None:
    message = pack_message(item_request().SerializeToString())
    async with open_world() as world, AsyncExitStack() as stack:
        good = await stack.enter_async_context(Peer(world.grpc, "127.0.0.1"))
        good.writer.write(PREFACE + settings_frame([]) + frame(HEADERS, 4, 1, block(f"/{SERVICE}/ModelInfer")))
        good.writer.write(frame(DATA, 0, 1, message[:20]))
        await good.reader.read(1)
        calls = b"".join(frame(HEADERS, 4, number, LIVE) for number in range(1, 2001, 2))
        bad = [await stack.enter_async_context(Peer(world.grpc, "127.0.0.9")) for _ in range(9)]
        for peer in bad:
            peer.writer.write(PREFACE + settings_frame([]) + calls)
        assert await bad[0].reader.readuntil(b"have begun and do not come whole")
        good.writer.write(frame(DATA, 1, 1, message[20:]))
        assert await good.reader.readuntil(b"grpc-status\x010")


async def test_a_call_that_nobody_answers_for_ends_in_time_whatever_its_client_says(tmp_path: Path) -> None:
    (tmp_path / "tokens.yaml").write_text(yaml.safe_dump({"tenants": [{"name": "one", "tokens": []}]}))
    async with (
        open_world(auth={"tokens_file": tmp_path / "tokens.yaml"}, limits={"header_timeout_s": 0.2}) as world,
        Peer(world.grpc, "127.0.0.1") as peer,
    ):
        patient = block(f"/{SERVICE}/ServerLive", ("grpc-timeout", "9H"))
        peer.writer.write(PREFACE + settings_frame([]) + frame(HEADERS, 4, 1, patient))
        assert b"Deadline Exceeded" in await peer.reader.readuntil(b"Exceeded")


async def test_queries_wait_for_their_client_s_own_and_neither_inferences_nor_other_clients_do(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    channel: Any
    async with open_world() as world, grpc.aio.insecure_channel(world.grpc) as channel:
        under_way, most, release = 0, 0, asyncio.Event()
        triton_of = type(world.tritons["a"]).call

        query = pb.ModelConfigRequest(name="echo").SerializeToString()

        async def slow(triton: Any, method: str, message: bytes, *more: Any, **rest: Any) -> bytes:
            nonlocal under_way, most
            if message != query or release.is_set():  # discovery asks too, for others
                return await triton_of(triton, method, message, *more, **rest)
            under_way += 1
            most = max(most, under_way)
            await release.wait()
            under_way -= 1
            return await triton_of(triton, method, message, *more, **rest)

        monkeypatch.setattr(type(world.tritons["a"]), "call", slow)
        config = channel.unary_unary(f"/{SERVICE}/ModelConfig")
        queries = [asyncio.ensure_future(config(query)) for _ in range(100)]
        while under_way < 4:
            await asyncio.sleep(0.01)
        assert (await RawCalls(channel).infer(item_request())).outputs
        assert most == 4
        async with Peer(world.grpc, "127.0.0.9") as other:
            other.writer.write(PREFACE + settings_frame([]) + frame(HEADERS, 4, 1, block(f"/{SERVICE}/ModelConfig")))
            other.writer.write(frame(DATA, 1, 1, pack_message(query)))
            while under_way < 5:
                await asyncio.sleep(0.01)
            release.set()
            assert b"grpc-status\x010" in await other.reader.readuntil(b"grpc-status\x010")
        assert len(await asyncio.gather(*queries)) == 100
