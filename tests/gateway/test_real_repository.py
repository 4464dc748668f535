"""A gateway over a real Triton whose model repository is away for a while, as a shared folder may be."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path

import pytest

from orchestrator.config import RouterSettings
from orchestrator.embedded.server import EmbeddedOptions
from tests.gateway.running import ROOT, fetch, start_gateway, stop_gateway
from tests.tritons import Tritons

pytestmark = pytest.mark.integration
NAMES = ("fashion_w025", "fashion_w100")


def test_what_a_triton_serves_is_answered_while_its_repository_is_away(tritons: Tritons, tmp_path: Path) -> None:
    repository = tmp_path / "models"
    for name in NAMES:
        shutil.copytree(ROOT / "model_repository" / name, repository / name)
    blank = {"name": "pixels", "datatype": "FP32", "shape": [1, 1, 28, 28], "data": [0] * 784}
    body = json.dumps({"inputs": [blank], "parameters": {"slim_width": 100}}).encode()
    with tritons.running(repository, EmbeddedOptions(exit_timeout_s=2)) as server:
        gateway = start_gateway(tmp_path, [server])
        for moved in (repository, *(repository / name for name in NAMES)):
            moved.rename(tmp_path / "away")
            for _ in range(2):
                time.sleep(RouterSettings().discovery_period_s)  # then it has been asked
                status, _, text = fetch(gateway.addresses, "/v2/models/fashion/infer", body)
                assert status == 200, text
            (tmp_path / "away").rename(moved)
        assert stop_gateway(gateway) == 0, gateway.lines
    log = "\n".join(gateway.lines)
    for name in NAMES:
        assert f"model {name} on s0 is served, and its repository does not show it: " in log
    assert "is gone" not in log
