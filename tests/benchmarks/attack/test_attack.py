"""What is sent to a gateway that is attacked, and what its victim's answers are held against."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import math
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from benchmarks.attack.__main__ import QUIET, Outcome, Results, draw_claims
from benchmarks.attack.attacks import ATTACKS, attack
from benchmarks.attack.messages import HTTP_BOMBS, LARGE_BODIES, LARGE_MESSAGES, _json, pack
from benchmarks.attack.victim import Met, meet
from orchestrator.config import GatewaySettings
from orchestrator.gateway.http.body import MAX_VALUES
from orchestrator.gateway.http.json_text import count_values
from orchestrator.triton.messages import pb

MADE_LONG = ("grpc-", "gzip-", "json-", "large-")
MOST_BYTES = int(GatewaySettings().max_message_mib * 2**20)


@asynccontextmanager
async def listening(taken: list[bytes]) -> AsyncIterator[str]:
    """Run a server that keeps what comes, at the address that is yielded; at the end all its connections are closed."""
    serving: list[asyncio.Task[None]] = []

    async def keep(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        taken.append(await reader.read(2**16))
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()

    def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        serving.append(asyncio.create_task(keep(reader, writer)))

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    async with server:
        yield f"{host}:{port}"
    for task in serving:  # which may grow meanwhile
        await asyncio.wait([task])


@pytest.mark.parametrize(
    "name", [name for name in ATTACKS if not name.startswith(("grpc-", "gzip-", "json-", "large-"))]
)
async def test_an_attack_sends_something_and_begins_anew_when_it_is_cut_off(name: str) -> None:
    taken: list[bytes] = []
    async with listening(taken) as address:
        attacking = asyncio.create_task(attack(name, address, address, 60.0))
        while len([part for part in taken if part]) < 3:
            await asyncio.sleep(0.01)
            assert not attacking.done()
        attacking.cancel()
        await asyncio.wait([attacking])
    assert {part[:4] for part in taken if part} == ({b"POST"} if name == "slow-bodies" else {b"PRI "})


@pytest.mark.parametrize(("filling", "want"), [("0,", [0] * 5), ("{},", [{}] * 5), ('"",', [""] * 5)])
def test_a_bomb_is_json_of_as_many_values_as_wanted(filling: str, want: list[object]) -> None:
    assert json.loads(_json('{"inputs": ["@"]}', filling, 5)) == {"inputs": want}


def test_bombs_are_packed() -> None:
    assert gzip.decompress(pack(b"0," * 1000)) == b"0," * 1000
    assert {path for path, _ in HTTP_BOMBS.values()} == {"/v2/models/fashion/infer", "/v2/repository/index"}


@pytest.mark.parametrize("name", LARGE_MESSAGES)
def test_large_messages_are_requests_that_are_just_not_too_large(name: str) -> None:
    message = LARGE_MESSAGES[name]()
    assert 0.9 * MOST_BYTES < len(message) <= MOST_BYTES
    assert pb.ModelInferRequest.FromString(message).model_name


@pytest.mark.parametrize("name", LARGE_BODIES)
def test_large_bodies_are_requests_that_are_just_not_too_large(name: str) -> None:
    body, json_bytes = LARGE_BODIES[name][1]()
    text = body[:json_bytes]
    (tensor,) = json.loads(text)["inputs"]
    if json_bytes is None:
        assert 0.9 * MAX_VALUES < count_values(text, MAX_VALUES) <= MAX_VALUES
        assert len(tensor["data"]) == tensor["shape"][0]
    else:
        assert 0.9 * MOST_BYTES < len(body) <= MOST_BYTES
        assert tensor["parameters"]["binary_data_size"] == len(body) - json_bytes == math.prod(tensor["shape"]) * 4


@pytest.mark.virtual_time
async def test_a_victim_counts_answers_from_when_they_were_due_and_why_others_failed() -> None:
    asked = 0

    async def ask() -> None:
        nonlocal asked
        asked += 1
        number = asked
        await asyncio.sleep(0.5)
        if number > 4:
            raise ConnectionError("it is  gone")

    met = await meet(ask, 10, 1.0)
    assert met.latencies_s == pytest.approx([0.5] * 4)
    assert met.errors == {"ConnectionError it is gone": 6}


@pytest.mark.parametrize(
    ("spoil", "kept"),
    [
        (lambda met: None, (True, True, True)),
        (lambda met: met.errors.update({"late": 1}), (False, True, True)),
        (lambda met: met.latencies_s.append(0.2), (True, False, False)),
    ],
)
def test_claims_are_held_against_the_worst_attack_and_not_the_quiet(
    spoil: Callable[[Met], None], kept: tuple[bool, ...]
) -> None:
    quiet = Outcome(QUIET, Met([9.0], {"x": 9}), Met([9.0]), None, None)
    outcomes = [Outcome(name, Met([0.01, 0.02]), Met([0.01]), 2, 1) for name in ("a", "b")]
    spoil(outcomes[1].inferences)
    spoil(outcomes[1].probes)
    results = Results.begin(outcomes=(quiet, *outcomes))
    assert tuple(claim.is_met for claim in draw_claims(results)[:3]) == kept
