"""The real side: embedded Tritons, their profile, and policies on them.

Router and sender have a core to themselves where there is more than one, and the servers share the others, as a router
is elsewhere than its servers; on one core they would wait for each other for milliseconds. The servers are so slow
(emulated) that they need a part of a core.
"""

from __future__ import annotations

import os
import random
import re
import shutil
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.fidelity.open_loop import Outcome, run_open_loop
from benchmarks.harness.command import Say
from benchmarks.harness.profiles import profile_fleet
from orchestrator.config import (
    EjectionSettings,
    FleetSettings,
    OverloadSettings,
    RetrySettings,
    RouterSettings,
)
from orchestrator.demo.testbed import embedded_fleet
from orchestrator.loadgen.sample import LabelledSample
from orchestrator.router import Router

_NEVER = 1e6
DISTURBED_S = 0.05
"""A round in which the sender was that late is one in which the machine stood still, and is run again."""
MOST_REPEATED = 3
"""In a session."""


@dataclass(frozen=True, slots=True)
class FidelitySettings:
    """What is run.

    Attributes:
        repository: What every server serves.
        policies: The policies that are compared.
        rounds: Rounds of a session, each on arrivals of its own.
        requests: Requests of a round.
        load_ratio: The load, over what the fleet serves at full width.
        deadline_s: The deadline of each request.
        max_batch_size: The largest batch of the repository's copy, so that profiling such slow servers takes a minute.
        profile_requests: Requests of each batch size at least.
        profile_precision_ratio: Half the 95 % interval of a mean at which a batch size has enough.
        noise_draws: Draws of noise on the simulated side, for each round.
    """

    repository: Path
    policies: tuple[str, ...]
    rounds: int = 2
    requests: int = 1500
    load_ratio: float = 0.6
    deadline_s: float = 0.1
    max_batch_size: int = 16
    profile_requests: int = 16
    profile_precision_ratio: float = 0.1
    noise_draws: int = 10


@asynccontextmanager
async def profiled_fleet(
    settings: FidelitySettings, folder: Path, say: Say
) -> AsyncIterator[tuple[FleetSettings, Path]]:
    """Run the servers; yield them and their measured profile; raises SlimError when that can't be done."""
    repository = _copy_repository(settings, folder / "repository")
    ours, theirs = _split_cores()
    async with embedded_fleet(repository, cores=theirs) as fleet, _bound_to(ours):
        profile = folder / "profile.json"
        await profile_fleet(
            fleet, folder, profile, say,
            "--requests", str(settings.profile_requests), "--precision", str(settings.profile_precision_ratio),
        )  # fmt: skip
        yield fleet, profile


def _split_cores() -> tuple[list[int], list[int]]:
    """Return the cores of the router and those of the servers; the same where there is one."""
    cores = sorted(os.sched_getaffinity(0))
    return cores[:1], cores[1:] or cores


@asynccontextmanager
async def _bound_to(cores: Sequence[int]) -> AsyncIterator[None]:
    """Keep this process and those that it starts on some cores."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _copy_repository(settings: FidelitySettings, copy: Path) -> Path:
    """Copy a repository, its batches limited and Triton's own batcher off; return the copy."""
    shutil.copytree(settings.repository, copy)
    most = settings.max_batch_size
    for config in copy.glob("*/config.pbtxt"):
        # Of warm-ups too: Triton 2.51 dies of one that is larger than the model's batches.
        text = config.read_text()
        text = re.sub(r"(batch_size:) (\d+)", lambda m: f"{m[1]} {min(int(m[2]), most)}", text)
        config.write_text(re.sub(r"^dynamic_batching \{\s*\}\n", "", text, flags=re.MULTILINE))
    return copy


async def run_policies(
    fleet: FleetSettings,
    profile: Path,
    settings: FidelitySettings,
    sample: LabelledSample,
    arrivals_s: Mapping[int, Sequence[float]],
    say: Say,
) -> tuple[dict[str, list[tuple[Outcome, ...]]], int]:
    """Send every round's arrivals, due in seconds by number of the round, under every policy.

    Returns what became of them, rounds in order, and how many rounds of a policy were run again.
    """
    outcomes: dict[str, list[tuple[Outcome, ...]]] = {policy: [] for policy in settings.policies}
    repeated = 0
    images = [sample.images[i % len(sample.images)] for i in range(settings.requests)]
    labels = [int(sample.labels[i % len(sample.labels)]) for i in range(settings.requests)]
    for number, times_s in arrivals_s.items():
        order = random.Random(f"order-{number}").sample(settings.policies, len(settings.policies))
        for policy in order:
            say(f"round {number + 1}: {policy}")
            chosen = fleet.model_copy(update={"router": _router(policy, profile, settings, seed=number)})
            while True:
                async with Router.from_fleet(chosen) as router:
                    done = await run_open_loop(router, images, labels, times_s, deadline_s=settings.deadline_s)
                late_s = max(outcome.late_s for outcome in done)
                if late_s < DISTURBED_S or repeated == MOST_REPEATED:
                    break
                repeated += 1
                say(f"the machine stood still for {late_s * 1e3:.0f} ms; again")
            outcomes[policy].append(done)
    return outcomes, repeated


def _router(policy: str, profile: Path, settings: FidelitySettings, *, seed: int) -> RouterSettings:
    return RouterSettings(
        policy=policy,
        deadline_ms=settings.deadline_s * 1e3,
        seed=seed,
        profile=profile,
        probes=None,
        overload=OverloadSettings(shed_late=False),
        retries=RetrySettings(overdue_factor=_NEVER),
        ejection=EjectionSettings(latency_factor=_NEVER),
    )
