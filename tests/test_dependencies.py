"""What serves needs no more than the package's own requirements, without any extra."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, packages_distributions, requires
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
SERVING = (
    "orchestrator.cli",
    "orchestrator.cli.serving.compile",
    "orchestrator.cli.serving.controller_daemon",
    "orchestrator.cli.serving.gateway",
    "orchestrator.cli.serving.gateway_worker",
    "orchestrator.cli.client.infer",
    "orchestrator.cli.client.status",
    "orchestrator.policies.preparation",
    "orchestrator.router",
)
PROGRAM = """
import importlib, sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in missing:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

missing = set(sys.argv[1].split(","))
sys.meta_path.insert(0, Missing())
for module in sys.argv[2].split(","):
    importlib.import_module(module)
"""


def required(requirements: list[str]) -> set[str]:
    """Return the names of all distributions that requirements lead to, as far as they are installed."""
    found: set[tuple[str, str]] = set()
    left = [(Requirement(text), "") for text in requirements]
    while left:
        requirement, extra = left.pop()
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": extra}):
            continue
        name = canonicalize_name(requirement.name)
        for own_extra in ("", *requirement.extras):
            if (name, own_extra) in found:
                continue
            found.add((name, own_extra))
            with suppress(PackageNotFoundError):
                left += [(Requirement(text), own_extra) for text in requires(name) or ()]
    return {name for name, _ in found}


def test_gateway_router_and_controller_import_nothing_that_an_extra_brings() -> None:
    base = required(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"])
    assert {"numba", "llvmlite", "grpcio", "tritonclient"} <= base
    missing = {
        module
        for module, distributions in packages_distributions().items()
        if not base & {canonicalize_name(name) for name in distributions} and module not in ("orchestrator", "export")
    }
    assert "onnxruntime" in missing
    arguments = [",".join(sorted(missing)), ",".join(SERVING)]
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM, *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (run.returncode, run.stderr) == (0, "")
