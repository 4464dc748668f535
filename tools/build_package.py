"""What a build adds to the packages: the commit, what ships to try the project with, and links that lead somewhere.

- The commit of the checkout, as ``orchestrator/commit.txt``, for `slimsched --version`. setuptools-scm would do this,
  and would make up the version number as well, which is stated in pyproject.toml.
- The demo's family and sample, scenarios, profiles, suites and a policy's template, below ``orchestrator/shipped``. In
  the repository they lie in its root, for they are read, linked to and made anew there. setuptools takes data from
  inside of packages only, and a second copy of them would grow old.
- The README as the package's description. What it links to is not beside it there, so links become absolute where
  ``SLIMSCHED_REPOSITORY`` says under which address the files are read, such as https://github.com/me/slim-scheduler;
  without it, they become the path in the sources.

A wheel may be built from an sdist, where there is no repository any more; MANIFEST.in has all of this.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Final

from setuptools.command.build_py import build_py
from setuptools.command.egg_info import egg_info
from setuptools.command.sdist import sdist

SHIPPED: Final = (
    "benchmarks/__init__.py",
    "benchmarks/suites",
    "examples/fashion-mnist/test_1000.npz",
    "examples/own-policy",
    "model_repository",
    "profiles",
    "scenarios",
)
"""Files and folders, relative to the sources; in a wheel below ``orchestrator/shipped`` by the same paths."""
_IGNORED: Final = shutil.ignore_patterns("__pycache__", "*.trials.json")
_COMMIT: Final = Path("orchestrator") / "commit.txt"
_LINK: Final = re.compile(r"(!?)\[([^\]]*)\]\(([^)#\s:]+)(#[^)\s]*)?\)")


class BuildPackage(build_py):  # type: ignore[misc]  # setuptools has no types
    """Builds the packages with the commit and what ships; an editable install finds both in the checkout."""

    def run(self) -> None:
        """Build."""
        super().run()
        if self.editable_mode:
            return
        _write_commit(Path(self.build_lib))
        for name in SHIPPED:
            _copy(Path(name), Path(self.build_lib) / "orchestrator" / "shipped" / name)


class Sdist(sdist):  # type: ignore[misc]  # likewise
    """Makes the sdist's tree with the commit in it."""

    def make_release_tree(self, base_dir: str, files: list[str]) -> None:
        """Make the tree."""
        super().make_release_tree(base_dir, files)
        _write_commit(Path(base_dir))


class EggInfo(egg_info):  # type: ignore[misc]  # likewise
    """Writes the metadata, whose description has links that don't need the repository beside them."""

    def run(self) -> None:
        """Write it."""
        metadata = self.distribution.metadata
        metadata.long_description = relink(metadata.long_description or "", os.environ.get("SLIMSCHED_REPOSITORY"))
        super().run()


def relink(text: str, repository: str | None) -> str:
    """Return a page of the sources' root whose relative links lead into a repository, else are the words and the path.

    Pictures without a repository become their words.
    """

    def replaced(found: re.Match[str]) -> str:
        picture, words, target, anchor = found.groups()
        if repository:
            there = f"{repository.rstrip('/')}/{'raw' if picture else 'blob'}/HEAD/{target}"
            return f"{picture}[{words}]({there}{anchor or ''})"
        return words if picture or words == target else f"{words} (`{target}`)"

    return _LINK.sub(replaced, text)


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.rmtree(target, ignore_errors=True)  # of an earlier build
        shutil.copytree(source, target, ignore=_IGNORED)
    else:
        shutil.copyfile(source, target)


def _write_commit(root: Path) -> None:
    """Write the file below ``root``, unless this is no checkout: then what the sdist brought stays."""
    if not Path(".git").exists():
        return
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    if found.returncode == 0:
        (root / _COMMIT).parent.mkdir(parents=True, exist_ok=True)
        (root / _COMMIT).write_text(found.stdout)
