from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import pytest

from benchmarks.decisions import Timing, make_fleet, make_page, measure
from benchmarks.learned_decision import NetworkTiming, drawn_policy, measure_network
from orchestrator.decision import Candidate
from orchestrator.policies.fleet.fleet_tables import FleetTables
from orchestrator.policies.parsing import parse_policy
from orchestrator.policies.protocol import RowPolicy, Situation
from orchestrator.policies.tables import columns as col
from orchestrator.policies.tables.compiled import Column, Table
from orchestrator.policies.tables.layout import Choice
from orchestrator.reporting.blocks import render_markdown
from orchestrator.snapshot import QueueState, Width

WARM_UPS, REPEATS = 10, 100


class Watched:
    """A policy that decides as another one and counts what it was offered."""

    name, is_observing = "watched", False

    def __init__(self, inner: RowPolicy) -> None:
        self.choose, self.observe, self.binding = inner.choose, inner.observe, inner.binding
        self._inner = inner
        self.offered: list[int] = []
        self.servers: set[float] = set()

    def choose_row(self, memory: Table, rows: Table, count: int, query: Column) -> Choice:
        self.offered.append(count)
        self.servers |= set(rows[col.ROW_SERVER, :count].tolist())
        return self._inner.choose_row(memory, rows, count, query)


def clock_of(steps_s: Iterator[float]) -> Callable[[], float]:
    """Return a clock that is read before and after each thing that is timed, which takes the next step."""
    now_s, is_before = 0.0, False

    def read() -> float:
        nonlocal now_s, is_before
        is_before = not is_before
        if not is_before:
            now_s += next(steps_s)
        return now_s

    return read


def test_quantiles_are_of_the_decisions_after_the_warm_up_and_changes_are_timed_apart() -> None:
    # By turns a change on a server and a decision; those that warm up take a second each and must not count.
    taken_s = [(1.0, 1.0)] * WARM_UPS + [(2e-6, turn * 1e-6) for turn in range(REPEATS, 0, -1)]
    timing = measure(2, parse_policy("jsq"), REPEATS, clock=clock_of(itertools.chain.from_iterable(taken_s)))
    assert (timing.servers, timing.policy) == (2, "jsq")
    assert timing.p50_us == pytest.approx(REPEATS // 2 + 1)
    assert timing.p99_us == pytest.approx(REPEATS)
    assert timing.put_us == pytest.approx(2)


@pytest.mark.parametrize("servers", [1, 3])
def test_every_decision_that_is_timed_is_about_all_servers_and_widths(servers: int) -> None:
    policy = Watched(parse_policy("jsq"))
    measure(servers, policy, repeats=3)
    assert set(policy.offered) == {4 * servers}
    assert len(policy.offered) == WARM_UPS + 3
    assert len(policy.servers) == servers


def test_the_fleet_has_a_candidate_for_every_server_and_width_and_unlike_speeds() -> None:
    queue = QueueState(20, 1, 0.1, 0.1, tuple(Width(w) for w in (25, 50, 75, 100)))
    found: tuple[Candidate, ...] = FleetTables(*make_fleet(5)).candidates(Situation(queue, 0.0, 0, (0.0, 0.0), 1.25))
    assert len(found) == 20
    widest = [c.per_item_s for c in found if c.width == 100]
    assert max(widest) / min(widest) > 4.9


def test_a_learned_policy_decides_by_itself_and_its_network_scores_as_many_candidates_as_it_may() -> None:
    assert measure(4, drawn_policy(), repeats=3).policy == "ppo-slim"
    assert [measure_network(servers, repeats=3).candidates for servers in (4, 64)] == [16, 128]


def test_the_page_shows_each_row_and_holds_learned_ones_against_their_bars() -> None:
    timings = [Timing(4, "jsq", 10.04, 20.0, 3.0), Timing(4, "ppo-slim", 30.0, 41.26, 3.0)]
    page = render_markdown(make_page(timings, [NetworkTiming(4, 16, 11.0, 12.5)], "a machine"))
    assert "on a machine, compiled by Numba;" in page
    assert "| 4 | `jsq` | 10.0 | 20.0 | 3.0 |" in page
    assert "| 4 | 16 | 11.0 | 12.5 | 25 | 41.3 | 50 |" in page
