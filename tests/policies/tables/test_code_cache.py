"""Where compiled code is kept, for which processor, and who loads it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.policies.tables import compiled as module
from orchestrator.policies.tables.code_cache import (
    ANY_PROCESSOR,
    COMPLETE,
    PLACE_VARIABLE,
    Processor,
    cache_places,
    choose_cache,
    find_complete,
    folder_name,
    this_processor,
)
from orchestrator.policies.tables.compiled import compiled
from tests.closed import closed

OWN = Processor("zen", "+avx2")
MAKES = ("sources", "numba", "python")
SMALL_PROGRAM = """
from numba.core import event
with event.install_recorder("numba:compile") as recorder:
    from orchestrator.policies.tables.compiled import CACHE_DIR, compiled
    from tests.policies.tables.test_code_cache import doubled
    assert compiled(doubled)(2.0) == 4.0
print(CACHE_DIR, len(recorder.buffer))
"""

INTERRUPTED_PROGRAM = """
import signal
from numba.core.registry import cpu_target
from orchestrator.policies.tables.compiled import compiled
from tests.policies.tables.test_code_cache import doubled
engine = cpu_target.target_context.codegen()._engine._ee
engine._object_cache_notify = lambda *_: signal.raise_signal(signal.SIGINT)  # where Python gets it while LLVM compiles
try:
    compiled(doubled)(2.0)
except KeyboardInterrupt:
    print("interrupted")
"""

LOADING_PROGRAM = """
import sys, numba
from orchestrator.policies.tables.compiled import compiled_apart
from tests.policies.tables.test_code_cache import doubled
loaded = compiled_apart(doubled)
assert loaded(2.0) == 4.0
print("numba.np.arraymath" in sys.modules)
assert numba.njit(lambda number: loaded(number) + 1)(2.0) == 5.0
print("numba.np.arraymath" in sys.modules)
"""


def doubled(number: float) -> float:
    return 2 * number


def tripled(number: float) -> float:
    return 3 * number


@pytest.mark.parametrize(
    ("environ", "second"),
    [
        ({"XDG_CACHE_HOME": "/var/cache/x", "HOME": "/home/u"}, "/var/cache/x/slim-scheduler"),
        ({"HOME": "/home/u"}, "/home/u/.cache/slim-scheduler"),
        ({"XDG_CACHE_HOME": "relative", "HOME": "/home/u"}, "/home/u/.cache/slim-scheduler"),
        ({"XDG_CACHE_HOME": ""}, None),
    ],
)
def test_the_package_is_the_first_place_and_the_users_cache_the_second(
    environ: dict[str, str], second: str | None
) -> None:
    assert list(cache_places(Path("/p"), environ)) == [Path("/p/__pycache__"), *([Path(second)] if second else [])]


def test_a_place_that_is_named_comes_before_both() -> None:
    assert list(cache_places(Path("/p"), {PLACE_VARIABLE: "/image"})) == [Path("/image"), Path("/p/__pycache__")]


def test_the_first_place_that_can_be_written_is_taken(tmp_path: Path) -> None:
    (tmp_path / "file").touch()  # root may write into any directory, but nobody into a file
    found = choose_cache([tmp_path / "file", tmp_path / "a" / "b", tmp_path / "c"], "compiled-1")
    assert found == tmp_path / "a" / "b" / "compiled-1"
    assert found.is_dir()
    assert not (tmp_path / "c").exists()
    assert choose_cache([tmp_path / "file"], "compiled-1") is None


def test_code_that_another_user_has_closed_is_not_there(tmp_path: Path) -> None:
    theirs, own = (tmp_path / place / folder_name(MAKES, OWN) for place in ("theirs", "own"))
    for folder in (theirs, own):
        folder.mkdir(parents=True)
    (theirs / COMPLETE).touch()
    with closed(theirs):
        assert find_complete([tmp_path / "theirs", tmp_path / "own"], MAKES, OWN, None) is None
    assert find_complete([tmp_path / "theirs"], MAKES, OWN, None) == (theirs, OWN)


def test_code_for_this_processor_goes_before_code_for_any_which_only_the_named_place_has(tmp_path: Path) -> None:
    named, usual = tmp_path / "named", tmp_path / "usual"

    def find(named: Path | None, makes: tuple[str, ...] = MAKES) -> tuple[Path, Processor] | None:
        return find_complete([tmp_path / "named", usual], makes, OWN, named)

    def complete(place: Path, processor: Processor) -> Path:
        folder = place / folder_name(MAKES, processor)
        folder.mkdir(parents=True)
        assert find(named) != (folder, processor)
        (folder / COMPLETE).touch()
        return folder

    complete(usual, ANY_PROCESSOR)
    assert find(named) is None
    in_usual = complete(usual, OWN)
    assert find(named) == (in_usual, OWN)
    for_any = complete(named, ANY_PROCESSOR)
    assert find(named) == (for_any, ANY_PROCESSOR)
    assert find(None) == (in_usual, OWN)
    assert find(named) != find(named, ("other", *MAKES[1:])) is None
    in_named = complete(named, OWN)
    assert find(named) == (in_named, OWN)


def run(program: str, place: Path, **more: str) -> list[str]:
    """Return the words that a program prints which keeps code in a place."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("NUMBA")}
    environment |= {PLACE_VARIABLE: str(place), **more}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment, check=True)
    return done.stdout.split()


def test_what_was_compiled_for_any_processor_is_loaded_by_a_process_that_is_given_its_place(tmp_path: Path) -> None:
    folder, compiled_events = run(SMALL_PROGRAM, tmp_path, NUMBA_CPU_NAME="generic")
    assert int(compiled_events) > 0
    (Path(folder) / COMPLETE).touch()
    assert run(SMALL_PROGRAM, tmp_path) == [folder, "0"]
    own, _ = run(SMALL_PROGRAM, tmp_path, NUMBA_CPU_NAME=this_processor().name)  # as one who compiles for it does
    assert own != folder


def test_an_interruption_while_something_compiles_is_one(tmp_path: Path) -> None:
    assert run(INTERRUPTED_PROGRAM, tmp_path, NUMBA_CPU_NAME="generic") == ["interrupted"]


def test_what_only_a_compiler_needs_is_loaded_once_one_compiles(tmp_path: Path) -> None:
    assert run(LOADING_PROGRAM, tmp_path, NUMBA_CPU_NAME="generic") == ["True", "True"]
    assert run(LOADING_PROGRAM, tmp_path, NUMBA_CPU_NAME="generic") == ["False", "True"]


def test_a_folder_that_can_not_be_written_is_used_when_it_is_complete(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CACHE_DIR", tmp_path)
    (tmp_path / Path(__file__).parent.name).symlink_to("nowhere")  # stops root too
    with pytest.raises(OSError, match="exists"):
        compiled(doubled)(2.0)
    (tmp_path / COMPLETE).touch()
    assert compiled(tripled)(2.0) == 6.0
