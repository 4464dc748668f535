"""``slimsched policy-template``: a package to begin a policy of one's own with."""

from __future__ import annotations

from pathlib import Path

import click

from orchestrator.cli.options import FOLDER
from orchestrator.reporting.outputs import write_new_folder
from orchestrator.shipped import ROOT


@click.command("policy-template")
@click.argument("directory", type=FOLDER)
def policy_template(directory: Path) -> None:
    """Write a package with a policy of your own, and its test, to a new DIRECTORY.

    docs/tutorials/own-policy.md walks through it.

    \b
    Example:
      slimsched policy-template saver
      pip install --no-build-isolation --no-deps ./saver
    """
    files = [file for file in sorted((ROOT / "examples" / "own-policy").iterdir()) if file.is_file()]
    write_new_folder(directory, {file.name: file.read_bytes() for file in files}, "the template to ")
    for file in files:
        click.echo(directory / file.name)
