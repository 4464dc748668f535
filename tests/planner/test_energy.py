"""An energy counter's joules, shared out over what ran."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.planner.energy import CounterReading, EnergyAccount
from orchestrator.planner.rates import Rates
from orchestrator.snapshot import ModelName

NARROW, WIDE = ModelName("fashion_w025"), ModelName("fashion_w100")
MODELS = (NARROW, WIDE)


def ran(busy_s: float, window_s: float, requests: float = 1.0) -> Rates:
    """Return the rates of a model whose instances were busy for so many seconds of a window, in one batch."""
    return Rates(window_s=window_s, requests_per_s=requests / window_s, executions_per_s=1 / window_s, service_s=busy_s)


STEPS = st.lists(
    st.tuples(
        st.floats(0.01, 30.0),  # seconds
        st.floats(0.0, 1e4),  # joules
        st.dictionaries(st.sampled_from(MODELS), st.floats(1e-4, 60.0)),  # busy seconds
    ),
    max_size=30,
)


@given(STEPS)
def test_shares_and_idle_add_up_to_the_counter(steps: list[tuple[float, float, dict[ModelName, float]]]) -> None:
    account, at_s, drawn_j = EnergyAccount().follow(CounterReading("nvml", 0.0, 5e5), {}), 0.0, 5e5
    for duration_s, energy_j, busy_s in steps:
        at_s, drawn_j = at_s + duration_s, drawn_j + energy_j
        rates = {model: ran(each_s, duration_s) for model, each_s in busy_s.items()}
        account = account.follow(CounterReading("nvml", at_s, drawn_j), rates)
        assert account.idle_j >= 0
        assert all(share_j >= 0 for share_j in account.models_j.values())
    shared_j = account.idle_j + sum(account.models_j.values())
    assert shared_j == pytest.approx(drawn_j - 5e5, abs=1e-3)


def test_what_is_shared_is_what_was_drawn_by_a_device_whose_counter_moves_ten_times_a_second() -> None:
    """60 W idle; a batch of the narrow width adds 90 W for 4 ms, of the wide one as much for 20 ms."""
    draw = random.Random(7)
    account, true_j, idle_j = EnergyAccount(), dict.fromkeys(MODELS, 0.0), 0.0
    counter_j, shown_j, at_s = 1e6, 1e6, 0.0
    account = account.follow(CounterReading("nvml", at_s, shown_j), {})
    for step in range(600):
        busy_s = dict.fromkeys(MODELS, 0.0)
        if step % 60 >= 10:  # a pause each minute
            for model, batch_s in ((NARROW, 0.004), (WIDE, 0.020)):
                busy_s[model] = draw.randrange(1, 15) * batch_s
        idle_j += 60.0
        for model, each_s in busy_s.items():
            true_j[model] += 90.0 * each_s
        counter_j += 60.0 + 90.0 * sum(busy_s.values())
        at_s += 1.0
        shown_j = counter_j - draw.random() * 0.1 * 60.0 if busy_s[WIDE] else counter_j  # up to a tenth of a second old
        rates = {model: ran(each_s, 1.0) for model, each_s in busy_s.items() if each_s}
        account = account.follow(
            CounterReading("nvml", at_s, max(shown_j, account.last.energy_j if account.last else 0)), rates
        )
    assert account.idle_w == pytest.approx(60.0, rel=0.1)
    assert account.idle_j == pytest.approx(idle_j, rel=0.1)
    for model in MODELS:
        assert account.models_j[model] == pytest.approx(true_j[model], rel=0.1)
    assert account.idle_j + sum(account.models_j.values()) == pytest.approx(counter_j - 1e6, rel=0.02)


def test_before_idle_power_is_known_what_runs_bears_it_all() -> None:
    account = EnergyAccount().follow(CounterReading("nvml", 0.0, 0.0), {})
    account = account.follow(CounterReading("nvml", 1.0, 100.0), {WIDE: ran(0.5, 1.0, requests=10)})
    assert (account.idle_w, account.idle_j, account.models_j) == (None, 0.0, {WIDE: 100.0})
    account = account.follow(CounterReading("nvml", 2.0, 140.0), {})
    account = account.follow(CounterReading("nvml", 3.0, 240.0), {WIDE: ran(0.5, 1.0, requests=10)})
    assert (account.idle_w, account.idle_j, account.models_j) == (40.0, 80.0, {WIDE: 160.0})
    assert account.requests == {WIDE: 20.0}


@pytest.mark.parametrize("reading", [CounterReading("nvml", 2.0, 3.0), CounterReading("rapl", 2.0, 900.0)])
def test_a_counter_that_fell_or_another_one_begins_anew(reading: CounterReading) -> None:
    account = EnergyAccount().follow(CounterReading("nvml", 0.0, 100.0), {})
    account = account.follow(CounterReading("nvml", 1.0, 140.0), {})
    assert account.follow(reading, {WIDE: ran(0.5, 1.0)}).idle_j == 40.0
    assert account.follow(reading, {WIDE: ran(0.5, 1.0)}).models_j == {}
