"""Where suites are found, in a process that sees only what is installed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
LOAD = "import sys; from pathlib import Path; from orchestrator.evaluation.suite import load_suite; "
LOAD += "print(load_suite(sys.argv[1], Path(sys.argv[2])).policies)"


def load(installed: Path, name: str, scenarios: Path) -> subprocess.CompletedProcess[str]:
    """Load a suite where ``orchestrator`` is importable and nothing else of the checkout is."""
    installed.mkdir(exist_ok=True)
    for package in ("orchestrator", "export"):
        if not (installed / package).exists():
            (installed / package).symlink_to(ROOT / package)
    command = [sys.executable, "-c", LOAD, name, str(scenarios)]
    environment = {**os.environ, "PYTHONPATH": str(installed), "PYTHONSAFEPATH": "1"}
    return subprocess.run(command, cwd=installed, env=environment, capture_output=True, text=True, check=False)


def test_suites_come_from_the_checkout_that_holds_the_scenarios(tmp_path: Path) -> None:
    found = load(tmp_path / "site", "frozen", ROOT / "scenarios")
    assert found.returncode == 0, found.stderr
    assert "'ppo-slim'" in found.stdout


def test_without_a_checkout_one_line_says_so(tmp_path: Path) -> None:
    missing = load(tmp_path / "site", "frozen", tmp_path / "scenarios")
    last = missing.stderr.strip().splitlines()[-1]
    assert last.endswith(f"ConfigError: no suites in {tmp_path / 'site'}; install slim-scheduler anew")
