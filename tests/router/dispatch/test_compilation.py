"""Who compiles what decides, and what is said of it."""

from __future__ import annotations

import asyncio
import logging
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from click.testing import CliRunner

from orchestrator.cli import main
from orchestrator.policies import preparation
from orchestrator.policies.tables.code_cache import this_processor
from orchestrator.router import compile_ahead, load_ahead
from orchestrator.router.dispatch import compilation
from orchestrator.router.dispatch.compilation import prepare_decisions


@pytest.fixture
def fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """As when nothing was compiled before. The process that is started finds what was, and so ends soon."""
    for module in (preparation, compilation):
        monkeypatch.setattr(module, "CACHE_DIR", tmp_path)
    return tmp_path


async def test_nothing_is_said_where_all_was_compiled_before(caplog: pytest.LogCaptureFixture) -> None:
    await prepare_decisions()
    assert not [record for record in caplog.records if record.levelno >= logging.INFO]


async def test_another_process_compiles_and_it_is_said_why_that_takes_long(
    fresh: Path, caplog: pytest.LogCaptureFixture
) -> None:
    await compile_ahead()
    (record,) = caplog.records
    assert record.getMessage() == (
        f"compiling what decides, which takes half a minute or more, once for this version; kept in {fresh}"
    )


async def test_where_another_process_can_not_compile_this_one_does(
    fresh: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compilation, "_SCRIPT", "raise MemoryError('too little')")
    await prepare_decisions()
    assert "could not compile (MemoryError: too little), so this one does" in caplog.text
    caplog.clear()
    monkeypatch.setattr(compilation.sys, "executable", str(fresh / "none"))
    await prepare_decisions()
    assert "No such file or directory" in caplog.text


async def test_who_is_to_stop_does_not_wait_for_the_compiler(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = fresh / "pid"
    monkeypatch.setattr(
        compilation,
        "_SCRIPT",
        f"import os, pathlib, time; pathlib.Path({str(said)!r}).write_text('x'); time.sleep(600)",
    )
    compiling = asyncio.create_task(compile_ahead())
    while not said.exists():
        await asyncio.sleep(0.01)
    compiling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await compiling  # which waits until the process has ended


def test_the_compiler_does_not_outlive_whom_it_works_for() -> None:
    waiting = [sys.executable, "-c", f"{compilation._WATCH}; import time; time.sleep(600)"]
    process = subprocess.Popen(waiting, stdin=subprocess.PIPE)
    assert process.stdin is not None
    process.stdin.close()  # as the kernel does when its parent was killed
    assert process.wait(60) == 1


@pytest.mark.parametrize(("cpu", "processor"), [("generic", "generic"), ("native", this_processor().name)])
def test_the_command_compiles_into_a_folder_for_a_kind_of_processor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cpu: str, processor: str
) -> None:
    script = (
        "import os; print(os.environ['SLIMSCHED_COMPILED_DIR'], os.environ['NUMBA_CPU_NAME'], file=open('said', 'w'))"
    )
    monkeypatch.setattr(compilation, "_SCRIPT", script)
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(main, ["compile", "--into", "image", "--cpu", cpu])
    assert result.exit_code == 0
    assert result.output == f"compiled for {cpu}; use it with SLIMSCHED_COMPILED_DIR={tmp_path / 'image'}\n"
    assert (tmp_path / "said").read_text().split() == [str(tmp_path / "image"), processor]


def test_the_command_says_why_it_can_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    result = CliRunner().invoke(main, ["compile", "--into", str(tmp_path / "file" / "image")])
    assert (result.exit_code, result.output) == (
        1,
        f"Error: can't write {tmp_path / 'file' / 'image'} (Not a directory); give a folder that can be written\n",
    )
    monkeypatch.setattr(compilation, "_SCRIPT", "raise MemoryError('too little')")
    result = CliRunner().invoke(main, ["compile", "--into", str(tmp_path)])
    assert (result.exit_code, result.output) == (
        1,
        f"Error: can't compile into {tmp_path}: MemoryError: too little\n",
    )


async def test_a_place_that_lacks_this_version_is_named(
    fresh: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLIMSCHED_COMPILED_DIR", os.fspath(fresh))
    monkeypatch.setattr(compilation, "_SCRIPT", "pass")
    await compile_ahead()
    assert f"SLIMSCHED_COMPILED_DIR = {fresh} has nothing for these sources" in caplog.text


async def test_without_a_place_to_keep_it_the_remedy_is_logged(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (preparation, compilation):
        monkeypatch.setattr(module, "CACHE_DIR", None)
    preparation.prepare.cache_clear()
    await prepare_decisions()
    assert (
        "at each start, because there is no directory to keep it in; give one that can be written by XDG_CACHE_HOME"
        in (caplog.text)
    )


async def test_the_loop_goes_on_while_what_is_compiled_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    was_asked = threading.Event()
    asked: list[bool] = []
    monkeypatch.setattr(compilation, "prepare", lambda: asked.append(was_asked.wait(30)))
    loading = asyncio.create_task(load_ahead())
    await asyncio.sleep(0)
    was_asked.set()
    await loading
    assert asked == [True]


async def test_who_has_compiled_for_himself_and_can_keep_nothing_is_told_why_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for module in (preparation, compilation):
        monkeypatch.setattr(module, "CACHE_DIR", None)
    preparation.prepare.cache_clear()
    await compile_ahead()
    await load_ahead()
    await prepare_decisions()
    assert [record.getMessage()[:29] for record in caplog.records] == ["compiling what decides, which"]
