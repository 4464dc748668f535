"""Run as a program: kills writers of a model at each of their steps, and looks at what they leave behind.

Each writer is a forked child that ends without any clean-up at its k-th file-system operation, for every k until
one lives to the end. Usage: ``python -m tests.export.repository.crash_driver FOLDER exchange|renames``.
"""

from __future__ import annotations

import itertools
import os
import sys
from pathlib import Path

from export.repository.model_files import Files, Swap, exchange, leftovers, read_model, swap_by_renames, write_models

OLD = {"config.pbtxt": b"old", "labels.txt": b"old", "1/model.onnx": b"old" * 1000}
NEW = {"config.pbtxt": b"new", "labels.txt": b"new", "1/model.onnx": b"new" * 1000}
_STEPS = frozenset({"open", "os.mkdir", "os.rename", "os.rmdir", "os.remove", "os.scandir", "ctypes.dlsym"})


def write_model(repository: Path, name: str, files: Files, *, swap: Swap | None = None) -> bool:
    """Write one model; return whether anything had to be written."""
    return write_models(repository, {name: files}, swap=swap)[name]


def crash_at(step: int, repository: Path, how: str) -> bool:
    """Write NEW in a child that dies at its operation number ``step``; return whether it died."""
    child = os.fork()
    if child == 0:
        count = itertools.count()

        def die(event: str, _: object) -> None:
            if event in _STEPS and next(count) == step:
                os._exit(1)

        sys.addaudithook(die)
        write_model(repository, "toys_w025", NEW, swap=exchange if how == "exchange" else swap_by_renames)
        os._exit(0)
    return os.waitpid(child, 0)[1] != 0


def check(repository: Path, how: str, *, fresh: bool) -> None:
    """Assert what a crash may leave, and that the next export repairs the rest."""
    found = read_model(repository / "toys_w025")
    gone_is_fine = fresh or how == "renames"
    assert found in (OLD, NEW) or (gone_is_fine and not found), sorted(found)
    if not found and not fresh:  # between two renames: the old model waits whole in the staging folder
        assert any(read_model(path) == OLD for stage in leftovers(repository) for path in stage.glob("old/*"))
    assert os.listdir(repository) in ([], ["toys_w025"])
    written = write_model(repository, "toys_w025", found or OLD)
    assert written == (not found and fresh), "the old model was not put back"
    assert not leftovers(repository)


def main(folder: Path, how: str) -> None:
    for fresh in (False, True):
        outcomes = set()
        for step in itertools.count():
            repository = folder / f"{how}-{fresh}-{step}" / "models"
            repository.mkdir(parents=True)
            if not fresh:
                write_model(repository, "toys_w025", OLD)
            died = crash_at(step, repository, how)
            outcomes.add(read_model(repository / "toys_w025").get("config.pbtxt"))
            check(repository, how, fresh=fresh)
            if not died:
                break
        print(f"{how}, {'fresh' if fresh else 'replacing'}: {step} crashes, outcomes {sorted(map(str, outcomes))}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
