"""Programs that a test asks, which may be absent outside of CI only."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest


def find_program(name: str, origin: str) -> str:
    """Return the path of a program; without it the test is skipped with where it comes from, and fails in CI."""
    beside_python = str(Path(sys.executable).parent)
    found = shutil.which(name, path=os.pathsep.join((beside_python, os.environ["PATH"])))
    if found is None:
        reason = f"no {name} on PATH; it comes with {origin}"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    return found


def run(*command: str, text: str | None = None) -> tuple[int, str]:
    """Return the exit status of a program and all that it printed."""
    done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=60, check=False)
    return done.returncode, done.stdout + done.stderr
