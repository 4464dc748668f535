from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import linprog

from orchestrator.decision import Candidate
from tests.policies.cases import Asker, line_candidate


def server(name: str, **seconds: float) -> list[Candidate]:
    """Return one that takes so long for an item at each width, w050=0.01 …, with the width as accuracy."""
    return [
        line_candidate(name, int(width[1:]), per_item_s=per_item_s, max_batch_size=4)
        for width, per_item_s in seconds.items()
    ]


def drawn(asker: Asker, fleet: list[Candidate], *, rate_rps: float, begins_s: float) -> Counter[tuple[str, int]]:
    """Return how many of 1,000 requests, evenly in time and in their random numbers, go where."""
    choices = [
        asker.choice(fleet, now_s=begins_s + i / rate_rps, slack_s=1.0, uniform=(i * 617 % 1000 + 0.5) / 1000)[:2]
        for i in range(1000)
    ]
    return Counter(choices)


def plan(policy: str, fleet: list[Candidate], rate_rps: float) -> Counter[tuple[str, int]]:
    """Return the shares, in thousandths, once the rate is known."""
    asker = Asker(policy)
    drawn(asker, fleet, rate_rps=rate_rps, begins_s=0.0)
    return drawn(asker, fleet, rate_rps=rate_rps, begins_s=1000 / rate_rps)


ONE = server("a", w050=0.005, w100=0.01)  # 200 and 100 items a second


def test_what_fits_at_the_full_width_is_run_there() -> None:
    assert plan("fluid-lp,margin=0,interval_s=1", ONE, 90.0) == {("a", 100): 1000}


def test_a_server_divides_its_time_as_the_program_says() -> None:
    # 150 a second: half the time at each width, 100 items a second at the narrow one and 50 at the full one.
    shares = plan("fluid-lp,margin=0,interval_s=1", ONE, 150.0)
    assert shares["a", 50] == pytest.approx(667, abs=12)
    assert shares["a", 100] == pytest.approx(333, abs=12)


def test_beyond_capacity_everything_is_as_quick_as_can_be() -> None:
    assert plan("fluid-lp,interval_s=1", ONE, 400.0) == {("a", 50): 1000}


def test_like_pieces_are_filled_alike_and_servers_by_their_capacity() -> None:
    fleet = [*server("a", w100=0.01), *server("b", w100=0.03)]
    shares = plan("fluid-lp,interval_s=1", fleet, 10.0)
    assert shares["a", 100] == pytest.approx(750, abs=5)
    assert shares["b", 100] == pytest.approx(250, abs=5)


def test_a_width_that_is_not_worth_its_time_is_left_out() -> None:
    # 75 % serves hardly more than 100 %, so a mix of 50 and 100 beats it: it lies inside the hull.
    fleet = server("a", w050=0.005, w075=0.0099, w100=0.01)
    assert set(plan("fluid-lp,margin=0,interval_s=1", fleet, 150.0)) == {("a", 50), ("a", 100)}


def test_proteus_plans_with_batches_that_fit_twice_into_the_deadline() -> None:
    # 10 ms · b + 10 ms: batches of 4 serve 80 a second; in half of 60 ms fit 2, which serve 67.
    fleet = [line_candidate("a", 100, per_item_s=0.01, fixed_s=0.01, max_batch_size=4), *server("b", w050=0.001)]
    kept = {}
    for policy in ("fluid-lp", "proteus-lp"):
        asker = Asker(f"{policy},margin=0,interval_s=1")
        for i in range(400):
            asker.choice(fleet, now_s=i / 200, slack_s=0.06, arrived_s=i / 200, uniform=(i * 617 % 1000 + 0.5) / 1000)
        found = Counter(
            asker.choice(fleet, now_s=2 + i / 1e6, slack_s=0.06, arrived_s=2 + i / 1e6, uniform=(i + 0.5) / 1000)[0]
            for i in range(1000)
        )
        kept[policy] = 200 * found["a"] / 1000
    assert kept["fluid-lp"] == pytest.approx(80, rel=0.05)
    assert kept["proteus-lp"] == pytest.approx(67, rel=0.05)


accuracies = {"w025": 25, "w050": 50, "w075": 75, "w100": 100}
times_s = st.fixed_dictionaries({width: st.floats(0.001, 0.05) for width in accuracies})


@given(st.lists(times_s, min_size=1, max_size=3), st.floats(0.1, 0.95))
def test_the_greedy_plan_is_as_accurate_as_a_solver_can(fleet_s: list[dict[str, float]], load: float) -> None:
    cells = [(s, accuracies[w], 1 / t) for s, seconds in enumerate(fleet_s) for w, t in seconds.items()]
    rate_rps = load * sum(max(1 / t for t in seconds.values()) for seconds in fleet_s)
    busy = np.array([[1 / c if s == n else 0.0 for s, _, c in cells] for n in range(len(fleet_s))])
    solved = linprog(
        [-a for _, a, _ in cells],
        A_ub=busy,
        b_ub=np.ones(len(fleet_s)),
        A_eq=np.ones((1, len(cells))),
        b_eq=[rate_rps],
        method="highs",
    )
    fleet = [one for s, seconds in enumerate(fleet_s) for one in server("abc"[s], **seconds)]
    shares = plan("fluid-lp,margin=0,interval_s=1", fleet, rate_rps)
    mean = sum(width * count for (_, width), count in shares.items()) / 1000
    # The rate is estimated, hence the tolerance.
    assert mean == pytest.approx(-solved.fun / rate_rps, rel=0.02)
    for s, seconds in enumerate(fleet_s):
        used = sum(shares["abc"[s], accuracies[w]] / 1000 * rate_rps * t for w, t in seconds.items())
        # Shares are counted in draws, and one draw more of a slow width is much of a server's time.
        a_draw = rate_rps / 1000 * max((t for w, t in seconds.items() if shares["abc"[s], accuracies[w]]), default=0.0)
        assert used <= 1.02 + a_draw


def test_the_plan_follows_the_demand() -> None:
    asker = Asker("fluid-lp,margin=0,interval_s=1")
    assert set(drawn(asker, ONE, rate_rps=90.0, begins_s=0.0)) == {("a", 100)}
    drawn(asker, ONE, rate_rps=400.0, begins_s=12.0)
    drawn(asker, ONE, rate_rps=400.0, begins_s=15.0)
    assert set(drawn(asker, ONE, rate_rps=400.0, begins_s=18.0)) == {("a", 50)}
