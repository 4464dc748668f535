"""Examples of a page of the documentation: found, run, and their output held against what the page shows."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.gateway.running import ROOT

_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
VOLATILE = {
    "slim_decision_id",
    "slim_queue_us",
    "slim_server",
    "slim_width",
    "slim_expected_accuracy",
    "slim_batch",
    "slim_energy_j",
    "slim_policy",
}
_NUMBER = re.compile(r"-?\d+\.\d+")


@dataclass(frozen=True)
class Example:
    """One command of a page, and what the page shows of its output; nothing when it shows none."""

    command: str
    output: str


def section(page: str, heading: str) -> str:
    """Return what stands under a heading, to the next one of its level or above.

    Level 1 does not count, because comments in blocks look like it.
    """
    text = (ROOT / "docs" / page).read_text()
    level = heading.split(" ")[0]
    begin = text.index(f"\n{heading}\n") + 1
    ends = [found.start() for found in re.finditer(rf"^#{{2,{len(level)}}} ", text, re.MULTILINE)]
    return text[begin : min((end for end in ends if end > begin), default=len(text))]


def blocks(page: str, heading: str, language: str) -> list[str]:
    """Return the blocks of a language under a heading."""
    return [text for found, text in _BLOCK.findall(section(page, heading)) if found == language]


def examples(page: str, heading: str) -> list[Example]:
    """Return the commands under a heading in their order."""
    found = []
    for block in blocks(page, heading, "console"):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            lines = part.splitlines()
            count = next(number for number, line in enumerate(lines) if not line.endswith("\\")) + 1
            found.append(Example("\n".join(lines[:count]), "\n".join(lines[count:])))
    return found


def run(command: str, folder: Path, replaced: Mapping[str, str], *, timeout_s: float = 60) -> str:
    """Return the output of a command, which must succeed, with addresses replaced by those that are there."""
    for address, actual in replaced.items():
        command = command.replace(address, actual)
    path = f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin"
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {command}"],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
        env={"PATH": path},
    )
    assert done.returncode == 0, (command, done.stdout, done.stderr)
    return done.stdout.rstrip("\n")


def settled(output: str) -> Any:
    """Return an output without what differs from run to run."""
    try:
        return _settled(json.loads(output))
    except ValueError:
        return _NUMBER.sub("n", re.sub(r'(server|width)="[^"]*"', r'\1="…"', output))


def _settled(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: "…" if key in VOLATILE else _settled(found) for key, found in value.items()}
    if isinstance(value, list):
        return [_settled(found) for found in value]
    return _NUMBER.sub("n", value) if isinstance(value, str) else value
