"""Where what was compiled is kept, for whoever may write where."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from orchestrator.policies.tables import compiled as module
from orchestrator.policies.tables.compiled import (
    CompiledOnce,
    compiled,
    compiled_apart,
    compiled_unlocked,
    new_spread_table,
)

PACKAGE = Path(module.__file__).parents[2]


def doubled(number: float) -> float:
    return 2 * number


def product(number: float, factor: float) -> float:
    return number * factor


@pytest.mark.parametrize("length", [0, 1, 8, 9, 256, 512, 4000])
def test_fields_of_an_entry_lie_in_different_sets_of_the_cache(length: int) -> None:
    table, cache_lines, sets = new_spread_table(16, length), 64, 64
    assert max(1, length) <= table.shape[1] <= length + 16
    used = {at * table.strides[0] // cache_lines % sets for at in range(16)}
    assert len(used) == 16


def test_a_function_is_compiled_into_its_callers_unless_it_is_compiled_apart() -> None:
    into, apart = compiled(doubled), compiled_apart(doubled)
    assert into(2.0) == apart(2.0) == 4.0
    assert (into.targetoptions["forceinline"], apart.targetoptions["forceinline"]) == (True, False)  # type: ignore[attr-defined]


def test_a_function_that_is_called_by_its_address_is_compiled_once_and_for_arguments_of_one_type(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "CACHE_DIR", None)
    times = CompiledOnce(product)
    product_at = times.at

    def twice(address: int, number: float, factor: float) -> Any:
        return 2 * product_at(address, number, factor)

    caller = compiled_unlocked(twice)
    assert times.address == 0
    assert times.compile_for(3.0, 2.0) == times.address != 0
    assert times(3.0, 2.0) == 6.0
    assert caller(times.address, 3.0, 2.0) == 12.0
    (code,) = caller.overloads.values()  # type: ignore[attr-defined]
    assert "product" not in code.library.get_llvm_str()
    with pytest.raises(module.numba.TypingError, match="product is at its address for"):
        caller(times.address, 3, 2.0)


@pytest.mark.parametrize("is_kept", [True, False])
def test_what_is_compiled_is_kept_in_that_place_or_nowhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_kept: bool
) -> None:
    monkeypatch.setattr(module, "CACHE_DIR", tmp_path if is_kept else None)
    assert compiled(doubled)(2.0) == 4.0
    assert bool(list(tmp_path.glob("**/*.nbc"))) is is_kept


def test_a_package_that_can_not_be_written_is_compiled_into_the_users_cache(tmp_path: Path) -> None:
    """As root installs it and a service runs it; that the directory is a file stops root too."""
    installed = tmp_path / "installed" / "orchestrator"
    shutil.copytree(PACKAGE, installed, ignore=shutil.ignore_patterns("__pycache__", "shipped"))
    (installed / "__pycache__").touch()
    code = "from orchestrator.policies.tables.compiled import CACHE_DIR; print(CACHE_DIR)"

    def place(environ: dict[str, str]) -> str:
        environ |= {"PYTHONPATH": str(installed.parent), "PYTHONDONTWRITEBYTECODE": "1"}
        run = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, env=environ, cwd=tmp_path, check=True
        )
        return run.stdout.strip()

    assert Path(place({"XDG_CACHE_HOME": str(tmp_path / "cache")})).parent == tmp_path / "cache" / "slim-scheduler"
    (tmp_path / "home").touch()
    assert place({"HOME": str(tmp_path / "home")}) == "None"
