"""One search for bytes that a target does not take, by Atheris, in the process that it may end.

``python -m tests.fuzzing.search TARGET FOLDER... [libFuzzer's options]``; ``tests.fuzzing.run`` starts it.
"""

from __future__ import annotations

import sys
from pathlib import Path

import atheris

_ROOT = Path(__file__).parents[2]
_COMPILED = [
    ".".join(path.relative_to(_ROOT).with_suffix("").parts)
    for path in (_ROOT / "orchestrator" / "policies").rglob("*.py")
    if path.stem not in ("parsing", "policy_file")
]
"""Modules that Numba compiles or that lie beside those; it understands no instrumented code."""

with atheris.instrument_imports(include=["orchestrator", "hpack"], exclude=_COMPILED):
    from tests.fuzzing.targets import TARGETS


def main() -> None:
    """Search until libFuzzer's options say that it is enough; a finding ends the process."""
    target = TARGETS[sys.argv[1]]
    target(b"")  # what is made at the first use, compiled code even, is no slow input
    atheris.Setup([sys.argv[0], *sys.argv[2:]], target)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
