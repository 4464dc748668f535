"""What the devices of servers show, asked of the controllers beside them, for a router that decides by it.

Only learned policies see it. So no controller is asked while none of them decides, is on trial or in the shadow. Where
a server has no controller, or it does not answer, nothing is known of its device, as in worlds without readings.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any

import aiohttp

from orchestrator.config import ServerSettings
from orchestrator.gateway.page.observed import Controller, number_of
from orchestrator.gateway.page.sources import ask_controllers
from orchestrator.router import Router
from orchestrator.snapshot import READ_DEVICES_S, UNKNOWN_DEVICE, DeviceState, ServerName

AskControllers = Callable[[aiohttp.ClientSession, Iterable[ServerSettings]], Awaitable[dict[str, Controller]]]


class DeviceReader:
    """Lets a router know what devices show; ``ask`` returns what controllers say, by server."""

    def __init__(self, router: Router, ask: AskControllers = ask_controllers) -> None:
        self._router = router
        self._ask = ask
        self._most_w: dict[str, float] = {}

    async def watch(self) -> None:
        """Read again and again."""
        async with aiohttp.ClientSession() as session:
            while True:
                await asyncio.sleep(READ_DEVICES_S)
                await self.read(session)

    async def read(self, session: aiohttp.ClientSession) -> None:
        """Read once, if anybody looks at it."""
        membership = self._router.membership
        if membership is None or not self._router.sees_devices:
            return
        found = await self._ask(session, membership.servers)
        self._router.note_devices({ServerName(name): self._state_of(name, one) for name, one in found.items()})

    def _state_of(self, name: str, controller: Controller) -> DeviceState:
        if controller.status is None:
            return UNKNOWN_DEVICE
        power_w = number_of(controller.status, "power_w", "value")
        most_w = self._most_w[name] = max(self._most_w.get(name, 0.0), power_w or 0.0)
        return device_state(controller.status, most_w)


def device_state(status: Mapping[str, Any], most_w: float) -> DeviceState:
    """Return what a controller's status document shows of its device, of which ``most_w`` was the most power so far.

    Memory is that used, of the budget that the controller keeps to.
    """
    used_bytes = number_of(status, "memory", "used_bytes", "value")
    budget_bytes, power_w = number_of(status, "memory", "budget_bytes"), number_of(status, "power_w", "value")
    return DeviceState(
        utilisation_ratio=number_of(status, "utilisation_ratio", "value"),
        memory_ratio=min(1.0, used_bytes / budget_bytes) if used_bytes is not None and budget_bytes else None,
        power_ratio=power_w / most_w if power_w is not None and most_w > 0 else None,
    )
