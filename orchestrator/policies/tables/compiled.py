"""Decisions at the speed of C, by Numba.

A decision is written as scalar loops over tables of floats, in the part of Python that Numba compiles. So the router
decides about 64 servers in some tens of microseconds, and a simulator runs the very same functions inside a compiled
event loop. The alternatives that were measured, for 8 servers and 4 widths on one core: objects and generators cost
1 ms a decision; numpy over many worlds in lock-step costs at least 10 µs, for a loop that nobody can read; compiled
loops cost 1 to 2 µs. Tables are two-dimensional because Numba takes 0.1 µs to receive one and 8 µs to receive a tuple
of as many columns.

What was compiled is kept on disk (``code_cache``). Where that can't be written each process compiles anew, half a
minute long.
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from orchestrator.policies.tables.code_cache import (
    PLACE_VARIABLE,
    cache_places,
    choose_cache,
    compile_for,
    find_complete,
    folder_name,
    keep_code,
    this_processor,
)
from orchestrator.policies.tables.inlined import compile_into_callers

numba: Any = import_module("numba")  # untyped, like the next ones
_extending: Any = import_module("numba.extending")
_ir: Any = import_module("llvmlite.ir")

_OPTIONS: dict[str, Any] = {"_nrt": False, "error_model": "numpy", "no_cfunc_wrapper": True, "forceinline": True}
"""Nothing is allocated in such functions, so references need no counting, which more than halves their time. Divisors
are checked where they may be 0, so a division needs no check of its own. None is called from C, and a wrapper for that
would take a tenth of the time to compile. A fleet's tables are some hundred numbers to a callee, shapes and strides
among them, so that half of the time would go into handing them over: each is compiled into what calls it."""
_UNLOCKED = _OPTIONS | {"forceinline": False, "nogil": True}
_CACHE_LINE_BYTES = 64
_SOURCES = ("policies", "simulation", "profile")
_Function = TypeVar("_Function", bound=Callable[..., Any])

Column = NDArray[np.float64]
"""One row of a table, by index."""
Table = NDArray[np.float64]
"""Columns of the same length by field, [fields, length]."""


def new_column(length: int) -> Column:
    """Return a column of zeros, never empty."""
    return np.zeros(max(1, length))


def new_table(fields: int, length: int) -> Table:
    """Return a table of zeros; its columns are never empty."""
    return np.zeros((fields, max(1, length)))


def new_spread_table(fields: int, length: int) -> Table:
    """Return a table of zeros whose columns have ``length`` or a few more, for loops that read all fields of an entry.

    Columns are an odd number of cache lines apart. Were they 4 KiB apart, as those of 128 servers of 4 widths, all
    fields of an entry would share one set of a processor's first cache: a decision would take three times as long.
    """
    lines = -(-max(1, length) * np.dtype(np.float64).itemsize // _CACHE_LINE_BYTES)
    return np.zeros((fields, (lines | 1) * _CACHE_LINE_BYTES // np.dtype(np.float64).itemsize))


def compiled(function: _Function) -> _Function:
    """Compile ``function`` at its first call; it may call others that are marked so, which are compiled into it.

    One that Python calls is compiled for that as well.
    """
    return _compiled(function, _OPTIONS)


def compiled_apart(function: _Function) -> _Function:
    """Compile a large or rare function as ``compiled`` does, but once for all its callers: that takes less time."""
    return _compiled(function, _OPTIONS | {"forceinline": False})


def compiled_unlocked(function: _Function) -> _Function:
    """Compile as ``compiled_apart`` does what runs for long; other threads of Python run meanwhile."""
    return _compiled(function, _UNLOCKED)


class CompiledOnce:
    """A function of two arguments, like those of ``compiled_unlocked``, which others call by its address.

    What else is called goes into the caller's code, where LLVM optimizes it anew and translates it into the machine's
    language, also when it was compiled apart. For the loop of a simulated world that takes half a minute, in each of
    four callers. So those are handed its address, an argument like any other, and call ``at(address, …)``. That is for
    arguments of one type each; a caller with others is not compiled. It must not raise: its callers would not see it.

    Attributes:
        address: Where the code is in this process; 0 before ``compile_for``.
        at: Calls it, in compiled functions, which have to find it under a name of its own.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self.__doc__ = function.__doc__
        self._function: Any = _compiled(function, _UNLOCKED | {"no_cfunc_wrapper": False})
        self.address = 0
        self._types: tuple[Any, ...] = ()
        self.at = _extending.intrinsic(self._type_call)

    def __call__(self, *arguments: Any) -> Any:
        """Call it from Python."""
        return self._function(*arguments)

    def compile_for(self, *arguments: Any) -> int:
        """Return the address, of code for arguments of these types; they are the same at each call."""
        self._types = tuple(map(numba.typeof, arguments))
        self._function.compile(self._types)
        found = self._function.overloads[self._types]
        self.address = int(found.library.get_pointer_to_function(found.fndesc.llvm_cfunc_wrapper_name))
        return self.address

    def _type_call(self, typing_context: Any, address: Any, first: Any, second: Any) -> Any:
        """Return the signature of a call at an address, and what writes it; Numba's protocol of an intrinsic."""
        if (first, second) != self._types:
            name = self._function.py_func.__name__
            raise numba.core.errors.TypingError(f"{name} is at its address for {self._types}, not {(first, second)}")
        result = self._function.overloads[self._types].signature.return_type

        def write(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            taken = [context.get_value_type(kind) for kind in signature.args[1:]]
            kind = _ir.FunctionType(context.get_value_type(result), taken)
            return context.call_function_pointer(builder, builder.inttoptr(values[0], kind.as_pointer()), values[1:])

        return result(address, first, second), write


def _compiled(function: _Function, options: Mapping[str, Any]) -> _Function:
    dispatcher = numba.njit(**options)(function)
    if CACHE_DIR is not None:
        keep_code(dispatcher, CACHE_DIR, _PACKAGE)
    if options["forceinline"]:
        compile_into_callers(dispatcher, function, options)
    return cast(_Function, dispatcher)


def _digest_sources() -> str:
    digest = hashlib.sha256()
    for part in _SOURCES:
        for source in sorted((_PACKAGE / part).glob("**/*.py")):
            digest.update(source.read_bytes())
    return digest.hexdigest()[:12]


def _find_cache() -> Path | None:
    """Return where code is kept, and compile for the processor that what is there was compiled for."""
    makes, own = (SOURCE_DIGEST, numba.__version__, str(sys.implementation.cache_tag)), this_processor()
    places = list(cache_places(_PACKAGE, os.environ))
    # The named place comes first; whoever tells Numba a processor gets code for no other.
    named = places[0] if os.environ.get(PLACE_VARIABLE) and numba.config.CPU_NAME is None else None
    found = find_complete(places, makes, own, named)
    if found is None:
        return choose_cache(places, folder_name(makes, own))
    folder, processor = found
    compile_for(processor)
    return folder


_PACKAGE = Path(__file__).parents[2]
SOURCE_DIGEST = _digest_sources()
"""Digest of all code that decides or simulates: with another one the same run may end otherwise."""
CACHE_DIR = _find_cache()
"""Where what was compiled is kept; None: nowhere."""
