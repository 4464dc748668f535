"""What is tried at a gateway with tokens, and that the count would show what was let in."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from benchmarks.attack.__main__ import REPLACED, Outcome, Results, draw_claims
from benchmarks.attack.intrusions import OTHER, Intrusion, make_attempts, try_all, write_tokens
from benchmarks.attack.victim import Met
from tests.gateway.fakes import open_world

SERVERS = {"a": (OTHER,), "b": (OTHER,)}


async def test_a_gateway_with_tokens_answers_none_of_it(tmp_path: Path) -> None:
    tokens = tmp_path / "tokens.yaml"
    write_tokens(tokens, with_revoked=False)
    async with open_world(others=SERVERS, auth={"tokens_file": tokens}) as world:
        found = await try_all(world.grpc, world.http.removeprefix("http://"), make_attempts())
    answered = {each.name for each in found if each.answered}
    assert answered <= {"a shape that overflows"}, "which a fake does not look at where it fits into 64 bits"
    assert all(each.tries == each.answered + sum(each.statuses.values()) for each in found)
    statuses = {each.name: set(each.statuses) for each in found}
    assert statuses["a revoked token"] == {"UNAUTHENTICATED", "401"}
    assert "403" in statuses["another tenant's model"]


async def test_what_is_let_in_is_counted(tmp_path: Path) -> None:
    tokens = tmp_path / "tokens.yaml"
    write_tokens(tokens, with_revoked=True)
    async with open_world(others=SERVERS, auth={"tokens_file": tokens}) as world:
        attempts = {name: calls for name, calls in make_attempts().items() if name == "a revoked token"}
        before = await try_all(world.grpc, world.http.removeprefix("http://"), attempts)
        write_tokens(tokens, with_revoked=False)
        async with asyncio.timeout(10):
            while (await try_all(world.grpc, world.http.removeprefix("http://"), attempts))[0].answered:
                await asyncio.sleep(0.1)
    assert before[0].answered > 0


@pytest.mark.parametrize(("answered", "lost"), [(0, 0), (1, 0), (0, 2)])
def test_intrusions_and_models_that_ended_are_claims(answered: int, lost: int) -> None:
    outcomes = (
        Outcome("a", Met([0.01]), Met([0.01]), None, None),
        Outcome(REPLACED, Met([9.0]), Met([9.0]), None, None),
    )
    intrusions = (Intrusion("x", 3, answered, {"401": 3 - answered}), Intrusion("y", 1, 0, {"401": 1}))
    claims = draw_claims(Results.begin(outcomes=outcomes, intrusions=intrusions, stubs_lost=lost))
    assert [claim.is_met for claim in claims] == [True, True, True, answered == 0, lost == 0]
