"""What streams take of their tenants and of servers, and give back."""

from __future__ import annotations

import hashlib
import tracemalloc
from pathlib import Path
from typing import Any

import aiohttp
import grpc
import pytest

from orchestrator.gateway.protocol.messages import pb
from orchestrator.triton.messages import SERVICE
from tests.gateway.calls import echo_request
from tests.gateway.fakes import open_world
from tests.http2.grpc.test_channel import open_scripted

TOKEN = "s" * 43


@pytest.mark.parametrize("wrong", ["no-such-model", "only_a-too"])
async def test_a_request_that_a_stream_refuses_holds_no_place_of_its_tenant(tmp_path: Path, wrong: str) -> None:
    digest = hashlib.sha256(TOKEN.encode()).hexdigest()
    tokens = tmp_path / "tokens.yaml"
    tokens.write_text(f"tenants:\n- name: t\n  tokens: ['sha256:{digest}']\n  concurrent_requests: 1\n")
    async with (
        open_world(auth={"tokens_file": str(tokens)}) as world,
        grpc.aio.insecure_channel(world.grpc) as channel,
    ):
        metadata = (("authorization", f"Bearer {TOKEN}"),)
        call: Any = channel.stream_stream(f"/{SERVICE}/ModelStreamInfer")(metadata=metadata)
        await call.write(echo_request(wrong).SerializeToString())
        answer = pb.ModelStreamInferResponse.FromString(await call.read())
        assert answer.error_message
        await call.write(echo_request().SerializeToString())
        answer = pb.ModelStreamInferResponse.FromString(await call.read())
        assert answer.error_message == ""
        await call.done_writing()


async def test_names_that_nobody_has_fill_no_memory() -> None:
    async with (
        open_world() as world,
        grpc.aio.insecure_channel(world.grpc) as channel,
    ):
        call: Any = channel.stream_stream(f"/{SERVICE}/ModelStreamInfer")()

        async def ask(begin: int, end: int) -> None:
            for n in range(begin, end):
                await call.write(echo_request(f"{n:08d}" + "n" * 4000).SerializeToString())
                await call.read()

        await ask(0, 100)
        tracemalloc.start()
        await ask(100, 3100)
        held, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert held < 5 * 2**20, held
        await call.done_writing()


@pytest.mark.parametrize("action", ["generate", "generate_stream"])
async def test_a_stream_that_nobody_waits_for_any_more_keeps_its_place_until_the_server_has_ended_it(
    action: str,
) -> None:
    """As a unary call does: a model that hangs must not be given calls without end."""
    async with (
        open_scripted(lambda number: b"") as (_, channel),  # takes calls and answers none
        open_world(
            others={"a": ("hung",)}, pass_on_models=[{"name": "hung", "max_calls": 1, "timeout_s": 0.2}]
        ) as world,
        aiohttp.ClientSession() as session,
    ):
        triton = world.tritons["a"]
        triton.scripts["hung"] = "r"  # it is decoupled
        triton.open_stream = lambda method, metadata=(): channel.open_stream(  # type: ignore[assignment,method-assign]
            f"/s/{method}", metadata, explain=lambda error: error
        )

        async def ask() -> int:
            url, body = f"{world.http}/v2/models/hung/{action}", {"x": [1.0, 2.0]}
            try:
                async with session.post(url, json=body, timeout=aiohttp.ClientTimeout(0.5)) as answer:
                    return answer.status
            except TimeoutError:  # the client has given up
                return 0

        assert await ask() in (504, 0)
        assert channel.in_flight == 1, "the server still has it"
        assert await ask() == 429
        assert channel.in_flight == 1
        await channel.close(drain_s=0.0)
