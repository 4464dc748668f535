"""A Triton in explicit mode, with its repository and its host, in virtual time.

It stands in for ``orchestrator.triton.control.TritonControl`` behind ``ModelControl``, and its ``telemetry`` for the
host's readings; the contract suite in tests/contract runs on both. What it imitates of Triton 2.51: a change of the
instance count alone is done in place and keeps dead stubs; any other change is a full reload, which holds old and new
in memory at once while the old one serves; a failed change leaves the old one serving, a failed first load nothing;
after the death of a stub a full reload leaves its living siblings behind, in memory and of no use, until the server
ends; changes of one model queue up; a caller that gives up does not stop what the server does; counters survive a
reload, not an unload.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, replace

from orchestrator.errors import ModelNotFoundError, PermanentError, ServerUnavailableError, SlimError
from orchestrator.planner.host import Batching, LoadedModel, ModelStatus, RepositoryModel
from orchestrator.planner.rates import Counters
from orchestrator.snapshot import Family, ModelName, Width
from tests.fakes.host import FakeTelemetry
from tests.fakes.model_state import ModelState
from tests.fakes.servers import ACCURACY
from tests.fakes.traffic import Flow, Traffic

MIB = 2**20
FAR_S = 1e9
Rejects = Callable[[ModelName, int, Batching], str | None]


def repository_model(
    width: int,
    *,
    family: str = "fashion",
    max_batch_size: int = 32,
    instances: int = 1,
    batching: Batching | None = None,
) -> RepositoryModel:
    """Return one width of a small family."""
    return RepositoryModel(
        name=ModelName(f"{family}_w{width:03d}"),
        family=Family(family),
        width=Width(width),
        accuracy=ACCURACY[width],
        max_batch_size=max_batch_size,
        weights_bytes=width * MIB // 100,
        instances=instances,
        batching=batching or Batching(),
    )


@dataclass(slots=True)
class Call:
    """One apply or unload, in the order in which they came.

    Attributes:
        kind: ``load``, ``in-place``, ``reload`` or ``unload``; ``apply`` until it is known which.
        ended_s: None while it runs.
        error: why it failed.
    """

    kind: str
    model: ModelName
    instances: int
    batching: Batching
    nonce: str
    began_s: float
    ended_s: float | None = None
    error: str | None = None


class FakeTriton:
    """See the module.

    Args:
        models: of the repository; ``repository`` may be replaced later.
        clock: such as the loop's ``time``.
        instance_mib: that each instance takes, by width.
        base_mib: that the server takes without any model.
        cpus: that make up a utilisation of 1.

    Durations (``load_s`` and so on), ``leak_bytes`` and the other public attributes may be changed at any time.
    """

    def __init__(
        self,
        models: Iterable[RepositoryModel] | None = None,
        *,
        clock: Callable[[], float],
        instance_mib: Mapping[int, float] | float = 64.0,
        base_mib: float = 100.0,
        cpus: float = 4.0,
    ) -> None:
        self.repository = tuple(models or map(repository_model, (25, 50, 75, 100)))
        self.repository_error: SlimError | None = None
        self.observe_error: SlimError | None = None
        """Raised by loaded_models while it is set."""
        self.metrics_error: SlimError | None = None
        """Raised by counters while it is set."""
        self.load_s = 1.4
        self.in_place_s = 0.2
        """Of adding instances, all at once, or of taking one away."""
        self.reload_s = 1.4
        self.unload_s = 0.3
        self.release_s = 0.0
        """From the end of a reload or unload until the memory of the old one is free."""
        self.leak_bytes = 0
        """Never given back of each unload."""
        self.other_bytes = 0
        """Used by someone else."""
        self.warm_up_requests = 0
        """That each new instance is counted for, in one batch, before anyone has sent it a request."""
        self.keeps_counters = False
        """Of an unloaded model until its next load, which sets them back; Triton may take a moment to drop them."""
        self.is_python_based = True
        self.rejects: Rejects = lambda model, instances, batching: None
        """The reason why a config fails; None lets it pass."""
        self.utilisation_ratio: float | None = None
        """Told instead of what the traffic makes of it."""
        self.is_up = True
        self.closed = False
        self.calls: list[Call] = []
        self.peak_bytes = 0
        self.telemetry = FakeTelemetry(self)
        self.starts = 1
        self.cpus = cpus
        self._clock = clock
        self._instance_mib = instance_mib
        self._base_bytes = int(base_mib * MIB)
        self._leaked_bytes = 0
        self._held: list[tuple[float, int]] = []
        self._traffic: dict[ModelName, Traffic] = {}
        self._failures: dict[ModelName, list[str]] = {}
        self._hanging: set[ModelName] = set()
        self.odd_models: dict[str, str] = {}
        self._models: dict[ModelName, ModelState] = {}
        self._advanced_s = clock()
        self._work: set[asyncio.Task[None]] = set()
        self._note_memory()

    def repository_models(self) -> tuple[RepositoryModel, ...]:
        if self.repository_error is not None:
            raise self.repository_error
        return self.repository

    def misfits(self) -> Mapping[str, str]:
        return self.odd_models

    async def loaded_models(self) -> tuple[LoadedModel, ...]:
        await asyncio.sleep(0)
        self._require_up()
        if self.observe_error is not None:
            raise self.observe_error
        models = ((entry.name, self._models.get(entry.name, ModelState())) for entry in self.repository)
        return tuple(model.describe(name, is_python_based=self.is_python_based) for name, model in models)

    async def counters(self) -> Mapping[ModelName, Counters]:
        await asyncio.sleep(0)
        self._require_up()
        if self.metrics_error is not None:
            raise self.metrics_error
        self._advance()
        return {name: m.flow.counters() for name, m in self._models.items() if m.has_counters}

    async def apply(self, model: ModelName, *, instances: int, batching: Batching, nonce: str) -> None:
        if any(m.name == model and batching.preferred_sizes == (m.max_batch_size,) for m in self.repository):
            batching = replace(batching, preferred_sizes=())  # Triton can't tell the two apart
        call = Call("apply", model, instances, batching, nonce, self._clock())
        await self._run(call, lambda: self._apply(call))

    async def unload(self, model: ModelName) -> None:
        call = Call("unload", model, 0, Batching(), "", self._clock())
        await self._run(call, lambda: self._unload(call))

    async def close(self) -> None:
        self.closed = True

    def set_traffic(self, model: ModelName, traffic: Traffic | None) -> None:
        """Let requests arrive from now on; None ends them."""
        self._advance()
        self._traffic[model] = traffic or Traffic()

    def serve(self, model: ModelName, requests: int, *, failures: int = 0, service_s: float = 0.01) -> None:
        """Answer so many requests at once, each a batch of its own."""
        self._advance()
        flow = self._models[model].flow
        flow.add(requests=requests, items=requests, executions=requests, service_s=requests * service_s)
        flow.add(failures=failures)

    def run(self, model: ModelName, *, items: int, waited_s: float, took_s: float) -> None:
        """Count one request that has been answered, a batch of its own."""
        flow = self._models[model].flow
        flow.add(requests=1, items=items, executions=1, queue_s=waited_s, service_s=took_s)

    def fail_next(self, model: ModelName, reason: str, *, times: int = 1) -> None:
        """Let the next loads or changes of a model fail."""
        self._failures.setdefault(model, []).extend([reason] * times)

    def hang(self, model: ModelName) -> None:
        """Let the next load or change of a model never end; a restart of the server clears it."""
        self._hanging.add(model)

    def kill_stub(self, model: ModelName, *, index: int = -1) -> None:
        """Let one instance's process die; the model stays READY and that instance's share of answers are errors.

        By default the newest, which a smaller count in place does not take away: Triton takes the oldest.
        """
        self._advance()
        self._models[model].alive[index] = False

    def drift(self, model: ModelName) -> None:
        """Let a model run with something else than its files say, as after a load by hand."""
        self._models[model].is_canonical = False

    def preload(self, *models: ModelName) -> None:
        """Have models loaded from their files at once, as ``--load-model`` does."""
        self._advance()
        for name in models:
            found = self._find(name)
            self._models[name] = ModelState(
                ModelStatus.READY, "", [True] * found.instances, found.batching, has_counters=True
            )
        self._note_memory()

    def kill(self) -> None:
        """End the server with all that it holds; calls under way fail."""
        self._advance()
        self.is_up = False
        self._models.clear()
        self._held.clear()
        self._hanging.clear()
        self._leaked_bytes = 0
        for work in self._work:
            work.cancel()

    def restart(self, *models: ModelName) -> None:
        """Start the server anew, with models loaded from their files; ends the running one first."""
        self.kill()
        self.is_up = True
        self.starts += 1
        self.preload(*models)

    def live_instances(self) -> dict[str, int]:
        """Return the stub processes alive that serve, by model; one without any is not in it."""
        return {name: m.instances - m.dead for name, m in self._models.items() if m.instances > m.dead}

    def largest_instances(self) -> dict[str, int]:
        """Return what one instance takes, by model; of those that have one alive."""
        return {name: self._instance_bytes(ModelName(name)) for name in self.live_instances()}

    def overhead_bytes(self) -> int:
        """Return what no instance that serves holds."""
        live = self.live_instances()
        return self.memory_bytes() - sum(n * self._instance_bytes(ModelName(name)) for name, n in live.items())

    def memory_bytes(self) -> int:
        """Return what the server and ``other_bytes`` use now."""
        now_s = self._clock()
        self._held = [(until_s, held) for until_s, held in self._held if until_s > now_s]
        models = sum(m.instances * self._instance_bytes(name) for name, m in self._models.items())
        own = self._base_bytes + self._leaked_bytes + models + sum(held for _, held in self._held)
        return self.other_bytes + (own if self.is_up else 0)

    def busy_ratio(self) -> float:
        """Return the utilisation."""
        if self.utilisation_ratio is not None:
            return self.utilisation_ratio
        busy = 0.0
        for name, model in self._models.items():
            traffic = self._traffic.get(name, Traffic())
            wanted = traffic.requests_per_s * traffic.service_s / traffic.batch
            live = model.instances - model.dead
            busy += live if model.flow.backlog else min(live, wanted)
        return min(1.0, busy / self.cpus)

    async def _run(self, call: Call, work: Callable[[], Awaitable[None]]) -> None:
        """Do the work as a task of the server's own: the caller's cancellation does not end it."""
        self.calls.append(call)

        async def queue_up() -> None:
            try:
                self._require_up()
                found = self._find(call.model)
                async with self._models.setdefault(found.name, ModelState()).lock:
                    await work()
            except asyncio.CancelledError:
                call.error = "the server was killed"
                raise ServerUnavailableError("Triton at fake: Socket closed") from None
            except SlimError as exc:
                call.error = str(exc)
                raise
            finally:
                call.ended_s = self._clock()

        task = asyncio.ensure_future(queue_up())
        self._work.add(task)
        task.add_done_callback(self._work.discard)
        task.add_done_callback(lambda done: done.cancelled() or done.exception())
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            if task.cancelled():  # the server was killed before it had begun
                raise ServerUnavailableError("Triton at fake: Socket closed") from None
            raise

    async def _apply(self, call: Call) -> None:
        model = self._models[call.model]
        is_ready = model.status is ModelStatus.READY
        is_same = (model.batching, model.nonce, model.is_canonical) == (call.batching, call.nonce, True)
        call.kind = "load" if not is_ready else "in-place" if is_same else "reload"
        reason = self._reason_to_fail(call)
        if not is_ready:
            model.status, model.reason = ModelStatus.LOADING, ""
        if call.model in self._hanging:
            self._hanging.discard(call.model)
            await asyncio.sleep(FAR_S)
        added = call.instances if call.kind != "in-place" else max(0, call.instances - model.instances)
        loading = (FAR_S, added * self._instance_bytes(call.model))
        self._held.append(loading)
        self._note_memory()
        await asyncio.sleep(self._duration_s(call, model))
        self._held.remove(loading)
        self._advance()
        if reason is not None:
            if not is_ready:
                model.status, model.reason = ModelStatus.FAILED, reason
            raise PermanentError(f"Triton at fake: load failed for model '{call.model}': {reason}")
        if call.kind == "in-place":
            self._warm_up(model, call.instances - model.instances)
            model.alive.extend([True] * (call.instances - model.instances))
            del model.alive[: model.instances - call.instances]  # the oldest go
        else:
            released = model.instances * self._instance_bytes(call.model)
            if call.kind == "load":
                model.flow, model.has_counters = Flow(), True
            self._warm_up(model, call.instances)
            if model.dead:
                orphans = (model.instances - model.dead) * self._instance_bytes(call.model)
                self._held.append((FAR_S, orphans))
                released -= orphans
            model.alive = [True] * call.instances
            self._hold(released, self.release_s)
        model.status, model.reason, model.is_canonical = ModelStatus.READY, "", True
        model.batching, model.nonce = call.batching, call.nonce
        self._note_memory()

    async def _unload(self, call: Call) -> None:
        model = self._models[call.model]
        if model.status in (ModelStatus.ABSENT, ModelStatus.FAILED):
            return  # Triton says yes and clears nothing
        model.status = ModelStatus.UNLOADING
        await asyncio.sleep(self.unload_s)
        self._advance()
        released = model.instances * self._instance_bytes(call.model)
        self._leaked_bytes += self.leak_bytes
        self._models[call.model] = ModelState(flow=model.flow, has_counters=self.keeps_counters, lock=model.lock)
        self._hold(released, self.release_s)

    def _warm_up(self, model: ModelState, instances: int) -> None:
        if self.warm_up_requests and instances > 0:
            requests = self.warm_up_requests * instances
            # A batch adds its duration once for each of its requests.
            model.flow.add(requests=requests, items=requests, executions=instances, service_s=requests * 0.01)

    def _hold(self, amount: int, seconds: float) -> None:
        if amount and seconds > 0:
            self._held.append((self._clock() + seconds, amount))
        self._note_memory()

    def _reason_to_fail(self, call: Call) -> str | None:
        scripted = self._failures.get(call.model)
        return scripted.pop(0) if scripted else self.rejects(call.model, call.instances, call.batching)

    def _duration_s(self, call: Call, model: ModelState) -> float:
        if call.kind == "in-place":
            return self.in_place_s * max(1, model.instances - call.instances)
        return self.load_s if call.kind == "load" else self.reload_s

    def _advance(self) -> None:
        """Let the time since the last call pass for the counters; to be called before anything changes."""
        now_s = self._clock()
        passed_s, self._advanced_s = now_s - self._advanced_s, now_s
        if passed_s <= 0:
            return
        for name, model in self._models.items():
            if model.status is ModelStatus.READY:
                model.flow.advance(self._traffic.get(name, Traffic()), model.instances, model.dead, passed_s)

    def _find(self, name: ModelName) -> RepositoryModel:
        for model in self.repository:
            if model.name == name:
                return model
        raise ModelNotFoundError(f"the repository has no model {name!r}")

    def _instance_bytes(self, name: ModelName) -> int:
        if isinstance(self._instance_mib, Mapping):
            return int(self._instance_mib[self._find(name).width] * MIB)
        return int(self._instance_mib * MIB)

    def _note_memory(self) -> None:
        self.peak_bytes = max(self.peak_bytes, self.memory_bytes())

    def _require_up(self) -> None:
        if not self.is_up:
            raise ServerUnavailableError("Triton at fake: failed to connect", executed=False)
