"""What is compiled into its callers, and for Python only where that calls it."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator.policies.tables import compiled as module
from orchestrator.policies.tables.compiled import compiled, compiled_apart


def doubled(number: float) -> float:
    return 2 * number


@pytest.fixture(autouse=True)
def nothing_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CACHE_DIR", None)


def test_what_only_compiled_functions_call_is_compiled_into_them_and_not_for_python() -> None:
    inner: Any = compiled(doubled)
    middle: Any = compiled(lambda number: inner(number) + 1)
    outer: Any = compiled_apart(lambda number: middle(inner(number)))
    assert outer(2.0) == 9.0
    assert not inner.overloads
    assert not middle.overloads


def test_what_python_calls_as_well_is_compiled_for_each_type_that_it_is_called_with() -> None:
    inner: Any = compiled(doubled)
    outer: Any = compiled_apart(lambda number: inner(number) + 1)
    assert (inner(2.0), outer(2.0), outer(2), inner(3.0)) == (4.0, 5.0, 5, 6.0)
    assert len(inner.overloads) == 1
    assert len(outer.overloads) == 2


def test_what_can_not_be_compiled_says_where_it_can_not() -> None:
    inner: Any = compiled(lambda number: number.nothing_of_that_name)
    outer: Any = compiled_apart(lambda number: inner(number))
    with pytest.raises(module.numba.TypingError, match="nothing_of_that_name"):
        outer(2.0)
