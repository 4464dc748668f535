"""A real emulated server that throttles."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from orchestrator.embedded.server import EmbeddedOptions
from tests.tritons import Tritons

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]


def test_the_instances_of_a_server_have_the_file_open_that_it_is_throttled_by(tritons: Tritons) -> None:
    with tritons.running(ROOT / "model_repository", EmbeddedOptions(models=("fashion_w025",), slowdown=2.0)) as server:
        server.throttle(3.0)
        (stub,) = server.stub_pids()
        (lock,) = {path for fd in os.listdir(f"/proc/{stub}/fd") if (path := _opened(stub, fd)).name == "device.lock"}
        assert lock.read_text() == "3"


def _opened(pid: int, fd: str) -> Path:
    return Path(os.readlink(f"/proc/{pid}/fd/{fd}"))
