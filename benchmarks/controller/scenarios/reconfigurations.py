"""Hundreds of changes of every kind under constant load: no request may fail, no memory may be lost unseen.

The changes go through the real control adapter, in a seeded random order; the load goes to the widths that are never
unloaded. What memory does is booked as the daemon books it: a settled reading before and after each change, recorded
in a ``SchedulerState``.
"""

from __future__ import annotations

import asyncio
import resource
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median

from benchmarks.controller.load import Answers, Stream, closed_loops
from benchmarks.controller.results import KindStatistics, MemoryAt, Reconfigurations
from benchmarks.controller.scenarios.changes import Change, ChangeKind, draw_changes
from benchmarks.controller.testbed import Testbed, open_testbed
from benchmarks.harness.command import Say
from orchestrator.errors import PermanentError, SlimError
from orchestrator.planner.actions import Action, ActionKind, ActionReason, Outcome
from orchestrator.planner.host import Limits
from orchestrator.planner.state import SchedulerState
from orchestrator.snapshot import ModelName

EACH, WARM_UP_EACH = 50, 10
"""Changes of each kind, and how many of them come before memory is judged."""
SEED = 3
LOOPS = 8
STEADY = 2
"""So many of the widths, the narrowest, are never unloaded and carry the load."""
WARM_UP_S = 5.0
SETTLE_S, SETTLE_INTERVAL_S = 1.0, 0.1
SETTLED_BYTES = 1 << 20
FRESH_LOADS = 5
LEAVE_TIMEOUT_S = 20.0
MIB = 1 << 20
PROGRESS_EVERY = 50

_ACTIONS = {
    ChangeKind.SCALE_UP: ActionKind.SCALE_UP,
    ChangeKind.SCALE_DOWN: ActionKind.SCALE_DOWN,
    ChangeKind.BATCHING: ActionKind.RELOAD,
    ChangeKind.NONCE: ActionKind.RELOAD,
    ChangeKind.LOAD: ActionKind.LOAD,
    ChangeKind.UNLOAD: ActionKind.UNLOAD,
}


async def run_reconfigurations(repository: Path, folder: Path, say: Say) -> Reconfigurations:
    """Return the raw numbers; see the module."""
    async with open_testbed(repository, folder) as testbed:
        steady, loose = testbed.models[:STEADY], testbed.models[STEADY:]
        for model in steady:
            await testbed.set_instances(model, 1)
        warm_up = draw_changes(steady, loose, dict.fromkeys(ChangeKind, WARM_UP_EACH), seed=SEED)
        changes = draw_changes(steady, loose, dict.fromkeys(ChangeKind, EACH - WARM_UP_EACH), seed=SEED + 1)
        streams = [Stream(model, LOOPS // STEADY) for model in steady]
        async with closed_loops(testbed.grpc_address, streams) as answers:
            await asyncio.sleep(WARM_UP_S)
            changer = _Changer(testbed, dict.fromkeys(map(str, steady), 1), answers, say)
            began_s = time.monotonic()
            cold_bytes = await changer.measure_fresh("cold")
            server_bytes = [changer.read_server()]
            await changer.make_all(warm_up)
            fresh_bytes = [await changer.measure_fresh(f"start-{number}") for number in range(FRESH_LOADS)]
            server_bytes.append(changer.read_server())
            say(f"{FRESH_LOADS} fresh loads take {', '.join(f'{each / MIB:.1f}' for each in fresh_bytes)} MiB")
            changer.forget_residue()
            await changer.make_all(changes)
            end_bytes = await changer.measure_fresh("end")
            server_bytes.append(changer.read_server())
            took_s = time.monotonic() - began_s
    return Reconfigurations(
        seed=SEED,
        concurrency=LOOPS,
        kinds=changer.statistics(),
        took_s=took_s,
        failed_changes=tuple(changer.failures),
        answered=answers.answered,
        failed=answers.failed,
        failure_examples=tuple(answers.examples),
        warm_up_changes=len(warm_up),
        cold_bytes=cold_bytes,
        start_bytes=int(median(fresh_bytes)),
        end_bytes=end_bytes,
        noise_bytes=max(fresh_bytes) - min(fresh_bytes),
        fresh_loads=FRESH_LOADS,
        server_bytes=(server_bytes[0], server_bytes[1], server_bytes[2]),
        residue_bytes=changer.state.memory.residue_bytes,
        memory=tuple(changer.memory),
    )


@dataclass(slots=True)
class _Changer:
    testbed: Testbed
    home: dict[str, int]
    answers: Answers
    say: Say
    instances: dict[str, int] = field(default_factory=dict)
    made: int = 0
    state: SchedulerState = field(default_factory=SchedulerState)
    took_s: dict[ChangeKind, list[float]] = field(default_factory=lambda: defaultdict(list))
    failures: list[str] = field(default_factory=list)
    memory: list[MemoryAt] = field(default_factory=list)
    nonces: dict[str, str] = field(default_factory=dict)
    limits: Limits = field(default_factory=lambda: Limits(memory_budget_bytes=0, minimum=()))

    async def make_all(self, changes: Sequence[Change]) -> None:
        """Make changes that begin and end at home."""
        self.instances = dict(self.home)
        for change in changes:
            await self.make(change)
            self.made += 1
            if self.made % PROGRESS_EVERY == 0:
                self.say(f"{self.made} changes; {self.answers.answered:,} answered, {self.answers.failed} failed")

    def forget_residue(self) -> None:
        """Begin the ledger's residue anew; what was learned of sizes stays."""
        memory = replace(self.state.memory, balance_bytes=0, entries=(), first_overhead_bytes=None)
        self.state = replace(self.state, memory=memory)
        self.note_overhead()

    def note_overhead(self) -> None:
        """Let the ledger see what the server holds beside its instances, as the daemon does between changes."""
        self.state = replace(self.state, memory=self.state.memory.observe({}, self.read_server()))

    async def make(self, change: Change) -> None:
        """Make one change and book what memory did."""
        if change.kind is ChangeKind.NONCE:
            self.nonces[change.model] = f"bench-{self.made}"
        before = await self._read()
        began_s, error = time.monotonic(), None
        try:
            await self._apply(change)
        except SlimError as exc:
            error = str(exc)
            self.failures.append(f"{change.kind} of {change.model}: {error}")
        ended_s = time.monotonic()
        self.took_s[change.kind].append(ended_s - began_s)
        self.instances[change.model] = change.instances
        after = await self._settle()
        action = Action(
            _ACTIONS[change.kind],
            ModelName(change.model),
            ActionReason.WANTED,
            instances=change.instances,
            batching=change.batching,
            is_forced=change.kind is ChangeKind.NONCE,
        )
        outcome = Outcome(action, began_s, ended_s, error, before, after, change.instances_before)
        self.state = self.state.record(outcome, self.limits)
        self.note_overhead()
        if change.is_home:
            self.memory.append(MemoryAt(self.made + 1, after))

    async def measure_fresh(self, nonce: str) -> int:
        """Load the home configuration anew, with the batching of its files, and return the memory that it takes."""
        for found in self.testbed.control.repository_models():
            if found.name in self.home:
                self.nonces[found.name] = nonce
                await self.testbed.control.apply(found.name, instances=1, batching=found.batching, nonce=nonce)
        if not await self.testbed.wait_settled(sum(self.home.values()), timeout_s=LEAVE_TIMEOUT_S):
            alive = self.testbed.count_stubs()
            raise PermanentError(f"stubs of old versions have not left within {LEAVE_TIMEOUT_S:g} s; {alive} live")
        await asyncio.sleep(SETTLE_S)
        used_bytes, _ = await self.testbed.measure_memory()
        self.note_overhead()
        return used_bytes

    def read_server(self) -> int:
        """Return the private memory of tritonserver itself, as the sum over it and its stubs counts it."""
        _, resident, shared, *_ = (Path("/proc") / str(self.testbed.server.pid) / "statm").read_text().split()
        return (int(resident) - int(shared)) * resource.getpagesize()

    def statistics(self) -> tuple[KindStatistics, ...]:
        return tuple(
            KindStatistics(kind.value, len(took_s), sum(took_s) / len(took_s), max(took_s))
            for kind in ChangeKind
            if (took_s := self.took_s[kind])
        )

    async def _apply(self, change: Change) -> None:
        control, model = self.testbed.control, ModelName(change.model)
        if change.kind is ChangeKind.UNLOAD:
            await control.unload(model)
            return
        nonce = self.nonces.get(change.model, "")
        await control.apply(model, instances=change.instances, batching=change.batching, nonce=nonce)

    async def _settle(self) -> int:
        """Return the memory in use once the stubs of old versions have left and two readings agree.

        The daemon goes by the readings alone, and its changes lie seconds apart. Here one follows the other, and a
        reading that holds a stub of the change before would be booked on this one.
        """
        await self.testbed.wait_settled(sum(self.instances.values()), timeout_s=LEAVE_TIMEOUT_S)
        ends_s = time.monotonic() + SETTLE_S
        last = await self._read()
        while time.monotonic() < ends_s:
            await asyncio.sleep(SETTLE_INTERVAL_S)
            now = await self._read()
            if abs(now - last) < SETTLED_BYTES:
                return now
            last = now
        return last

    async def _read(self) -> int:
        return await asyncio.to_thread(self.testbed.read_memory)
