"""Servers and hosts of campaigns in virtual time."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

from orchestrator.profiling.campaign import Progress, Subject
from orchestrator.profiling.sampling import Sampling
from orchestrator.snapshot import ServedModel, ServerName
from orchestrator.telemetry import HostReading, Reading
from orchestrator.triton.infer_wire import Tensors
from tests.fakes.servers import FakeServer
from tests.profile.profiles import SHA256

A, B = ServerName("a"), ServerName("b")
QUICK = Sampling(
    visit_requests=3, warm_up_requests=1, min_visits=2, min_requests=6, max_requests=12, idle_window_s=2.0, cycles=2
)


class ProfiledFake(FakeServer):
    """A fake server that has a version, draws power, and can be pulled the plug after some requests."""

    def __init__(self, *args: Any, requests_left: int | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.models = tuple(replace(model, sha256=SHA256) for model in self.models)
        self.requests_left = requests_left
        self.busy_s = 0.0

    async def version(self) -> str:
        return "2.51.0"

    async def infer_batch(self, model: ServedModel, batch: Tensors) -> Tensors:
        if self.requests_left is not None:
            if self.requests_left == 0:
                raise asyncio.CancelledError
            self.requests_left -= 1
        answer = await super().infer_batch(model, batch)
        self.busy_s += self.service_s(model.width, len(batch[0]))
        return answer


class FakeCounter:
    """Joules of a host that draws ``idle_w`` and, while its server runs, ``busy_w``."""

    def __init__(self, server: ProfiledFake, *, idle_w: float, busy_w: float, source: str = "rapl") -> None:
        self._server = server
        self._idle_w, self._busy_w = idle_w, busy_w
        self._source = source
        self.reads = 0

    async def read(self) -> HostReading:
        self.reads += 1
        energy_j = (
            self._idle_w * asyncio.get_running_loop().time() + (self._busy_w - self._idle_w) * self._server.busy_s
        )
        nothing = Reading.absent("not read")
        return HostReading(nothing, nothing, nothing, nothing, Reading(energy_j, self._source))

    async def close(self) -> None:
        pass


def subject(name: ServerName, server: ProfiledFake, **changes: Any) -> Subject:
    return replace(Subject(name, server, server.models, None), **changes)


def silent(progress: Progress) -> None:
    pass
