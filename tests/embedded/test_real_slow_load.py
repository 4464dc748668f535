"""A model that loads for longer than a server has to start: it is waited for, and named."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from orchestrator.embedded import server as embedded
from orchestrator.embedded.server import EmbeddedOptions, EmbeddedServer
from tests.embedded.slow_models import write_slow_model
from tests.ports import with_ports

pytestmark = pytest.mark.integration

START_S = 15.0


async def test_a_model_that_loads_for_longer_than_the_time_to_start_is_waited_for_and_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedded, "TELL_LOADING_S", 0.5)
    folder = write_slow_model(tmp_path, "slow")
    server = EmbeddedServer(tmp_path, with_ports(EmbeddedOptions(start_timeout_s=START_S)))

    async def let_go() -> None:
        await asyncio.sleep(START_S + 1.0)
        (folder / "go").touch()

    letting = asyncio.create_task(let_go())
    with caplog.at_level("INFO"):
        async with server:
            await letting
    assert "tritonserver loads slow, for" in caplog.text
