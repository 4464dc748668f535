"""Profiles of the servers that a benchmark runs, taken as a user takes them."""

from __future__ import annotations

import asyncio
from pathlib import Path

from benchmarks.harness.command import Say
from benchmarks.harness.programs import find_program
from orchestrator.config import FleetSettings, render_fleet
from orchestrator.errors import SlimError


async def profile_fleet(fleet: FleetSettings, folder: Path, profile: Path, say: Say, *options: str) -> None:
    """Write the profile of a fleet, taken under load as well; raises SlimError when that can't be done."""
    path = folder / "fleet.yaml"
    path.write_text(render_fleet(fleet))
    say(f"profiling {len(fleet.servers)} tritonservers")
    process = await asyncio.create_subprocess_exec(
        find_program("slimsched"), "profile", "--fleet", path, "--out", profile, *options, "--under-load",
        stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    _, problem = await process.communicate()
    if process.returncode:
        raise SlimError(f"slimsched profile ended with {process.returncode}: {problem.decode().strip()}")
