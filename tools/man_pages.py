"""Manual pages of all commands, by click-man: ``python -m tools.man_pages FOLDER``, which becomes a MANPATH.

click-man's own command sees no commands that are loaded when they are called, so they are loaded here before.
"""

from __future__ import annotations

import sys
from pathlib import Path

import click
from click_man.core import write_man_pages

from orchestrator.cli import main


def write_pages(folder: Path) -> None:
    """Write a page for each command into the folder's ``man1``."""
    context = click.Context(main, info_name="slimsched")
    loaded = {name: main.get_command(context, name) for name in main.list_commands(context)}
    whole = click.Group("slimsched", {k: v for k, v in loaded.items() if v}, params=main.params, help=main.help)
    (folder / "man1").mkdir(parents=True, exist_ok=True)
    write_man_pages("slimsched", whole, target_dir=str(folder / "man1"))


if __name__ == "__main__":
    write_pages(Path(sys.argv[1]))
