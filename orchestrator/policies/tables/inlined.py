"""Functions that Numba compiles into their callers, and not also for Python.

Numba makes each function callable from Python, whether anybody does that or not: it is optimized together with all that
it calls, translated into the machine's language, and then goes into its callers, where both happen again. A function
four calls deep is worked at five times. Here a function is optimized by itself. What it calls is only added, and its
first caller that is no such function does the rest for all of them. What decides and simulates is compiled in two
thirds of the time, and runs no slower.

Numba offers to replace its compiler for a function; what is done otherwise lies in classes that it does not document.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from importlib import import_module
from typing import Any

numba: Any = import_module("numba")  # untyped, like the next ones
_codegen: Any = import_module("numba.core.codegen")
_compiler: Any = import_module("numba.core.compiler")
_dynfunc: Any = import_module("numba._dynfunc")


def compile_into_callers(dispatcher: Any, function: Callable[..., Any], options: Mapping[str, Any]) -> None:
    """Let callers of a function that Numba compiles get other code of it than Python, which ``dispatcher`` serves.

    ``options`` are those of ``numba.njit``.
    """

    @cache  # when it is compiled, which processes that load what they need never do
    def inlined() -> Any:
        return numba.njit(pipeline_class=_IntoCallers, no_cpython_wrapper=True, **options)(function)

    dispatcher.get_call_template = lambda *arguments: inlined().get_call_template(*arguments)
    dispatcher.get_overload = lambda signature: inlined().get_overload(signature)


class _Code(_codegen.JITCodeLibrary):  # type: ignore[misc]
    """The code of a function and of what it calls, which is never run by itself."""

    def finalize(self) -> None:
        """Optimize what is there before what it calls is added: loops are made the faster for it in their callers."""
        super()._optimize_final_module()
        super().finalize()

    def _optimize_final_module(self) -> None:
        """Leave that to the caller."""

    def _finalize_final_module(self) -> None:
        """Give nothing to what translates into the machine's language."""
        self._finalize_dynamic_globals()
        self._finalized = True


class _IntoCallers(_compiler.Compiler):  # type: ignore[misc]
    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        context = self.state.targetctx
        self.state.library = _Code(context.codegen(), "inlined")
        self.state.targetctx = context.subtarget(get_executable=_stand_in)


def _stand_in(library: Any, description: Any, environment: Any) -> Any:
    """Return what Numba's callers know a function by; Python, which could not call it, does not get to see it."""
    nowhere = 0
    return _dynfunc.make_function(
        description.lookup_module(), description.qualname, "", nowhere, environment, (library,)
    )
