"""The curl examples of docs/gateway.md, run as they stand there against a gateway before real Tritons."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.gateway.documented import blocks, examples, run, settled
from tests.gateway.running import ROOT, Addresses

pytestmark = pytest.mark.integration

PAGE, HEADING = "gateway.md", "## With curl"


def test_every_curl_example_gives_what_the_page_shows(gateway: Addresses, tmp_path: Path) -> None:
    if shutil.which("curl") is None:
        pytest.skip("no curl on this machine")
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    (script,) = blocks(PAGE, HEADING, "python")
    (tmp_path / "make.py").write_text(script)
    run(f"PYTHONPATH={ROOT} python make.py", tmp_path, {})
    found = examples(PAGE, HEADING)
    assert len(found) >= 11
    for example in found:
        places = {"localhost:8080": gateway.http, "localhost:8082": gateway.metrics}
        output = run(example.command, tmp_path, places)
        if "/repository/index" in example.command:  # the servers of these tests have more models
            assert [e for e in json.loads(output) if e["name"] in ("fashion", "plus")] == json.loads(example.output)
        elif "requests_total" in example.command:  # and more has been asked
            lines = [line for line in output.splitlines() if not line.startswith("#")]
            assert settled(example.output) in [settled(line) for line in lines]
        elif example.output:
            assert settled(output) == settled(example.output), example.command
        elif "--compressed" in example.command:
            assert settled(output) == settled(found[1].output), "the same request, compressed"
    answer = (tmp_path / "answer").read_bytes()
    assert b'"binary_data_size":40' in answer, "ten logits follow the head"
