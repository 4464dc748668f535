"""What a controller needs of the world: Triton and telemetry as protocols, and time.

The real adapters and the tests' fakes stand behind the protocols; in tests time is virtual.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from orchestrator.planner.host import Batching, LoadedModel, RepositoryModel
from orchestrator.planner.rates import Counters
from orchestrator.snapshot import ModelName


class ModelControl(Protocol):
    """One Triton in explicit mode, and the repository that it serves.

    Whatever is awaited raises SlimError, with Triton's reason, or when Triton or its metrics endpoint does not answer.
    """

    def repository_models(self) -> tuple[RepositoryModel, ...]:
        """Return the widths of the families in question, ascending in each, as their files say now.

        Raises:
            ConfigError: when the repository can't be used; names what and the remedy.
        """

    def misfits(self) -> Mapping[str, str]:
        """Return why models that look meant for a family are left out, by name, as their files last said."""

    async def loaded_models(self) -> tuple[LoadedModel, ...]:
        """Return where each model of ``repository_models`` stands, in the same order."""

    async def counters(self) -> Mapping[ModelName, Counters]:
        """Return the counters of every model that has any."""

    async def apply(self, model: ModelName, *, instances: int, batching: Batching, nonce: str) -> None:
        """Load or change a model to its canonical full config with these three in it; return once it serves.

        Triton itself decides by the difference whether that is an in-place change or a full reload.
        """

    async def unload(self, model: ModelName) -> None:
        """Unload a model and return once Triton says that it is gone."""

    async def close(self) -> None:
        """Close the connections to the server."""


@dataclass(frozen=True, slots=True)
class Clocks:
    """Time as a controller sees it.

    Attributes:
        monotonic: A clock that never goes back, in seconds; all timers are on it.
        wall: A clock of seconds since 1970, for reports and nonces.
        sleep: An awaitable pause.
    """

    monotonic: Callable[[], float] = time.monotonic
    wall: Callable[[], float] = time.time
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep


REAL_CLOCKS = Clocks()
