"""Wheels and sdists as tests build them: with the setuptools that is there, so without a network."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def build(folder: Path, what: str, out: Path, **environment: str) -> Path:
    """Build the ``wheel`` or the ``sdist`` of sources, and return its path in ``out``."""
    script = f"from setuptools import build_meta; print(build_meta.build_{what}({str(out)!r}))"
    command = [sys.executable, "-c", script]
    # The hooks are those of the sources, as with pip, and not of the checkout that tests run in.
    found = {**os.environ, "PYTHONPATH": str(folder), **environment}
    done = subprocess.run(command, cwd=folder, env=found, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return out / done.stdout.strip().splitlines()[-1]


def copy_tracked(root: Path, target: Path) -> Path:
    """Copy what git tracks of a checkout and has changed there, and return the copy."""
    listed = subprocess.run(
        ["git", "-C", root, "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        capture_output=True,
        check=True,
        text=True,
    ).stdout
    for name in filter(None, listed.split("\0")):
        if (root / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            (target / name).write_bytes((root / name).read_bytes())
    return target
