"""A page of documentation as something that runs: its files are written and its commands executed, in their order.

A block of Python, TOML or YAML whose first line is ``# NAME.py`` or the like is a file. In a block of ``console`` each
line after ``$ `` is a command, with the lines that follow a backslash, and what is below it must be in its output, in
this order; ``…`` stands for anything.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

_BLOCK = re.compile(r"^```(python|toml|yaml|console)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_FILE = re.compile(r"# (\S+\.(?:py|toml|yaml))\n")


@dataclass(frozen=True, slots=True)
class File:
    name: str
    text: str


@dataclass(frozen=True, slots=True)
class Command:
    line: str
    output: tuple[str, ...]


def parse(text: str) -> Iterator[File | Command]:
    for language, body in _BLOCK.findall(text):
        named = _FILE.match(body)
        if language == "console":
            for command in re.split(r"^\$ ", body, flags=re.MULTILINE)[1:]:
                line, *output = command.replace("\\\n", "").splitlines()
                yield Command(line, tuple(output))
        elif named is not None:
            yield File(named[1], body)


def run(page: Path, folder: Path, *, replaced: Mapping[str, str] | None = None) -> int:
    """Do what a page says in a folder and return how many commands there were.

    ``replaced`` has what is written otherwise in files and commands, such as addresses.
    """
    count = 0
    text = page.read_text()
    for written, meant in (replaced or {}).items():
        text = text.replace(written, meant)
    for step in parse(text):
        if isinstance(step, File):
            (folder / step.name).parent.mkdir(parents=True, exist_ok=True)
            (folder / step.name).write_text(step.text)
            continue
        count += 1
        done = execute(step.line, folder)
        assert done.returncode == 0, f"{step.line}\n{done.stdout}"
        shown = ".*".join(re.escape(line).replace("…", ".*") for line in step.output)
        assert re.search(shown, done.stdout, re.DOTALL), f"{step.line}\n{done.stdout}"
    return count


def execute(line: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a line of shell in a folder, with the commands that are installed beside this Python."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    return subprocess.run(
        ["bash", "-c", line],
        cwd=folder,
        env={**os.environ, "PATH": path, "COLUMNS": "200"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
