"""The command line composes and prints. What branches a lot decides something, and that belongs below."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
MOST_BRANCHES = 4
"""Cyclomatic complexity of a function: some options that are given or not, and a table whose cells may be empty."""
WHAT_MORE_MAY_BRANCH = {
    "invoke": 7,  # words every kind of error as one line
    "_run": 7,
}


def test_no_function_of_the_command_line_branches_much() -> None:
    ruff = Path(sys.executable).with_name("ruff")
    command = [ruff, "check", "--isolated", "--output-format=json", "--select=C901", "orchestrator/cli"]
    limit = f"lint.mccabe.max-complexity={MOST_BRANCHES}"
    run = subprocess.run([*command, "--config", limit], cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode in (0, 1), run.stderr
    found = [re.match(r"`(\w+)` is too complex \((\d+)", each["message"]) for each in json.loads(run.stdout)]
    assert all(found)
    grown = [each[0] for each in found if each is not None and int(each[2]) > WHAT_MORE_MAY_BRANCH.get(each[1], 0)]
    assert grown == []
