"""The router on servers that run several batches at once."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from orchestrator.config import RouterSettings
from orchestrator.policies.registry import policy_names
from orchestrator.router import Router
from orchestrator.snapshot import ServerName
from tests.fakes.servers import NO_TIME_LIMITS, FakeServer, item, served_model

pytestmark = pytest.mark.virtual_time


class ParallelServer(FakeServer):
    """Runs as many batches at once as a width has instances; keeps the most that it held of each width."""

    def __init__(self, instances: dict[int, int]) -> None:
        super().__init__(widths=tuple(instances))
        self.models = tuple(served_model(w, instances=count, max_batch_size=4) for w, count in instances.items())
        self.held = dict.fromkeys(instances, 0)
        self.most_held = dict.fromkeys(instances, 0)
        self._slots = {w: asyncio.Semaphore(count) for w, count in instances.items()}

    async def infer_batch(self, model: Any, batch: Any) -> Any:
        self.held[model.width] += 1
        self.most_held[model.width] = max(self.most_held[model.width], self.held[model.width])
        try:
            async with self._slots[model.width]:
                self._instance = asyncio.Lock()  # one for each batch, so that none waits for another
                return await super().infer_batch(model, batch)
        finally:
            self.held[model.width] -= 1


async def answer_all(policy: str, server: ParallelServer, count: int = 200) -> Router:
    settings = RouterSettings(policy=policy, deadline_ms=10_000, in_flight_groups=2, guard=NO_TIME_LIMITS)
    async with Router(settings, {ServerName("a"): server}) as router:
        answers = await asyncio.gather(*(router.infer(item(n)) for n in range(count)))
        assert [int(answer.output.argmax()) for answer in answers] == [n % 10 for n in range(count)]
        return router


@pytest.mark.parametrize("policy", ["lert:25", "jsq:25"])
async def test_a_width_holds_a_batch_for_each_of_its_instances_and_one_more(policy: str) -> None:
    server = ParallelServer({25: 1, 100: 3})
    await answer_all(policy, server)
    assert server.most_held == {25: 2, 100: 1}  # the wide one from the warm-up


async def test_all_instances_are_kept_busy_and_each_batch_is_observed_at_its_own_length() -> None:
    server = ParallelServer({100: 3})
    router = await answer_all("lert", server)
    assert server.most_held == {100: 4}
    per_item_s, fixed_s = router.inspect().latency.line(ServerName("a"), server.models[0], server.models)
    assert per_item_s == pytest.approx(0.01, rel=0.01)
    assert fixed_s == pytest.approx(0.002, rel=0.05)


@pytest.mark.parametrize("policy", policy_names())
async def test_every_policy_answers_everything(policy: str) -> None:
    server = ParallelServer({25: 2, 50: 1, 100: 2})
    await answer_all(policy, server, count=60)
