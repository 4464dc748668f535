"""Turns of those who ask for something that only so many may do at a time, fair by who asks."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from orchestrator.errors import CapacityError

_AT_A_TIME: Final = 8
_OF_ONE: Final = 4  # or who asks for what is never answered would have all turns for good
_MOST_WAITING: Final = 4096
_RETRY_S: Final = 1.0


class FairTurns:
    """Gives everybody who waits a turn before anybody a second one.

    Args:
        at_a_time: The turns that are had at a time.
        of_one: How many of them one may have, whoever waits.
        most_waiting: How many may wait. One more takes the place of the last of who has the most there.
    """

    def __init__(
        self, *, at_a_time: int = _AT_A_TIME, of_one: int = _OF_ONE, most_waiting: int = _MOST_WAITING
    ) -> None:
        self._at_a_time = at_a_time
        self._of_one = of_one
        self._most_waiting = most_waiting
        self._having: Counter[str] = Counter()
        self._waiting: dict[str, deque[asyncio.Future[None]]] = {}  # in the order of their next turns

    @asynccontextmanager
    async def turn(self, who: str) -> AsyncIterator[None]:
        """Wait for a turn, and have it in the context; raises CapacityError when too many wait already."""
        if not self._is_free(who):
            await self._wait(who)
        else:
            self._having[who] += 1
        try:
            yield
        finally:
            self._end(who)

    def _end(self, who: str) -> None:
        self._having -= Counter((who,))
        self._pass_on()

    def _is_free(self, who: str) -> bool:
        return self._having.total() < self._at_a_time and self._having[who] < self._of_one

    async def _wait(self, who: str) -> None:
        self._make_room(who)
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(who, deque()).append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.cancelled():
                self._forget(who, turn)
            elif turn.exception() is None:  # it had come
                self._end(who)
            raise

    def _make_room(self, who: str) -> None:
        if sum(map(len, self._waiting.values())) < self._most_waiting:
            return
        refusal = CapacityError("too many queries wait already; ask again later", retry_after_s=_RETRY_S)
        worst = max(self._waiting, key=lambda each: len(self._waiting[each]))
        if len(self._waiting[worst]) <= len(self._waiting.get(who, ())) + 1:
            raise refusal
        last = self._waiting[worst][-1]
        self._forget(worst, last)
        last.set_exception(refusal)

    def _forget(self, who: str, turn: asyncio.Future[None]) -> None:
        turns = self._waiting.get(who, deque())
        if turn in turns:
            turns.remove(turn)
            if not turns:
                del self._waiting[who]

    def _pass_on(self) -> None:
        """Give turns that are free to those who wait longest for their next one."""
        while (who := next(filter(self._is_free, self._waiting), None)) is not None:
            turns = self._waiting.pop(who)
            turn = turns.popleft()
            if turns:
                self._waiting[who] = turns  # behind all others
            if not turn.done():  # whoever waited has not given up
                self._having[who] += 1
                turn.set_result(None)
