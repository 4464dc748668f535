"""Files that are watched, when reading one of them fails as nobody expected."""

from __future__ import annotations

import asyncio
import hashlib
from functools import partial
from pathlib import Path

import pytest

from orchestrator.background import BackgroundTasks
from orchestrator.config import AuthSettings, GatewaySettings, TenantSettings, load_tenants
from orchestrator.errors import ConfigError
from orchestrator.gateway import server
from orchestrator.gateway.auth.callers import UnauthenticatedError
from orchestrator.gateway.file_watch import WatchedFiles, watch
from orchestrator.gateway.metrics.gateway_metrics import GatewayMetrics

pytestmark = pytest.mark.virtual_time


async def test_what_nobody_expected_of_one_file_ends_the_watching_of_none(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tokens, fleet = tmp_path / "tokens.yaml", tmp_path / "fleet.yaml"
    taken: list[str] = []

    def take(path: Path) -> None:
        text = path.read_text()
        if text == "bad":
            raise ConfigError("it is bad")
        taken.append(f"{path.name} {100 // int(text)}")

    for path in (tokens, fleet):
        path.write_text("1")
    metrics = GatewayMetrics()
    background = BackgroundTasks(metrics.router.on_background_failure)
    files = [WatchedFiles(path.name, [path], partial(take, path)) for path in (tokens, fleet)]
    background.start("watching files", partial(watch, files))
    tokens.write_text("00")  # of another size each time: what is written at once may have the same time
    fleet.write_text("50")
    await asyncio.sleep(4.0)
    assert taken == ["fleet.yaml 2"]
    assert "ZeroDivisionError" in caplog.text
    assert metrics.snapshot().values["slim_background_failures"] == {("watching files",): [1.0]}
    tokens.write_text("bad")
    await asyncio.sleep(1.5)
    assert "tokens.yaml: kept as before: it is bad" in caplog.text
    tokens.write_text("0100")
    await asyncio.sleep(1.5)
    assert taken == ["fleet.yaml 2", "tokens.yaml 1"]
    await background.stop()


def test_a_token_that_is_withdrawn_while_the_gateway_starts_is_not_let_in_for_good(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "tokens.yaml"
    path.write_text(f"tenants: [{{name: shop, tokens: ['sha256:{hashlib.sha256(b'old').hexdigest()}']}}]")

    def load(path: Path) -> tuple[TenantSettings, ...]:
        tenants = load_tenants(path)
        path.write_text("tenants: [{name: shop, tokens: []}]")
        return tenants

    monkeypatch.setattr(server, "load_tenants", load)
    guard, files = server.open_guard(GatewaySettings(auth=AuthSettings(tokens_file=path)))
    for each in files:
        each.refresh()
    with pytest.raises(UnauthenticatedError):
        guard.identify("ModelInfer", (("authorization", "Bearer old"),))
