"""kill -9 of Triton, of a stub and of the daemon, each under load: is the plan there again without a hand?

A killed Triton and a killed daemon are started again at once, empty, as an init system would; a stub is nobody's but
the daemon's. Whether the plan is there again is read from Triton and its processes, and from the load: it is not while
requests still fail.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from benchmarks.controller.daemon import Daemon, run_daemon
from benchmarks.controller.load import Answers, Stream, closed_loops
from benchmarks.controller.results import Kill, Kills
from benchmarks.controller.testbed import Testbed, open_testbed
from benchmarks.harness.command import Say
from orchestrator.config import ControllerSettings
from orchestrator.errors import PermanentError, SlimError
from orchestrator.processes.process_table import read_command_line
from orchestrator.snapshot import ModelName

TIMES = 3
LOOPS, BATCH = 8, 64
CONVERGE_TIMEOUT_S = 30.0
BACK_TIMEOUT_S = 45.0
REST_S = 2.0
"""Between two kills: the daemon has seen that all is well."""
LOADING_TIMEOUT_S = 5.0
QUIET_S = 1.0
"""Without a failed request, before all is called well; it does not count into the time."""
POLL_S = 0.05
LEAVE_TIMEOUT_S = 5.0


async def run_kills(repository: Path, folder: Path, say: Say) -> Kills:
    """Return the raw numbers; see the module."""
    async with open_testbed(repository, folder) as testbed:
        widest = testbed.models[-1]
        plan = {**dict.fromkeys(map(str, testbed.models), 1), str(widest): 2}
        fleet = testbed.write_fleet(ControllerSettings(idle_s=10.0))
        async with (
            run_daemon(fleet, testbed.controller_address) as daemon,
            closed_loops(testbed.grpc_address, [Stream(widest, LOOPS, BATCH)]) as answers,
        ):
            if await testbed.wait_for_plan(plan, timeout_s=CONVERGE_TIMEOUT_S) is None:
                raise PermanentError(
                    f"the daemon has not come to {plan} under load; it has {await testbed.instances()}"
                )
            killer = _Killer(testbed, daemon, answers, plan, say)
            kills = []
            for kill in (killer.kill_triton, killer.kill_stub, killer.kill_daemon):
                for _ in range(TIMES):
                    await asyncio.sleep(REST_S)
                    kills.append(await kill())
    return Kills(plan, tuple(kills), answers.answered, answers.failed)


@dataclass(frozen=True, slots=True)
class _Killer:
    testbed: Testbed
    daemon: Daemon
    answers: Answers
    plan: dict[str, int]
    say: Say

    async def kill_triton(self) -> Kill:
        killed_s = time.monotonic()
        await self.testbed.kill()
        await self.testbed.start()
        ready_s = time.monotonic()
        return await self._wait("Triton", "restarted empty on the same ports", from_s=ready_s, killed_s=killed_s)

    async def kill_stub(self) -> Kill:
        widest = self.testbed.models[-1]
        # The newest: an older one may be Triton's leftover of a version that serves no more.
        victim = max(pid for pid in self.testbed.server.stub_pids() if f"{widest}_" in " ".join(read_command_line(pid)))
        killed_s = time.monotonic()
        os.kill(victim, signal.SIGKILL)
        return await self._wait("a stub", f"one of two of {widest}", from_s=killed_s, killed_s=killed_s)

    async def kill_daemon(self) -> Kill:
        missing = self.testbed.models[-2]
        await self.testbed.control.unload(missing)
        was_loading = await self._wait_loading(missing)
        killed_s = time.monotonic()
        self.daemon.kill()
        self.daemon.start()
        detail = f"while it loaded {missing}" if was_loading else f"just after it had loaded {missing}"
        await self._wait_idle()
        return await self._wait("the daemon", detail, from_s=killed_s, killed_s=killed_s)

    async def _wait_idle(self) -> None:
        """Wait until the new daemon sees its Triton and has nothing to do."""
        await self.daemon.wait_answering()
        ends_s = time.monotonic() + BACK_TIMEOUT_S
        while (view := await self.daemon.view()).planned or view.trouble:
            if time.monotonic() > ends_s:
                return
            await asyncio.sleep(0.1)

    async def _wait_loading(self, model: ModelName) -> bool:
        """Return as soon as the daemon loads a model: True when it was seen loading, False when it had done so."""
        ends_s = time.monotonic() + LOADING_TIMEOUT_S
        while time.monotonic() < ends_s:
            with suppress(SlimError):
                states = [e.state for e in await self.testbed.control.client.index() if e.name == model]
                if "LOADING" in states:
                    return True
                if "READY" in states:
                    return False
            await asyncio.sleep(0.005)
        raise PermanentError(f"the daemon has not begun to load {model} within {LOADING_TIMEOUT_S:g} s")

    async def _wait(self, victim: str, detail: str, *, from_s: float, killed_s: float) -> Kill:
        back_s = await self._wait_served(killed_s)
        if back_s is None:
            detail = f"{detail}; {await self._describe()}"
        back = "NOT back to plan" if back_s is None else f"back to plan after {back_s - from_s:.1f} s"
        self.say(f"killed {victim}, {detail}: {back}")
        return Kill(
            victim,
            detail,
            None if back_s is None else max(0.0, back_s - from_s),
            None if back_s is None else back_s - killed_s,
            await self._count_left(),
        )

    async def _wait_served(self, killed_s: float) -> float | None:
        """Return from when on Triton ran the plan and no request failed, seen for QUIET_S; None: not in time."""
        failed, good_since_s = self.answers.failed, None
        while (now_s := time.monotonic()) - killed_s < BACK_TIMEOUT_S:
            is_good = await self.testbed.is_as_planned(self.plan) and self.answers.failed == failed
            failed = self.answers.failed
            if not is_good:
                good_since_s = None
            elif good_since_s is None:
                good_since_s = now_s
            elif now_s - good_since_s >= QUIET_S:
                return good_since_s
            await asyncio.sleep(POLL_S)
        return None

    async def _count_left(self) -> int:
        """Return how many stubs live beyond the plan, after those of an old version have had the time to leave."""
        planned = sum(self.plan.values())
        await self.testbed.wait_settled(planned, timeout_s=LEAVE_TIMEOUT_S)
        return max(0, self.testbed.count_stubs() - planned)

    async def _describe(self) -> str:
        """Return what is there in place of the plan."""
        try:
            instances: object = await self.testbed.instances()
            view = await self.daemon.view()
        except SlimError as exc:
            return str(exc)
        live = (await asyncio.to_thread(self.testbed.processes.read)).live_instances
        return f"there are {instances}, alive {live}; the daemon's trouble: {view.trouble}; refused: {view.refusals}"
