"""Archives of arrays (.npz) that NumPy opens, and then can't read."""

from __future__ import annotations

import struct
import zipfile
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

KINDS = ("encrypted", "unknown compression", "no array")


def save_damaged(kind: str, path: Path, **arrays: ArrayLike) -> Path:
    """Write an archive with one kind of damage to each array."""
    np.savez(path, **arrays)
    if kind == "no array":
        with zipfile.ZipFile(path, "w") as archive:
            for name in arrays:
                archive.writestr(f"{name}.npy", "hello")
        return path
    data = bytearray(path.read_bytes())
    for signature, flags in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        place = data.find(signature)
        while place >= 0:
            encrypted, method = (1, 0) if kind == "encrypted" else (0, 77)
            struct.pack_into("<HH", data, place + flags, encrypted, method)
            place = data.find(signature, place + 4)
    path.write_bytes(data)
    return path
