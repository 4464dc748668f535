"""Everything that decides is compiled before the first decision, and by one process at a time."""

from __future__ import annotations

import asyncio
import fcntl
import importlib
import os
import pkgutil
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from orchestrator import policies
from orchestrator.policies import preparation
from orchestrator.policies.learned.policy_file import write_policy_file
from orchestrator.policies.preparation import is_prepared
from orchestrator.policies.registry import policy_names
from orchestrator.policies.tables.code_cache import COMPLETE, PLACE_VARIABLE
from orchestrator.policies.tables.compiled import CACHE_DIR
from orchestrator.snapshot import Preference
from tests.fakes.servers import FakeServer, item
from tests.policies.learned.test_policy import paper, slim, trained
from tests.router.test_reconfigure import fleet_of, routed


def compiled_so_far() -> dict[str, int]:
    """Return for each function that Python may call compiled for how many signatures it is."""
    found: dict[str, int] = {}
    for module in pkgutil.walk_packages(policies.__path__, "orchestrator.policies."):
        for name, value in vars(importlib.import_module(module.name)).items():
            overloads: Any = getattr(value, "overloads", None)
            if overloads is not None:
                found[f"{module.name}.{name}"] = len(overloads)
    return found


async def decide_by_every_policy(folder: Path) -> None:
    """Let one router go by each policy after the other, as its fleet file would say; nothing may be compiled."""
    write_policy_file(folder / "ppo-slim.npz", slim("thrift", weights=trained()))
    write_policy_file(folder / "ppo-paper.npz", paper((3, 4, 6), np.zeros(13)).file)
    addresses = {name: f"127.0.0.1:{port}" for name, port in (("a", 1), ("b", 2), ("c", 3))}
    fakes = {address: FakeServer() for address in addresses.values()}
    async with routed(fleet_of(addresses), fakes) as router:
        before = compiled_so_far()
        assert sum(before.values()) > 0
        for policy in (*policy_names(), "ppo-slim", "ppo-paper"):
            for changes in ({"policy": policy}, {"policy": "jsq", "shadow_policy": policy}):
                router.reconfigure(fleet_of(addresses, policy_file=folder / f"{policy}.npz", **changes))
                preferences = [None, Preference(0.2, 0.2, 0.6)] * 4
                answers = await asyncio.gather(
                    *(router.infer(item(n), preference=p) for n, p in enumerate(preferences))
                )
                assert answers[0].policy == changes["policy"]
    assert compiled_so_far() == before


def test_no_policy_is_compiled_by_a_request(tmp_path: Path) -> None:
    """In a process of its own, where no other test has compiled anything before."""
    code = (
        "import asyncio, pathlib\n"
        "from tests.fakes.virtual_time import new_virtual_loop\n"
        "from tests.policies.test_preparation import decide_by_every_policy\n"
        "with asyncio.Runner(loop_factory=new_virtual_loop) as runner: "
        f"runner.run(decide_by_every_policy(pathlib.Path({str(tmp_path)!r})))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


def test_a_process_with_a_copy_that_it_can_not_write_compiles_nothing(tmp_path: Path) -> None:
    preparation.prepare()
    assert CACHE_DIR is not None
    copy = tmp_path / CACHE_DIR.name
    shutil.copytree(CACHE_DIR, copy)
    (copy / COMPLETE).touch()
    files = sorted(copy.rglob("*"))
    for path in (*files, copy):
        path.chmod(0o555)
    code = (
        "from numba.core import event\n"
        "with event.install_recorder('numba:compile') as recorder:\n"
        "    from orchestrator.policies.preparation import CACHE_DIR, prepare\n"
        "    prepare()\n"
        "print(CACHE_DIR, len(recorder.buffer))"
    )
    environment = {**os.environ, PLACE_VARIABLE: str(tmp_path)}
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert run.stdout.split() == [str(copy), "0"]
    assert sorted(copy.rglob("*")) == files


def test_one_process_compiles_at_a_time_and_tells_the_others_when_all_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preparation, "CACHE_DIR", tmp_path)
    assert not is_prepared()
    with preparation._alone(), (tmp_path / "lock").open("w") as other:
        with pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        assert not is_prepared()
    assert is_prepared()


def test_what_failed_to_compile_is_not_said_to_be_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preparation, "CACHE_DIR", tmp_path)
    with pytest.raises(MemoryError), preparation._alone():
        raise MemoryError
    assert not is_prepared()


def test_where_nothing_can_be_kept_each_process_compiles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preparation, "CACHE_DIR", None)
    with preparation._alone():
        pass
    assert not is_prepared()
