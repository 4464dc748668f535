"""Inputs that reach different code, kept for each target in a text file: one input a line, in base64.

So a corpus is one small file that a diff shows, and the fuzzer's directories are made of it and thrown away.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable
from pathlib import Path

FOLDER = Path(__file__).parent / "corpora"


def read_corpus(name: str, folder: Path = FOLDER) -> list[bytes]:
    """Return the inputs of a target, the shortest first; raises ValueError when a line is no base64."""
    path = folder / f"{name}.txt"
    return [base64.b64decode(line, validate=True) for line in path.read_text().split()] if path.exists() else []


def write_corpus(name: str, inputs: Iterable[bytes], folder: Path = FOLDER) -> None:
    """Write the inputs of a target, each once, the shortest first."""
    lines = [
        base64.b64encode(data).decode() for data in sorted(set(inputs), key=lambda data: (len(data), data)) if data
    ]
    (folder / f"{name}.txt").write_text("\n".join(lines) + "\n")


def unpack(inputs: Iterable[bytes], into: Path) -> None:
    """Write each input into a file of its own, named by its digest as libFuzzer does."""
    for data in inputs:
        (into / hashlib.sha1(data).hexdigest()).write_bytes(data)
