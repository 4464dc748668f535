"""What the daemon itself takes, with all widths loaded and light load, at its default period."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from benchmarks.controller.daemon import run_daemon
from benchmarks.controller.load import Stream, closed_loops
from benchmarks.controller.results import Cost
from benchmarks.controller.testbed import open_testbed
from benchmarks.harness.command import Say
from benchmarks.harness.processes import read_cpu, read_held
from orchestrator.config import ControllerSettings

WATCHED_S = 60.0
PAUSE_S = 0.1
CONVERGE_TIMEOUT_S = 30.0


async def run_cost(repository: Path, folder: Path, say: Say) -> Cost:
    """Return the raw numbers; see the module."""
    settings = ControllerSettings()
    async with open_testbed(repository, folder) as testbed:
        models = [str(model) for model in testbed.models]
        fleet = testbed.write_fleet(settings)
        async with run_daemon(fleet, testbed.controller_address) as daemon:
            await testbed.wait_for_plan(dict.fromkeys(models, 1), timeout_s=CONVERGE_TIMEOUT_S)
            say(f"watching the daemon for {WATCHED_S:g} s")
            steps_s: dict[int, float] = {}
            rss_bytes = anonymous_bytes = 0
            async with closed_loops(testbed.grpc_address, [Stream(m, 1, 1, PAUSE_S) for m in models]) as answers:
                before = read_cpu({"daemon": daemon.pid})
                while time.monotonic() - before.at_s < WATCHED_S:
                    await asyncio.sleep(settings.period_s)
                    view = await daemon.view()
                    steps_s[view.steps] = view.step_s
                    held = read_held(daemon.pid)
                    rss_bytes = max(rss_bytes, held.rss_bytes)
                    anonymous_bytes = max(anonymous_bytes, held.anonymous_bytes)
                after = read_cpu({"daemon": daemon.pid})
                watched_s = after.at_s - before.at_s
                answered = answers.answered
    return Cost(
        period_s=settings.period_s,
        widths=len(models),
        watched_s=watched_s,
        requests_per_s=answered / watched_s,
        steps_s=tuple(steps_s[number] for number in sorted(steps_s)),
        cpu_ratio=before.shares_until(after)["daemon"],
        rss_bytes=rss_bytes,
        anonymous_bytes=anonymous_bytes,
    )
