"""What a model is taken for when it is tried: for what it takes, not for a stall that came with it."""

from __future__ import annotations

import pytest

from orchestrator.config import RouterSettings
from orchestrator.router import Router
from orchestrator.snapshot import ServerName
from tests.fakes.servers import NO_TIME_LIMITS, FakeServer, item

pytestmark = pytest.mark.virtual_time

A, B = ServerName("a"), ServerName("b")
SETTINGS = RouterSettings(policy="lert:100", guard=NO_TIME_LIMITS)


class Stalling(FakeServer):
    """Takes a second longer for the batch of that number."""

    def __init__(self, stalls_at: int) -> None:
        super().__init__((100,), per_item_s=0.001, fixed_s=0.002)
        self.stalls_at = stalls_at

    def service_s(self, width: int, items: int) -> float:
        """Return how long a batch takes, without waiting."""
        return super().service_s(width, items) + (1.0 if len(self.batches) == self.stalls_at else 0.0)


@pytest.mark.parametrize("stalls_at", range(6))
async def test_a_server_that_stalls_while_it_is_tried_is_not_taken_for_slow(stalls_at: int) -> None:
    stalling = Stalling(stalls_at)
    async with Router(SETTINGS, {A: stalling, B: FakeServer((100,), per_item_s=0.002, fixed_s=0.004)}) as router:
        while len(router.inspect().latency.fits) < 2:
            await router.infer(item(1))
        (model,) = (model for model in router.models() if model.width == 100)
        assert router.inspect().latency.line(A, model, (model,)) == pytest.approx((0.001, 0.002))
        tried = len(stalling.batches)
        assert tried >= 6
        for mark in range(5):
            await router.infer(item(mark))
        assert len(stalling.batches) == tried + 5
