"""A server moves when backlogs differ for long, to where it helps, and not again at once."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.ownership.balance import APART_S, PATIENCE_S, GatewayLoad, Imbalance, Move, plan_move
from orchestrator.ownership.rendezvous import GatewayName
from orchestrator.snapshot import ServerName

A, B = GatewayName("a"), GatewayName("b")


def load(
    backlog_items: float, *servers: str, capacity_rps: float = 100.0, demand_rps: float | None = None
) -> GatewayLoad:
    """Return a load whose demand, unless it is given, is as uneven as the backlog."""
    demand_rps = 10 * backlog_items if demand_rps is None else demand_rps
    return GatewayLoad(backlog_items, demand_rps, {ServerName(name): capacity_rps for name in servers})


C = GatewayName("c")
LONG_AGO = Imbalance({GatewayName(name): 0.0 for name in ("a", "b", "c", *(f"gateway-{n}" for n in range(5)))})
BUSY_A = {A: load(60, "gpu-0", "gpu-1"), B: load(0, "gpu-2", "gpu-3")}


def test_a_server_moves_once_backlogs_have_differed_for_long() -> None:
    move, state = plan_move(BUSY_A, Imbalance(), now_s=10.0)
    assert (move, state) == (None, Imbalance({A: 10.0}))
    move, state = plan_move(BUSY_A, state, now_s=10.0 + PATIENCE_S / 2)
    assert (move, state) == (None, Imbalance({A: 10.0}))
    move, state = plan_move(BUSY_A, state, now_s=10.0 + PATIENCE_S)
    assert (move, state) == (Move(ServerName("gpu-2"), giver=B, taker=A), Imbalance())


def test_a_difference_that_ended_in_between_does_not_count() -> None:
    even = {A: load(20, "gpu-0", "gpu-1"), B: load(20, "gpu-2", "gpu-3")}
    _, state = plan_move(BUSY_A, Imbalance(), now_s=0.0)
    _, state = plan_move(even, state, now_s=0.5)
    assert plan_move(BUSY_A, state, now_s=PATIENCE_S) == (None, Imbalance({A: PATIENCE_S}))


def test_who_is_ahead_by_turns_gets_nothing() -> None:
    busy_b = {A: load(0, "gpu-0", "gpu-1"), B: load(60, "gpu-2", "gpu-3")}
    state = Imbalance()
    for tick in range(40):
        move, state = plan_move(BUSY_A if tick % 10 < 5 else busy_b, state, now_s=0.1 * tick)
        assert move is None


def test_who_is_behind_all_the_time_gets_a_server_though_another_is_further_behind_by_turns() -> None:
    loads = {C: load(0, "gpu-0", "gpu-1", "gpu-2")}
    state, moves = Imbalance(), []
    for tick in range(12):
        own = {A: load(60 + 20 * (tick % 2), "gpu-3"), B: load(70, "gpu-4")}
        move, state = plan_move(loads | own, state, now_s=0.1 * tick)
        moves += [move] if move else []
    assert [(move.giver, move.taker) for move in moves] == [(C, B)]


def test_a_difference_that_a_server_would_not_make_up_for_moves_none() -> None:
    loads = {A: load(50, "gpu-0", "gpu-1"), B: load(30, "gpu-2", "gpu-3")}  # 0.25 and 0.15 s; then 0.17 and 0.3 s
    assert plan_move(loads, LONG_AGO, now_s=PATIENCE_S) == (None, Imbalance())


def test_backlogs_that_are_apart_by_chance_while_callers_are_even_move_nothing() -> None:
    loads = {
        A: load(120, "gpu-0", "gpu-1", demand_rps=185.0),
        B: load(10, "gpu-2", "gpu-3", demand_rps=175.0),
    }
    assert plan_move(loads, LONG_AGO, now_s=PATIENCE_S) == (None, Imbalance())


def test_a_server_comes_back_once_callers_are_even_again() -> None:
    loads = {A: load(120, "gpu-0", demand_rps=180.0), B: load(10, "gpu-1", "gpu-2", "gpu-3", demand_rps=180.0)}
    assert plan_move(loads, LONG_AGO, now_s=PATIENCE_S)[0] == Move(ServerName("gpu-1"), giver=B, taker=A)


def test_of_unequal_servers_the_one_that_evens_backlogs_out_moves() -> None:
    giver = GatewayLoad(10, 100, {ServerName("large"): 300.0, ServerName("small"): 50.0})
    taker = GatewayLoad(20, 200, {ServerName("own"): 100.0})
    move, _ = plan_move({A: giver, B: taker}, LONG_AGO, now_s=PATIENCE_S)
    assert move == Move(ServerName("small"), giver=A, taker=B)


def test_no_gateway_gives_its_last_server() -> None:
    loads = {A: load(100, "gpu-0"), B: load(0, "gpu-1")}
    assert plan_move(loads, LONG_AGO, now_s=PATIENCE_S)[0] is None


def test_a_gateway_that_has_nothing_to_give_keeps_nobody_else_from_giving() -> None:
    loads = {A: load(100, "gpu-0"), B: load(0, "gpu-1"), C: load(1, "gpu-2", "gpu-3")}
    assert plan_move(loads, LONG_AGO, now_s=PATIENCE_S)[0] == Move(ServerName("gpu-2"), C, A)


def test_a_gateway_with_work_and_no_server_gets_one() -> None:
    loads = {A: load(1), B: load(50, "gpu-0", "gpu-1")}
    assert plan_move(loads, LONG_AGO, now_s=PATIENCE_S)[0] == Move(ServerName("gpu-0"), giver=B, taker=A)


def test_one_gateway_alone_moves_nothing() -> None:
    assert plan_move({A: load(1000, "gpu-0")}, LONG_AGO, now_s=9.0) == (None, Imbalance())


def loads_of(counts: list[list[float]], backlogs: list[float], demands: list[float]) -> dict[GatewayName, GatewayLoad]:
    numbers = iter(range(1000))
    return {
        GatewayName(f"gateway-{n}"): GatewayLoad(
            backlog, demand_rps, {ServerName(f"gpu-{next(numbers)}"): c for c in capacities}
        )
        for n, (capacities, backlog, demand_rps) in enumerate(zip(counts, backlogs, demands, strict=False))
    }


fleets = st.builds(
    loads_of,
    st.lists(st.lists(st.floats(10, 1000), max_size=5), min_size=2, max_size=5),
    st.lists(st.floats(0, 1000), min_size=5, max_size=5),
    st.lists(st.floats(0, 1000), min_size=5, max_size=5),
)


@given(fleets)
def test_a_move_makes_the_longer_backlog_and_the_larger_load_of_both_smaller_and_leaves_the_giver_a_server(
    loads: dict[GatewayName, GatewayLoad],
) -> None:
    move, _ = plan_move(loads, LONG_AGO, now_s=PATIENCE_S)
    if move is None:
        return
    giver, taker = loads[move.giver], loads[move.taker]
    assert taker.backlog_s - giver.backlog_s > APART_S
    left, got = dict(giver.capacities_rps), dict(taker.capacities_rps)
    got[move.server] = left.pop(move.server)
    assert left
    gives, takes = sum(left.values()), sum(got.values())
    assert max(giver.backlog_items / gives, taker.backlog_items / takes) < taker.backlog_s
    before = taker.demand_rps / sum(taker.capacities_rps.values()) if taker.capacities_rps else math.inf
    assert max(giver.demand_rps / gives, taker.demand_rps / takes) < before


@given(fleets, st.lists(st.floats(0, 0.4), min_size=10, max_size=60))
def test_servers_move_at_most_once_in_the_time_of_patience(
    loads: dict[GatewayName, GatewayLoad], pauses_s: list[float]
) -> None:
    state, now_s, moved_s = Imbalance(), 0.0, []
    for pause_s in pauses_s:
        now_s += pause_s
        move, state = plan_move(loads, state, now_s=now_s)
        if move is not None:
            moved_s.append(now_s)
    assert all(later - earlier >= PATIENCE_S for earlier, later in itertools.pairwise(moved_s))


@pytest.mark.parametrize("backlog_items", [0.0, 4.0])
def test_differences_that_narrower_widths_make_up_for_move_nothing(backlog_items: float) -> None:
    loads = {A: load(backlog_items, "gpu-0"), B: load(0, "gpu-1", "gpu-2")}
    assert plan_move(loads, LONG_AGO, now_s=PATIENCE_S) == (None, Imbalance())
