"""The version with the commit: of the checkout that this runs in, or of the one that it was built from."""

from __future__ import annotations

import subprocess
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final

_PACKAGE: Final = Path(__file__).parents[1]
_TIMEOUT_S: Final = 5.0


def describe_version() -> str:
    """Return the version, and in brackets the commit where it is known; `-dirty` means that files were changed."""
    number, commit = read_build()
    return number + (f" (commit {commit})" if commit else "")


@cache
def read_version() -> str:
    """Return the version alone; the first call reads it from the disk, in milliseconds."""
    try:
        return version("slim-scheduler")
    except PackageNotFoundError:  # run from a checkout that was never installed
        return "unknown"


@cache
def read_build() -> tuple[str, str | None]:
    """Return the version, and the commit where it is known; the first call may ask git, which takes milliseconds."""
    return read_version(), _commit(_PACKAGE)


def _commit(package: Path) -> str | None:
    """Return the commit that a package has from its build, else its checkout's; None when there is neither.

    A folder above that happens to be a repository, such as one around a virtual environment, is not asked.
    """
    built = package / "commit.txt"
    if built.is_file():
        return built.read_text().strip()
    if not (package.parent / ".git").exists():
        return None
    command = ["git", "-C", str(package.parent), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_TIMEOUT_S)
    except (OSError, subprocess.TimeoutExpired):  # there may be no git
        return None
    return found.stdout.strip() or None
