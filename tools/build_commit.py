"""The commit of a checkout goes into what is built from it, as ``orchestrator/commit.txt``, for `slimsched --version`.

A wheel may be built from an sdist, where there is no repository any more, so an sdist has the file too. setuptools-scm
would do this, and would make up the version number as well, which is stated in pyproject.toml.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

from setuptools.command.build_py import build_py
from setuptools.command.sdist import sdist

_FILE = Path("orchestrator") / "commit.txt"


class BuildWithCommit(build_py):  # type: ignore[misc]  # setuptools has no types
    """Builds the packages, and writes the commit beside them; an editable install reads it from the checkout."""

    def run(self) -> None:
        """Build."""
        super().run()
        if not self.editable_mode:
            _write_commit(Path(self.build_lib))


class SdistWithCommit(sdist):  # type: ignore[misc]  # likewise
    """Makes the sdist's tree with the commit in it."""

    def make_release_tree(self, base_dir: str, files: list[str]) -> None:
        """Make the tree."""
        super().make_release_tree(base_dir, files)
        _write_commit(Path(base_dir))


def _write_commit(root: Path) -> None:
    """Write the file below ``root``, unless this is no checkout: then what the sdist brought stays."""
    if not Path(".git").exists():
        return
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    if found.returncode == 0:
        (root / _FILE).parent.mkdir(parents=True, exist_ok=True)
        (root / _FILE).write_text(found.stdout)
