"""A gateway's claim on one server, at whoever keeps the record of that server's driver.

Where nobody keeps one, because there is no controller or it does not run, the plan alone decides. Where somebody may
keep it and can't be asked, the server is not driven beyond the lease: the other side of a partition may be granted it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
from collections.abc import Callable
from typing import Final, Protocol

from orchestrator.errors import ServerUnavailableError, SlimError
from orchestrator.ownership import LEASE_S, GatewayName

log = logging.getLogger(__name__)

RENEW_S: Final = LEASE_S / 4
"""Between two renewals, so that two may fail."""
_DRAIN_LOOK_S: Final = 0.02


class NoKeeperError(SlimError):
    """Nobody keeps the record of a server's driver where it should be kept."""


class Keeper(Protocol):
    """Keeps the record of one server's driver, see orchestrator.ownership.record; calls are bounded in time."""

    async def claim(self, gateway: GatewayName) -> int | None:
        """Return the term that was granted; None when it was not.

        Raises:
            NoKeeperError: Nobody keeps the record.
            ServerUnavailableError: Whoever keeps it can't be asked.
        """

    async def renew(self, gateway: GatewayName, term: int) -> bool:
        """Return whether the term goes on; raises as ``claim``."""

    async def release(self, gateway: GatewayName, term: int, successor: GatewayName | None) -> None:
        """End a term, and begin the successor's if there is one; raises as ``claim``."""


class Lease:
    """Claims and renews a server while it is wanted, and gives it away, once it is idle, when it is not.

    Args:
        gateway: Who claims.
        keeper: Where; None where nobody keeps a record.
        is_idle: Returns whether the server has answered all that this gateway has sent.
        on_change: Called when it was granted, lost or given up.

    Attributes:
        is_unkept: Whether nobody keeps a record, so that the plan alone decides.
        is_refused: Whether it is wanted, and the record names another gateway.
    """

    def __init__(
        self,
        gateway: GatewayName,
        keeper: Keeper | None,
        is_idle: Callable[[], bool],
        on_change: Callable[[], None] = lambda: None,
    ) -> None:
        self.is_unkept = keeper is None
        self.is_refused = False
        self._gateway = gateway
        self._keeper = keeper
        self._is_idle = is_idle
        self._on_change = on_change
        self._term: int | None = None
        self._until_s = -math.inf
        self._end: asyncio.TimerHandle | None = None
        self._is_wanted = False
        self._is_free = False
        self._successor: GatewayName | None = None
        self._changed = asyncio.Event()
        self._told = ""

    def is_held(self, *, now_s: float) -> bool:
        """Return whether this gateway may drive the server, as far as records go."""
        return self.is_unkept or now_s < self._until_s

    @property
    def is_leaving(self) -> bool:
        """Whether the record still names this gateway, which is to drive the server no longer."""
        return self._term is not None and not self._is_wanted

    def want(self, driver: GatewayName | None, *, is_free: bool = True) -> None:
        """Note who is to drive the server by the plan, and whether no other gateway says that it still does."""
        is_wanted = driver == self._gateway
        self._successor = None if is_wanted else driver
        if is_wanted != self._is_wanted or (is_wanted and is_free and not self._is_free):
            self._changed.set()
        self._is_wanted, self._is_free = is_wanted, is_free
        self.is_refused = self.is_refused and is_wanted

    async def run(self) -> None:
        """Do so for ever; returns at once where there is no keeper."""
        if self._keeper is None:
            return
        while True:
            self._changed.clear()
            term = self._term
            if self._is_wanted:
                await self._hold(self._keeper)
            elif self._term is not None and self._is_idle():
                await self.give_up()
            if self._term != term:
                self._on_change()
            pause_s = RENEW_S if self._is_wanted or self._term is None else _DRAIN_LOOK_S
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause_s):
                    await self._changed.wait()

    async def give_up(self) -> None:
        """Give the server to who is to have it next, or to whoever claims it; never raises."""
        self._hold_until(-math.inf)
        if self._keeper is not None and self._term is not None:
            with contextlib.suppress(SlimError):  # then it expires
                await self._keeper.release(self._gateway, self._term, self._successor)
        self._term = None

    async def _hold(self, keeper: Keeper) -> None:
        asked_s = asyncio.get_running_loop().time()
        try:
            if self._term is not None and not await keeper.renew(self._gateway, self._term):
                self._term = None
                self._hold_until(-math.inf)
            if self._term is None:
                asked_s = asyncio.get_running_loop().time()
                self._term = await keeper.claim(self._gateway)
        except NoKeeperError as exc:
            self.is_unkept, self.is_refused = True, False
            self._tell(f"nobody keeps a record of its driver, so that the plan decides alone: {exc}")
        except ServerUnavailableError as exc:
            self.is_unkept = self.is_refused = False
            self._tell(f"its controller can't be asked who drives it, so it is not driven from here: {exc}")
        else:
            self.is_unkept = False
            self._told = ""
            self.is_refused = self._term is None
            if self._term is not None:
                self._hold_until(asked_s + LEASE_S)

    def _hold_until(self, until_s: float) -> None:
        """Note when its time ends, and end it then, not only when somebody looks."""
        self._until_s = until_s
        if self._end is not None:
            self._end.cancel()
        self._end = None if until_s < 0 else asyncio.get_running_loop().call_at(until_s, self._expire)

    def _expire(self) -> None:
        self._until_s = -math.inf
        self._on_change()

    def _tell(self, text: str) -> None:
        if text != self._told:
            log.warning("%s", text)
            self._told = text
