"""A server in virtual time that answers with what its controller has loaded: the requests' side of a FakeTriton."""

from __future__ import annotations

import asyncio

from orchestrator.snapshot import ServedModel
from orchestrator.triton.infer_wire import Tensors
from tests.fakes.control import FakeTriton
from tests.fakes.servers import FakeServer, served_model


class HostedServer(FakeServer):
    """Serves the models that ``triton`` has ready, one batch after another, and has it count what ran."""

    def __init__(self, triton: FakeTriton, *, per_item_s: float, fixed_s: float) -> None:
        super().__init__((), per_item_s=per_item_s, fixed_s=fixed_s)
        self._triton = triton

    async def served_models(self) -> tuple[ServedModel, ...]:
        self._follow()
        return await super().served_models()

    async def infer_batch(self, model: ServedModel, batch: Tensors) -> Tensors:
        self._follow()
        came_s, takes_s = asyncio.get_running_loop().time(), self.service_s(model.width, len(batch[0]))
        outputs = await super().infer_batch(model, batch)
        waited_s = asyncio.get_running_loop().time() - came_s - takes_s
        self._triton.run(model.name, items=len(batch[0]), waited_s=waited_s, took_s=takes_s)
        return outputs

    def _follow(self) -> None:
        instances = self._triton.live_instances()
        self.models = tuple(
            served_model(m.width, family=m.family, instances=instances[m.name])
            for m in self._triton.repository_models()
            if m.name in instances
        )
