"""Decisions at the speed of C where Numba is installed, and plain Python where it is not.

A decision is written as scalar loops over tables of floats, in the part of Python that Numba compiles. So the router
decides about 64 servers in some tens of microseconds, a simulator runs the very same functions inside a compiled
event loop, and serving still needs nothing but Python: without Numba a table is a list of lists, on which such loops
run twice as fast as on numpy arrays. The alternatives that were measured, for 8 servers and 4 widths on one core:
objects and generators cost 1 ms a decision; numpy over many worlds in lock-step costs at least 10 µs, for a loop that
nobody can read; compiled loops cost 1 to 2 µs. Tables are two-dimensional because Numba takes 0.1 µs to receive one
and 8 µs to receive a tuple of as many columns.

Numba's disk cache looks only at the file of a function, and so would keep running what that function once called in
another file. Therefore each state of the sources has a directory of its own.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol, TypeVar, cast

import numpy as np

try:
    numba: Any = import_module("numba")
except ImportError:  # the base install: serving alone
    numba = None

IS_COMPILED = numba is not None
"""Whether functions marked ``compiled`` are."""

_OPTIONS: dict[str, Any] = {"_nrt": False, "error_model": "numpy"}
"""Nothing is allocated in such functions, so references need no counting, which more than halves their time. Divisors
are checked where they may be 0, so a division needs no check of its own."""
_SOURCES = ("routing", "simulation", "profile")
_Function = TypeVar("_Function", bound=Callable[..., Any])


class Column(Protocol):
    """Floats by index: a row of an array, or a list."""

    def __getitem__(self, index: int, /) -> float:
        """Return one."""
        ...

    def __setitem__(self, index: int, value: float, /) -> None:
        """Change one."""
        ...


class Table(Protocol):
    """Columns of the same length by field: float64 [fields, length], or a list of lists."""

    def __getitem__(self, field: int, /) -> Column:
        """Return one."""
        ...


def new_column(length: int) -> Column:
    """Return a column of zeros; never empty, so that its type is one to a compiler."""
    return cast(Column, np.zeros(max(1, length))) if IS_COMPILED else [0.0] * max(1, length)


def new_table(fields: int, length: int) -> Table:
    """Return a table of zeros; its columns are never empty."""
    if IS_COMPILED:
        return cast(Table, np.zeros((fields, max(1, length))))
    return [[0.0] * max(1, length) for _ in range(fields)]


def read_row(table: Table, fields: int, at: int) -> list[float]:
    """Return what the first ``fields`` columns hold at one place, which is much quicker than one by one."""
    if isinstance(table, np.ndarray):
        return cast("list[float]", table[:fields, at].tolist())
    return [table[field][at] for field in range(fields)]


def write_row(table: Table, at: int, values: Sequence[float]) -> None:
    """Write a value into each of the first columns at one place."""
    if isinstance(table, np.ndarray):
        table[: len(values), at] = values
    else:
        for field, value in enumerate(values):
            table[field][at] = value


def compiled(function: _Function) -> _Function:
    """Compile ``function`` at its first call, when Numba is there; it may call others that are marked so."""
    if numba is None:
        return function
    before = numba.config.CACHE_DIR
    try:
        numba.config.CACHE_DIR = str(_CACHE_DIR)
        return cast(_Function, numba.njit(cache=True, **_OPTIONS)(function))
    except RuntimeError:  # no directory can be written, so it is compiled in every process
        return cast(_Function, numba.njit(**_OPTIONS)(function))
    finally:
        numba.config.CACHE_DIR = before


def _digest_sources() -> str:
    digest = hashlib.sha256()
    for part in _SOURCES:
        for source in sorted((_PACKAGE / part).glob("**/*.py")):
            digest.update(source.read_bytes())
    return digest.hexdigest()[:12]


_PACKAGE = Path(__file__).parent.parent
SOURCE_DIGEST = _digest_sources()
"""Of all code that decides or simulates: with another one the same run may end otherwise."""
_CACHE_DIR = _PACKAGE / "__pycache__" / f"compiled-{SOURCE_DIGEST}"
