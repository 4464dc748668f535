"""Where compiled code is kept: which folder, for which processor, and Numba's way to it.

Each state of the sources, of Numba, of Python and each kind of processor has a folder of its own, because Numba looks
only at the file of a function, and so would keep running what that function once called in another file. The folders
are in the package where that can be written, as in a checkout or a virtual environment of one's own, else in the user's
cache, as when root has installed what a service runs. ``SLIMSCHED_COMPILED_DIR`` names a place that comes before both.

A folder is complete once all that decides is in it (``orchestrator.policies.preparation``). A complete one is used
wherever it is, and need not be writable: an image brings it along, and a container with a read-only file system never
compiles. In the named place code for any processor of the architecture will do as well. It is compiled for the oldest
one, as an image is built on one machine and runs on others.

Numba's own locators refuse a folder that can't be written, and tell files by their absolute paths. Here the folder
already tells the sources, so a function is found by its module, wherever the package lies.

Who loads code mostly compiles none, so what only a compiler needs is left until one does: Numba's implementations of
Python and numpy, and LLVM's form of the functions that were loaded. Together they would take half a second of a
processor, and 50 MiB, of each process that decides. For that a class that Numba does not document is told which names
the code defines.
"""

from __future__ import annotations

import hashlib
import inspect
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from functools import cache, partial
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

_config: Any = import_module("numba.core.config")  # untyped, like the next ones
_codegen: Any = import_module("numba.core.codegen")
_caching: Any = import_module("numba.core.caching")
_runtime: Any = import_module("numba.core.runtime").rtsys
_llvm: Any = import_module("llvmlite.binding")

PLACE_VARIABLE = "SLIMSCHED_COMPILED_DIR"
GENERIC = "generic"
"""LLVM's name for the oldest processor of an architecture."""
COMPLETE = "complete"
"""A file in a folder in which all that decides is."""


class Processor(NamedTuple):
    """What code is compiled for, as Numba's settings ``CPU_NAME`` and ``CPU_FEATURES`` say it."""

    name: str
    features: str


ANY_PROCESSOR = Processor(GENERIC, "")


def this_processor() -> Processor:
    """Return what Numba compiles for here: this machine's processor, unless its settings name another."""
    name, features = _config.CPU_NAME, _config.CPU_FEATURES
    return Processor(
        _llvm.get_host_cpu_name() if name is None else name,
        _codegen.get_host_cpu_features() if features is None else features,
    )


def compile_for(processor: Processor) -> None:
    """Let Numba compile for a processor, and look for code of it, from now on; nothing may be compiled yet."""
    _config.CPU_NAME, _config.CPU_FEATURES = processor


def cache_places(package: Path, environ: Mapping[str, str]) -> Iterator[Path]:
    """Yield the directories that may hold what was compiled of a package, the best first."""
    if named := environ.get(PLACE_VARIABLE):
        yield Path(named).absolute()
    yield package / "__pycache__"
    root = environ.get("XDG_CACHE_HOME", "")
    if not os.path.isabs(root):  # it is to be ignored then
        root = os.path.join(environ.get("HOME", ""), ".cache")
    if os.path.isabs(root):
        yield Path(root) / "slim-scheduler"


def folder_name(makes: Iterable[str], processor: Processor) -> str:
    """Return the name of the folder for a processor, given what else makes code differ."""
    return f"compiled-{hashlib.sha256('-'.join((*makes, *processor)).encode()).hexdigest()[:12]}"


def find_complete(
    places: Iterable[Path], makes: Iterable[str], own: Processor, named: Path | None
) -> tuple[Path, Processor] | None:
    """Return the first complete folder, and what its code is compiled for; None when there is none.

    Args:
        places: The places to look in, the best first.
        makes: What else makes code differ.
        own: The processor of this machine, which is looked for first.
        named: The one of the places in which code for any processor will do; None: there is none such.
    """
    for place in places:
        for processor in (own, ANY_PROCESSOR) if place == named else (own,):
            folder = place / folder_name(makes, processor)
            if os.path.exists(folder / COMPLETE):  # not one that another user has closed
                return folder, processor
    return None


def choose_cache(places: Iterable[Path], name: str) -> Path | None:
    """Return the directory ``name`` in the first place where one can be written, made if need be; None: in none."""
    for place in places:
        found = place / name
        try:
            found.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=found):
                return found
        except OSError:
            continue
    return None


def keep_code(dispatcher: Any, folder: Path, package: Path) -> None:
    """Let a function that Numba compiles load its code from a folder, and keep there what it has to compile.

    Where a complete folder can't be written, what else has to be compiled lasts as long as the process. ``package`` is
    the folder of the sources, wherever it lies.
    """
    dispatcher._cache = _FolderCache(dispatcher.py_func, folder, package)


class _FolderCache(_caching.FunctionCache):  # type: ignore[misc]
    """The code of one function, for all its signatures."""

    def __init__(self, function: Any, folder: Path, package: Path) -> None:
        source = Path(inspect.getfile(function))
        inside = source.parent.relative_to(package) if source.is_relative_to(package) else Path(source.parent.name)
        locator = _Locator(folder / inside, stamp=folder.name, line=function.__code__.co_firstlineno)
        self._is_complete = (folder / COMPLETE).exists
        self._impl_class = partial(_FolderCacheFiles, locator=locator)
        super().__init__(function)

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """Load code without the implementations that Numba would load here as well, and loads to compile."""
        _runtime.initialize(target_context)  # the code calls it, to take arrays from Python
        with self._guard_against_spurious_io_errors():
            return self._load_overload(sig, target_context)

    def save_overload(self, sig: Any, data: Any) -> None:
        try:
            super().save_overload(sig, data)
        except OSError:
            if not self._is_complete():  # else what has to last is there
                raise
        except RuntimeError as exc:
            if "no compiled object" not in str(exc):
                raise
            # LLVM hands its code over by a call in which Python first gets a signal that came meanwhile. What that
            # raises goes no further than the call, and the code is lost with it.
            raise KeyboardInterrupt from exc


class _FolderCacheFiles(_caching.CompileResultCacheImpl):  # type: ignore[misc]
    def __init__(self, function: Any, locator: _Locator) -> None:
        self._locator_classes = (locator,)
        super().__init__(function)

    def rebuild(self, target_context: Any, payload: Any) -> Any:
        """Load the machine's code; what is compiled with it later reads LLVM's form, which is four times as large."""
        (name, kind, (code, bitcode)), description, *others = payload
        entries = description.llvm_cpython_wrapper_name, description.llvm_cfunc_wrapper_name
        codegen = target_context.codegen()
        codegen._engine._defined_symbols.update(entry for entry in entries if entry.encode() in code)
        nothing = _llvm.parse_assembly("").as_bitcode()
        loaded = super().rebuild(target_context, ((name, kind, (code, nothing)), description, *others))
        loaded.library._get_module_for_linking = cache(partial(_llvm.parse_bitcode, bitcode))
        return loaded


class _Locator:
    """Says where the files of a function are, and what tells whether they are of its source; Numba's protocol."""

    def __init__(self, path: Path, *, stamp: str, line: int) -> None:
        self._path = path
        self._stamp = stamp
        self._line = line

    def from_function(self, function: Any, source: str) -> _Locator:
        self._py_file = source  # for Numba's warnings
        return self

    def ensure_cache_path(self) -> None:
        self._path.mkdir(parents=True, exist_ok=True)

    def get_cache_path(self) -> str:
        return str(self._path)

    def get_source_stamp(self) -> str:
        return self._stamp

    def get_disambiguator(self) -> str:
        return str(self._line)
