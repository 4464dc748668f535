"""What a campaign needs of the world; the adapters and the tests' fakes stand behind these."""

from __future__ import annotations

from typing import Protocol

from orchestrator.planner.host import Batching, LoadedModel
from orchestrator.router.servers.connection import ServerClient
from orchestrator.snapshot import ModelName
from orchestrator.telemetry import HostReading


class ProfiledServer(ServerClient, Protocol):
    """A server that batches are sent to; TritonClient is the real one."""

    async def version(self) -> str:
        """Return the version of its Triton; raises SlimError."""
        ...


class Telemetry(Protocol):
    """Readings of a server's host."""

    async def read(self) -> HostReading:
        """Return what can be read now; never raises."""
        ...

    async def close(self) -> None:
        """Let go of it."""
        ...


class Control(Protocol):
    """A Triton that loads and unloads for us; TritonControl is the real one."""

    async def loaded_models(self) -> tuple[LoadedModel, ...]:
        """Return what every model of the repository is in Triton."""
        ...

    async def apply(self, model: ModelName, *, instances: int, batching: Batching, nonce: str) -> None:
        """Load or change a model and return once it serves so."""
        ...

    async def unload(self, model: ModelName) -> None:
        """Unload a model and return once it is gone."""
        ...

    async def close(self) -> None:
        """Let go of it."""
        ...
