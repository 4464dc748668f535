"""``slimsched gateway`` before it takes requests."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from orchestrator.cli.serving.gateway import _is_compiled
from orchestrator.policies import preparation
from orchestrator.router.dispatch import compilation


async def test_who_stops_it_does_not_wait_for_the_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (preparation, compilation):
        monkeypatch.setattr(module, "CACHE_DIR", tmp_path)
    monkeypatch.setattr(compilation, "_SCRIPT", f"open({str(tmp_path / 'began')!r}, 'w'); import time; time.sleep(600)")
    stop = asyncio.Event()
    starting = asyncio.create_task(_is_compiled(stop))
    while not (tmp_path / "began").exists():
        await asyncio.sleep(0.01)
    stop.set()
    assert not await starting


async def test_it_goes_on_when_all_is_compiled() -> None:
    assert await _is_compiled(asyncio.Event())
