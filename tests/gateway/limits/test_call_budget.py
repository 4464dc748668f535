"""Places of calls that are passed through: fair whatever comes, and none is lost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.config import GatewaySettings
from orchestrator.errors import CapacityError
from orchestrator.gateway.limits.call_budget import CallBudget

models = st.sampled_from("abcd")


def fill(calls: CallBudget, model: str) -> list[Callable[[], None]]:
    """Take places until there are none for a model."""
    taken: list[Callable[[], None]] = []
    while True:
        try:
            taken.append(calls.take(model))
        except CapacityError:
            return taken


@given(st.integers(2, 300), st.lists(st.tuples(models, st.booleans()), max_size=300))
def test_whoever_has_fewer_calls_is_let_in_first_and_none_is_lost(places: int, history: list[tuple[str, bool]]) -> None:
    calls = CallBudget(GatewaySettings(pass_on_calls=places))
    held: dict[str, list[Callable[[], None]]] = {model: [] for model in "abcd"}
    for model, ends in history:
        if ends and held[model]:
            held[model].pop()()
            continue
        under_way = Counter({name: len(given) for name, given in held.items()})
        try:
            held[model].append(calls.take(model))
        except CapacityError:
            assert under_way[model] >= places - under_way.total()
        else:
            assert under_way[model] < places - under_way.total()
    for given_back in held.values():
        for give_back in given_back:
            give_back()
    assert len(fill(calls, "a")) == (places + 1) // 2


@given(st.integers(2, 3000), st.integers(1, 8))
def test_each_model_that_hangs_leaves_half_of_what_it_found(places: int, hanging: int) -> None:
    calls = CallBudget(GatewaySettings(pass_on_calls=places))
    for number in range(hanging):
        fill(calls, f"hangs {number}")
    assert len(fill(calls, "well")) >= places // 2 ** (hanging + 1)


@pytest.mark.parametrize(("default_s", "limit"), [(300.0, "= 300"), (None, "= null")])
def test_the_time_of_a_model_is_its_own_or_everybodys(default_s: float | None, limit: str) -> None:
    settings = GatewaySettings.model_validate(
        {"pass_on_timeout_s": default_s, "pass_on_models": [{"name": "a", "timeout_s": 2}, {"name": "b"}]}
    )
    calls = CallBudget(settings)
    assert calls.time_limit("a") == (2, "gateway.pass_on_models[a].timeout_s = 2")
    assert calls.time_limit("b") == calls.time_limit("c") == (default_s, f"gateway.pass_on_timeout_s {limit}")
