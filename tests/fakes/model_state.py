"""What a FakeTriton has of one model."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from orchestrator.planner.host import Batching, LoadedModel, ModelStatus
from orchestrator.snapshot import ModelName
from tests.fakes.traffic import Flow


@dataclass(slots=True)
class ModelState:
    """What the server has of one model."""

    status: ModelStatus = ModelStatus.ABSENT
    reason: str = ""
    alive: list[bool] = field(default_factory=list)
    """Of each instance, the oldest first."""
    batching: Batching = field(default_factory=Batching)
    nonce: str = ""
    is_canonical: bool = True
    flow: Flow = field(default_factory=Flow)
    has_counters: bool = False
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def instances(self) -> int:
        return len(self.alive)

    @property
    def dead(self) -> int:
        return self.alive.count(False)

    def describe(self, name: ModelName, *, is_python_based: bool) -> LoadedModel:
        if self.status is not ModelStatus.READY:
            return LoadedModel(name, self.status, self.reason)
        return LoadedModel(
            name, self.status, "", self.instances, self.batching, self.nonce, self.is_canonical, is_python_based
        )
