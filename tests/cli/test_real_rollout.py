"""A policy's file that changes under ``slimsched up``: rolled out under load on a real Triton, or given up."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cli.test_real_up import ROOT, SCRIPT, Up, wait
from tests.router.test_rollout import put

pytestmark = pytest.mark.integration

# Slots are short so that this takes a minute; answers take a few milliseconds. The tolerance is below what the
# narrowest width is worse than the widest, and needs eight blocks; more where other work makes them differ.
MOST_S = 300.0
NARROWER = 0.9201 - 0.9420
"""By how much the narrowest width is right less often than the widest."""
ROLLOUT = {"shadow_decisions": 50, "shares": [0.25, 0.5], "answers": 50, "slot_s": 0.5, "tolerance": 0.02}


def test_a_file_as_good_is_in_force_in_the_end_and_one_that_is_worse_is_given_up(tmp_path: Path) -> None:
    file, up = tmp_path / "fitted.npz", Up(tmp_path)
    put(file, "lert:widest")
    settings = yaml.safe_load(up.path.read_text())
    log = {"directory": str(tmp_path / "decisions"), "sample_ratio": 1}
    settings["router"] = {"policy": "fitted", "policy_file": str(file), "rollout": ROLLOUT, "decision_log": log}
    up.path.write_text(yaml.safe_dump(settings))

    def standing() -> dict[str, Any]:
        with urllib.request.urlopen(f"http://{up.metrics}/status", timeout=30) as answer:
            found: dict[str, Any] = json.load(answer)["policy"]["standing"]
        return found

    def run(*arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-c", SCRIPT, *arguments],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    with up.running():
        load = run("bench", "--grpc", up.grpc, "--rate", "40", "--deadline-ms", "5000", "--seconds", "600")
        try:
            assert standing()["policy"] == "lert:widest"
            put(file, "lert:100")
            wait(lambda: standing()["policy"] == "lert:100", lambda: (standing(), up.said()[-2000:]), for_s=MOST_S)
            put(file, "lert:narrowest")
            wait(lambda: standing()["stage"] == "returned", lambda: (standing(), up.said()[-2000:]), for_s=MOST_S)
            found = standing()
            told, _ = run("status", "--fleet", str(up.path)).communicate(timeout=60)
            with urllib.request.urlopen(f"http://{up.metrics}/metrics", timeout=30) as answer:
                metrics = answer.read().decode()
        finally:
            load.kill()
            load.communicate()
    assert (found["policy"], found["candidate"]) == ("lert:100", "lert:narrowest")
    worse = re.match(r"it was worse: (-[\d.]+) ± ([\d.]+) of utility", found["candidate_why"])
    assert worse, found["candidate_why"]
    mean, half = float(worse[1]), float(worse[2])
    assert mean + half <= 0 and mean == pytest.approx(NARROWER, abs=half), "what the widths differ by, and surely worse"
    assert "lert:100, in force for" in told and "lert:narrowest, returned for" in told, told
    assert 'slim_router_rollout_share_ratio{candidate="lert:narrowest",stage="returned"} 0.0' in metrics
    assert f'slim_router_policy_since_seconds{{policy="lert:100",why="{found["why"]}"}}' in metrics
    lines = [line for path in (tmp_path / "decisions").glob("*.jsonl") for line in path.read_text().splitlines()]
    decided = [json.loads(line) for line in lines if '"id"' in line]
    assert {record["policy"] for record in decided} >= {"lert:widest", "lert:100", "lert:narrowest"}
    why, _ = run("why", decided[-1]["id"], "--fleet", str(up.path)).communicate(timeout=60)
    assert "was in force since" in why
