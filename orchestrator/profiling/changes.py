"""How long loads, unloads, reloads and changes of the instance count take, and what an instance weighs.

One cycle takes a model through all of them and brings it back to how it ran. That is written down before the first
change, so that the next campaign brings back what a killed one has left.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Protocol

from orchestrator.errors import ConfigError, SlimError
from orchestrator.planner.host import Batching, LoadedModel
from orchestrator.profiling.probe import Clock
from orchestrator.profiling.records import Before, Cycle
from orchestrator.snapshot import ModelName
from orchestrator.telemetry import HostReading, Telemetry

SETTLE_S = 0.3
"""Until memory is read: what an old instance held is given back some time after its unload returns."""


class Control(Protocol):
    """A Triton that loads and unloads for us; TritonControl is the real one."""

    async def loaded_models(self) -> tuple[LoadedModel, ...]:
        """Return what every model of the repository is in Triton."""

    async def apply(self, model: ModelName, *, instances: int, batching: Batching, nonce: str) -> None:
        """Load or change a model and return once it serves so."""

    async def unload(self, model: ModelName) -> None:
        """Unload a model and return once it is gone."""


def describe_before(model: LoadedModel, *, server: str) -> Before:
    """Return how a model runs; raises ConfigError when it does not run."""
    if model.instances < 1:
        raise ConfigError(f"model {model.name} on {server} is {model.status.value}; load it, or leave out --control")
    return Before(model.instances, model.batching.preferred_sizes, model.batching.delay_us, model.nonce)


async def measure_cycle(
    control: Control,
    telemetry: Telemetry,
    name: ModelName,
    before: Before,
    *,
    tag: str,
    clock: Clock,
    on_restored: Callable[[], None],
) -> Cycle:
    """Take a model through every change and back; return what each took.

    It runs as ``before`` again in the end, also when this fails; then ``on_restored`` is called. The ``tag`` is a text
    unlike those of other cycles, because only a config that differs is a reload.

    Raises:
        SlimError: when Triton fails a change.
    """
    batching = Batching(before.preferred_sizes, before.delay_us)

    async def apply(instances: int, nonce: str) -> None:
        await control.apply(name, instances=instances, batching=batching, nonce=nonce)

    try:
        unload_s = await _timed(control.unload(name), clock)
        load_s = await _timed(apply(1, f"{tag}-a"), clock)
        one = await _read_settled(telemetry)
        scale_up_s = await _timed(apply(2, f"{tag}-a"), clock)
        two = await _read_settled(telemetry)
        scale_down_s = await _timed(apply(1, f"{tag}-a"), clock)
        reload_s = await _timed(apply(1, f"{tag}-b"), clock)
    finally:
        await restore(control, name, before)
        on_restored()
    return Cycle(load_s, unload_s, reload_s, scale_up_s, scale_down_s, *_instance_memory(name, one, two))


async def restore(control: Control, name: ModelName, before: Before) -> None:
    """Let a model run as it did before; raises SlimError when Triton does not; it says how the model ran."""
    batching = Batching(before.preferred_sizes, before.delay_us)
    try:
        await control.apply(name, instances=before.instances, batching=batching, nonce=before.nonce)
    except SlimError as exc:
        raise type(exc)(f"{exc}; before the measurement {name} ran with {before.instances} instance(s)") from exc


async def _timed(change: Awaitable[None], clock: Clock) -> float:
    began_s = clock()
    await change
    return clock() - began_s


async def _read_settled(telemetry: Telemetry) -> HostReading:
    await asyncio.sleep(SETTLE_S)
    return await telemetry.read()


def _instance_memory(name: ModelName, one: HostReading, two: HostReading) -> tuple[int | None, str, str]:
    """Return the bytes that an instance holds (of the stub that it is, else what the second one added), source, reason.

    The source is ``none`` where the bytes are None, and then there is a reason.
    """
    stub_bytes = two.instance_bytes.get(name)
    if stub_bytes is not None:
        return stub_bytes, "private memory of its process", ""
    first, second = one.memory_used_bytes, two.memory_used_bytes
    if first.value is None or second.value is None:
        return None, "none", first.reason or second.reason
    added_bytes = round(second.value - first.value)
    if added_bytes <= 0:
        return None, "none", "a second instance added nothing that could be seen"
    return added_bytes, f"what a second instance added ({second.source})", ""
