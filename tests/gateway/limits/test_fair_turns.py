"""Turns: who has the next one, and what becomes of those who give up."""

from __future__ import annotations

import asyncio

import pytest

from orchestrator.errors import CapacityError
from orchestrator.gateway.limits.fair_turns import FairTurns


class Crowd:
    """Those who ask for turns; each keeps its turn until it is let go."""

    def __init__(self, turns: FairTurns) -> None:
        self.turns = turns
        self.having: list[str] = []
        self.asked: dict[str, asyncio.Task[None]] = {}
        self._go: dict[str, asyncio.Event] = {}

    async def ask(self, *names: str) -> None:
        """Ask for turns; who asks is what stands before the number in a name."""
        for name in names:
            self._go[name] = asyncio.Event()
            self.asked[name] = asyncio.create_task(self._take(name))
            await settle()

    async def _take(self, name: str) -> None:
        async with self.turns.turn(name.rstrip("0123456789")):
            self.having.append(name)
            try:
                await self._go[name].wait()
            finally:
                self.having.remove(name)

    def let_go(self, name: str) -> None:
        self._go[name].set()

    async def end(self, name: str) -> None:
        self.let_go(name)
        await settle()


async def settle() -> None:
    for _ in range(8):
        await asyncio.sleep(0)


async def test_everybody_who_waits_has_a_turn_before_anybody_has_a_second_one() -> None:
    crowd = Crowd(FairTurns(at_a_time=1, of_one=1))
    await crowd.ask("a1", "a2", "a3", "a4", "b1", "b2", "c1")
    order = []
    while crowd.having:
        (name,) = crowd.having
        order.append(name)
        await crowd.end(name)
    assert order == ["a1", "a2", "b1", "c1", "a3", "b2", "a4"]


async def test_nobody_has_all_turns_however_long_they_last() -> None:
    crowd = Crowd(FairTurns(at_a_time=8, of_one=4))
    await crowd.ask(*(f"a{number}" for number in range(20)), *(f"b{number}" for number in range(3)))
    assert crowd.having == ["a0", "a1", "a2", "a3", "b0", "b1", "b2"]
    await crowd.ask("c1", "d1", "b3")
    assert crowd.having[7:] == ["c1"]
    await crowd.end("a0")
    await crowd.end("a1")
    assert crowd.having[6:] == ["a4", "d1"]
    for task in crowd.asked.values():
        task.cancel()


@pytest.mark.parametrize("looks", range(6))
async def test_a_turn_is_passed_on_whenever_who_has_it_next_gives_up(looks: int) -> None:
    crowd = Crowd(FairTurns(at_a_time=1, of_one=1))
    await crowd.ask("a1", "b1", "c1")
    crowd.let_go("a1")
    for _ in range(looks):
        await asyncio.sleep(0)
    crowd.asked["b1"].cancel()
    await settle()
    assert crowd.having == ["c1"]
    await crowd.end("c1")
    await crowd.ask("d1")
    assert crowd.having == ["d1"]
    await crowd.end("d1")


async def test_when_too_many_wait_the_last_of_who_has_the_most_is_refused() -> None:
    crowd = Crowd(FairTurns(at_a_time=1, of_one=1, most_waiting=4))
    await crowd.ask("a0", "a1", "a2", "a3", "a4", "a5")
    with pytest.raises(CapacityError, match="ask again later"):
        await crowd.asked["a5"]
    await crowd.ask("b1")
    with pytest.raises(CapacityError):
        await crowd.asked["a4"]
    order = []
    while crowd.having:
        (name,) = crowd.having
        order.append(name)
        await crowd.end(name)
    assert order == ["a0", "a1", "b1", "a2", "a3"]


async def test_who_is_sent_away_and_leaves_at_once_gives_back_no_turn_of_its_own() -> None:
    crowd = Crowd(FairTurns(at_a_time=1, of_one=1, most_waiting=2))
    await crowd.ask("a1", "a2", "a3")
    assert crowd.having == ["a1"]
    crowd._go["b1"] = asyncio.Event()
    crowd.asked["b1"] = asyncio.create_task(crowd._take("b1"))
    await asyncio.sleep(0)  # b1 has taken the place of a3, which has not been told yet
    crowd.asked["a3"].cancel()
    await settle()
    assert crowd.having == ["a1"], "one at a time"
