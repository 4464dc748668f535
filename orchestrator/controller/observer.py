"""From Triton, its counters and the host's telemetry to one ``HostSnapshot``.

What can't be read is absent, and absent data is never taken for load or calm:

- Triton itself does not answer, or the repository is unusable: there is no snapshot, and so no plan.
- Only the counters can't be read: the snapshot's rates have no window, and a plan does nothing that rests on them.
  What needs no rates (the minimum set, demands, wanted widths, dead stubs, memory over the budget) goes on. Planning
  nothing at all would be simpler, but a host would come up empty beside a metrics port that is closed.
- Only the telemetry can't be read: memory and utilisation are None, and a plan grows nothing without them.

The last good counters are kept through an outage. Counters are cumulative, so the first window after it spans the
outage and shows truly whether a model was idle all along.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from orchestrator.controller.demands import Demands
from orchestrator.controller.ports import ModelControl
from orchestrator.errors import SlimError
from orchestrator.planner.energy import CounterReading, EnergyAccount
from orchestrator.planner.host import HostSnapshot, LoadedModel, ModelSnapshot, ModelStatus, RepositoryModel
from orchestrator.planner.rates import Counters, Rates, measure_rates
from orchestrator.snapshot import ModelName
from orchestrator.telemetry.reading import HostReading, Telemetry

log = logging.getLogger(__name__)

OBSERVE_TIMEOUT_S = 5.0
"""Longest wait for one reading: Triton answers index and config calls on one thread, which a load may hold up."""


@dataclass(frozen=True, slots=True)
class Observation:
    """What one look at the host gave.

    Attributes:
        at_s: When the look was complete, seconds on the controller's clock.
        snapshot: The host; None when Triton could not be observed.
        trouble: What could not be read of Triton, in one line; None when all could.
        reading: What telemetry read; None when it could not be read at all.
        misfits: Why models that look meant for a family are left out, by name.
    """

    at_s: float
    snapshot: HostSnapshot | None
    trouble: str | None
    reading: HostReading | None
    misfits: Mapping[str, str] = field(default_factory=dict)


def follow_energy(account: EnergyAccount, seen: Observation) -> EnergyAccount:
    """Return an account with what was drawn until this look.

    Where Triton was not looked at the next window spans it too. Where only the energy is not known that window is left
    out, because its requests have been counted.
    """
    if seen.snapshot is None or seen.trouble is not None:
        return account
    energy = None if seen.reading is None else seen.reading.energy_j
    if energy is None or energy.value is None:
        return replace(account, last=None)
    counter = CounterReading(energy.source, seen.at_s, energy.value)
    return account.follow(counter, {model.name: model.rates for model in seen.snapshot.models})


class Observer:
    """Looks at one host; remembers the last counters, so that the next ones give rates."""

    def __init__(self, control: ModelControl, telemetry: Telemetry, *, clock: Callable[[], float]) -> None:
        self._control = control
        self._telemetry = telemetry
        self._clock = clock
        self._counted: dict[ModelName, tuple[float, Counters]] = {}
        self._server_id: str | None = None

    async def observe(
        self, *, busy_models: frozenset[ModelName], demands: Demands, with_rates: bool = True
    ) -> Observation:
        """Return what can be seen now; only a failure that nobody expects is raised.

        Without ``with_rates`` the counters are left unread, for whoever must not wait for them.
        """
        reading = await read_host(self._telemetry)
        try:
            models = self._control.repository_models()
            async with asyncio.timeout(OBSERVE_TIMEOUT_S):
                loaded = {model.name: model for model in await self._control.loaded_models()}
        except (SlimError, TimeoutError) as exc:
            return Observation(self._clock(), None, f"Triton can't be observed: {one_line(exc)}", reading)
        self._follow(reading.server_id if reading else None)
        rates, trouble = await self._read_rates() if with_rates else ({}, None)
        now_s = self._clock()
        until_s = demands.at(now_s).until_s
        snapshot = HostSnapshot(
            models=tuple(
                _join(model, loaded.get(model.name), rates, reading, until_s.get(model.name)) for model in models
            ),
            memory_used_bytes=used_bytes(reading),
            utilisation_ratio=reading.utilisation_ratio.value if reading else None,
            server_id=reading.server_id if reading else None,
            busy_models=busy_models,
            overhead_bytes=reading.overhead_bytes if reading else None,
            server_threads=reading.server_threads if reading else None,
        )
        return Observation(now_s, snapshot, trouble, reading, dict(self._control.misfits()))

    def _follow(self, server_id: str | None) -> None:
        """Forget the counters of a Triton that is gone: a new one may already have counted further."""
        if server_id is None:
            return
        if self._server_id not in (None, server_id):
            self._counted.clear()
        self._server_id = server_id

    async def _read_rates(self) -> tuple[Mapping[ModelName, Rates], str | None]:
        try:
            async with asyncio.timeout(OBSERVE_TIMEOUT_S):
                counters = await self._control.counters()
        except (SlimError, TimeoutError) as exc:
            return {}, f"only what needs no rates is done, metrics can't be read: {one_line(exc)}"
        now_s = self._clock()
        rates = {}
        for name, after in counters.items():
            before_s, before = self._counted.get(name, (now_s, None))
            rates[name] = measure_rates(before, after, now_s - before_s)
        # A series that vanished with an unload must not be the start of a window when it comes back from zero.
        self._counted = {name: (now_s, after) for name, after in counters.items()}
        return rates, None


async def read_host(telemetry: Telemetry) -> HostReading | None:
    """Return the host's readings, None when they don't come; telemetry must never stop a controller."""
    try:
        async with asyncio.timeout(OBSERVE_TIMEOUT_S):
            return await telemetry.read()
    except TimeoutError:
        return None
    except Exception:
        log.exception("reading telemetry failed unexpectedly")
        return None


def used_bytes(reading: HostReading | None) -> int | None:
    """Return the memory in use, None when it can't be read."""
    value = reading.memory_used_bytes.value if reading else None
    return None if value is None else int(value)


def one_line(exc: BaseException) -> str:
    """Return what an exception says as one line; of one that says nothing, its name."""
    if isinstance(exc, TimeoutError) and not str(exc):
        return f"no answer within {OBSERVE_TIMEOUT_S:g} s"
    return " ".join(str(exc).split()) or type(exc).__name__


def _join(
    model: RepositoryModel,
    loaded: LoadedModel | None,
    rates: Mapping[ModelName, Rates],
    reading: HostReading | None,
    demanded_until_s: float | None,
) -> ModelSnapshot:
    loaded = loaded or LoadedModel(model.name, ModelStatus.ABSENT)
    is_ready = loaded.status is ModelStatus.READY
    live = reading.live_instances if reading else None
    return ModelSnapshot(
        model=model,
        loaded=loaded,
        rates=rates.get(model.name, Rates()) if is_ready else Rates(),
        live_instances=live.get(model.name, 0) if live is not None and loaded.is_python_based else None,
        # On GPU what a stub holds of the host's memory says nothing of the device's; there are no stubs, though.
        instance_bytes=reading.instance_bytes.get(model.name) if reading and loaded.is_python_based else None,
        demanded_until_s=demanded_until_s,
    )
