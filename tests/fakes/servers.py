"""A server that answers in virtual time, and can be made to fail.

It stands in for ``orchestrator.triton.client.TritonClient`` behind the same protocol; the contract suite in
tests/contract runs on both.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from orchestrator.config import GuardSettings
from orchestrator.errors import ModelNotFoundError, PermanentError, ServerUnavailableError, SlimError
from orchestrator.snapshot import Family, ModelName, ServedModel, TensorSpec, Width
from orchestrator.triton.infer_wire import Tensors

ACCURACY = {25: 0.905, 50: 0.917, 75: 0.924, 100: 0.928}
FLOPS = {25: 3_000_000, 50: 12_000_000, 75: 26_000_000, 100: 45_000_000}
CLASSES = 10
NO_TIME_LIMITS = GuardSettings(policy_time_budget_ms=None, stale_after_s=1e9)
"""Of policies: what one takes on a busy machine, and how long that hears nothing of a server, is real time, which has
no place in a test."""


def served_model(
    width: int,
    *,
    family: str = "fashion",
    instances: int = 1,
    max_batch_size: int = 32,
    shape: Sequence[int] = (1, 2, 2),
) -> ServedModel:
    """Return one width of a small family."""
    return ServedModel(
        name=ModelName(f"{family}_w{width:03d}"),
        family=Family(family),
        width=Width(width),
        accuracy=ACCURACY[width],
        flops=FLOPS[width],
        max_batch_size=max_batch_size,
        instances=instances,
        sha256=f"sha-{width}",
        inputs=(TensorSpec("pixels", "FP32", tuple(shape)),),
        outputs=(TensorSpec("logits", "FP32", (CLASSES,)),),
        labels=tuple(f"class {index}" for index in range(CLASSES)),
    )


class FakeServer:
    """Runs batches one after another; a batch of n at width w takes speed · (w/100)² · n + overhead seconds.

    The score of class k for an item is its first pixel where k equals the pixel's value, so a test can tell which
    item an answer belongs to. ``failures`` are raised by the next calls, one each, before they are executed.
    """

    def __init__(
        self,
        widths: Sequence[int] = (25, 50, 75, 100),
        *,
        per_item_s: float = 0.01,
        fixed_s: float = 0.002,
        **model: Any,
    ) -> None:
        self.models = tuple(served_model(w, **model) for w in widths)
        self.per_item_s = per_item_s
        self.fixed_s = fixed_s
        self.is_up = True
        self.failures: list[SlimError | Exception] = []
        self.batches: list[tuple[int, int]] = []
        self.traced: list[tuple[str, str]] = []
        self.closed = False
        self.in_flight = 0
        self._instance = asyncio.Lock()

    async def served_models(self) -> tuple[ServedModel, ...]:
        await asyncio.sleep(0)
        self._require_up()
        return self.models

    async def infer_batch(
        self, model: ServedModel, batch: Tensors, *, metadata: tuple[tuple[str, str], ...] = ()
    ) -> Tensors:
        self.traced += metadata
        self._require_up()
        if model.name not in {served.name for served in self.models}:
            raise ModelNotFoundError(f"unknown model {model.name}")
        (pixels,) = batch
        if pixels.shape[1:] != model.inputs[0].shape:
            raise PermanentError(f"unexpected shape {pixels.shape}")
        if self.failures:
            raise self.failures.pop(0)
        self.in_flight += 1
        try:
            async with self._instance:
                await asyncio.sleep(self.service_s(model.width, len(pixels)))
                self._require_up(executed=True)
        finally:
            self.in_flight -= 1
        self.batches.append((model.width, len(pixels)))
        scores = np.zeros((len(pixels), CLASSES), np.float32)
        marks = pixels.reshape(len(pixels), -1)[:, 0]
        scores[np.arange(len(pixels)), marks.astype(int) % CLASSES] = marks + 1
        return (scores,)

    @asynccontextmanager
    async def busy(self) -> AsyncIterator[None]:
        """Let what comes meanwhile wait."""
        async with self._instance:
            yield

    async def close(self, *, drain_s: float = 0.0) -> None:
        self.closed = True

    def service_s(self, width: int, items: int) -> float:
        """Return how long a batch takes, without waiting."""
        return self.per_item_s * (width / 100) ** 2 * items + self.fixed_s

    def _require_up(self, *, executed: bool = False) -> None:
        if not self.is_up:
            raise ServerUnavailableError("connection refused", executed=executed)


def item(mark: int) -> NDArray[np.float32]:
    """Return an item for ``served_model``'s input that an answer can be matched with."""
    return np.full((1, 2, 2), mark, np.float32)
