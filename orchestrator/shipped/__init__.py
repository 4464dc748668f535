"""What ships to try the project with: the demo's family and sample, scenarios, profiles, suites, a policy's template.

A checkout has them in its root; a build puts them beside this module (``tools/build_package.py``). They are named by
their path in the checkout, ``scenarios/two-unlike.yaml``, wherever a command runs, and what is in the working directory
under that name goes first.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

_BUILT: Final = Path(__file__).parent
ROOT: Final = _BUILT if (_BUILT / "scenarios").is_dir() else _BUILT.parents[1]
"""The folder that holds all of it."""
_FOLDERS: Final = ("examples", "model_repository", "profiles", "scenarios")


def find_shipped(path: Path, folder: Path = Path()) -> Path:
    """Return a path relative to a folder, or, where nothing is there, what ships under the path, if anything does."""
    beside = folder / path
    is_name = not path.is_absolute() and path.parts[:1] and path.parts[0] in _FOLDERS
    is_beside = os.path.exists(beside)  # not in a working directory that this user may not look into
    return ROOT / path if is_name and not is_beside and (ROOT / path).exists() else beside
