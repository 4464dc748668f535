"""One search for bytes that a target does not take, by Atheris, in the process that it may end.

Importing what is searched takes longer than a short search, since all of it is instrumented: a process that has done
that is forked for each target by ``tests.fuzzing.run``.
"""

from __future__ import annotations

import ctypes
import io
import os
from collections.abc import Sequence
from contextlib import redirect_stderr
from pathlib import Path

import atheris

_ROOT = Path(__file__).parents[2]
_COMPILED = [
    ".".join(path.relative_to(_ROOT).with_suffix("").parts)
    for path in (_ROOT / "orchestrator" / "policies").rglob("*.py")
    if path.stem not in ("parsing", "policy_file")
]
"""Modules that Numba compiles or that lie beside those; it understands no instrumented code."""

with (
    redirect_stderr(io.StringIO()),  # it names each module
    atheris.instrument_imports(include=["orchestrator", "hpack"], exclude=_COMPILED),
):
    from tests.fuzzing.targets import TARGETS


def search(name: str, arguments: Sequence[str], printed: Path) -> None:
    """Search until libFuzzer's options say that it is enough; a finding ends the process.

    Args:
        name: Of the target.
        arguments: Folders with inputs, the first of which is written to, and libFuzzer's options.
        printed: Where what it says goes.
    """
    with printed.open("wb") as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
    target = TARGETS[name]
    target(b"")  # what is made at the first use, compiled code even, is no slow input
    atheris.Setup(["search", *arguments], target)
    try:
        atheris.Fuzz()
    finally:  # C's own exit, which a forked process of Python passes by, is when libFuzzer writes what failed
        ctypes.CDLL(None).exit(1)
