"""``slimsched compile``: the code of all decisions ahead of its use, as an image of a container needs it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import click

from orchestrator.cli.options import FOLDER
from orchestrator.policies.tables.code_cache import GENERIC, PLACE_VARIABLE
from orchestrator.router import compile_into

NATIVE = "native"


@click.command("compile")
@click.option("--into", "place", type=FOLDER, required=True, help="Folder to fill; made if need be.")
@click.option(
    "--cpu",
    type=click.Choice([GENERIC, NATIVE]),
    default=GENERIC,
    help="Code for any processor of this architecture, or for one like this machine's.",
)
def compile_decisions(place: Path, cpu: str) -> None:
    """Compile what decides, and keep it where a process finds it that can write nowhere.

    Such a process is given the folder by SLIMSCHED_COMPILED_DIR, and starts without compiling anything. It takes code
    for its own kind of processor where the folder has some, else the generic one; both may be in it. It takes half a
    minute or more, once for each version of the sources, of Numba and of Python.

    \b
    Example:
      slimsched compile --into /opt/slimsched/compiled
      SLIMSCHED_COMPILED_DIR=/opt/slimsched/compiled slimsched gateway --fleet fleet.yaml
    """
    asyncio.run(compile_into(place, is_portable=cpu == GENERIC))
    click.echo(f"compiled for {cpu}; use it with {PLACE_VARIABLE}={place.absolute()}")
