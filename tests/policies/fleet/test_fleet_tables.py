from __future__ import annotations

from dataclasses import asdict, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.decision import Candidate, Decision, Dispatch, Hold, Reason
from orchestrator.policies.fleet.candidate_set import CandidateSet
from orchestrator.policies.fleet.fleet_tables import FleetTables
from orchestrator.policies.parsing import parse_policy
from orchestrator.policies.protocol import Binding, Situation
from orchestrator.profile.document import EnergySource
from orchestrator.profile.fit import EnergyLine, EnergyTable, LatencyTable
from orchestrator.snapshot import BatchInFlight, QueueState, ServerName, ServerState, Width
from tests.fakes.servers import served_model
from tests.policies.fleets import WIDTHS, build_candidates, decide, fleet_server, fleets, latencies, model_name, queues
from tests.policies.reference import reference_candidates

QUEUE = QueueState(20, 1, 0.1, 0.1, WIDTHS)
NOTHING_KNOWN = LatencyTable()
times = st.floats(1e-5, 0.1)
rounded_times = st.integers(1, 8).map(lambda ms: ms / 1000)  # so that lines are parallel and meet in one point


def situation(queue: QueueState = QUEUE, now_s: float = 0.0) -> Situation:
    return Situation(queue, now_s, turn=3, uniforms=(0.3, 0.6), slack_margin=1.25)


def energies(servers: list[ServerState], joules: list[float]) -> EnergyTable:
    """Return a table in which every other model is known."""
    models = [(s.name, m.name) for s in servers for m in s.models][::2]
    return EnergyTable(
        {
            key: EnergyLine(joules[i % len(joules)], joules[(i + 1) % len(joules)], EnergySource.ESTIMATED)
            for i, key in enumerate(models)
        }
    )


def assert_same(found: tuple[Candidate, ...], expected: tuple[Candidate, ...]) -> None:
    assert [(c.server, c.width, c.items, c.has_room) for c in found] == [
        (c.server, c.width, c.items, c.has_room) for c in expected
    ]
    for one, other in zip(found, expected, strict=True):
        values = {name: value for name, value in asdict(other).items() if value is not None and name != "server"}
        known = {name: value for name, value in asdict(one).items() if value is not None and name != "server"}
        assert known == pytest.approx(values, rel=1e-9, abs=1e-12)


@settings(deadline=None, max_examples=200)
@given(fleets(9), queues(), st.floats(0, 1), st.lists(st.floats(0, 1), min_size=1), st.none() | st.floats(0, 2))
def test_tables_say_what_comparing_every_server_with_every_other_says(
    fleet: tuple[list[ServerState], LatencyTable],
    queue: QueueState,
    now_s: float,
    joules: list[float],
    max_per_item_j: float | None,
) -> None:
    servers, latency = fleet
    queue = replace(queue, max_per_item_j=max_per_item_j)
    energy = energies(servers, joules)
    expected = reference_candidates(servers, queue, latency, now_s=now_s, slack_margin=1.25, energy=energy)
    found = build_candidates(servers, queue, latency, now_s=now_s, slack_margin=1.25, energy=energy)
    assert_same(found, expected)


@settings(deadline=None, max_examples=200)
@given(
    st.lists(st.tuples(rounded_times | times, rounded_times | times, st.integers(0, 2)), min_size=1, max_size=40),
    st.integers(1, 4),
    st.integers(1, 100),
)
def test_the_hull_finds_the_same_batches_as_all_pairs_do(
    lines: list[tuple[float, float, int]], head_items: int, more: int
) -> None:
    held = [((100, 8, 0.0),) * batches for _, _, batches in lines]
    servers = [fleet_server(f"s{i:02d}", held=batches, max_batch_size=64) for i, batches in enumerate(held)]
    latency = latencies(
        **{f"s{i:02d}": {100: (per_item_s, fixed_s)} for i, (per_item_s, fixed_s, _) in enumerate(lines)}
    )
    queue = QueueState(head_items + more, head_items, 9.0, 9.0, WIDTHS)
    found = build_candidates(servers, queue, latency, now_s=0.0, slack_margin=1.25)
    expected = reference_candidates(servers, queue, latency, now_s=0.0, slack_margin=1.25, energy=EnergyTable())
    # Where several lines meet in one point, that point may be a hair on either side of a whole number.
    assert [c.items for c in found] == pytest.approx([c.items for c in expected], abs=1)
    assert sum(c.items != e.items for c, e in zip(found, expected, strict=True)) <= len(found) // 10


@settings(deadline=None)
@given(fleets(4), fleets(6), st.sampled_from(["lert:slack", "slackfit", "p2c", "random", "sed"]), queues())
def test_tables_kept_up_to_date_decide_as_new_ones(
    before: tuple[list[ServerState], LatencyTable],
    after: tuple[list[ServerState], LatencyTable],
    name: str,
    queue: QueueState,
) -> None:
    policy = parse_policy(name)
    tables = FleetTables(*before)
    decide(tables, policy, situation(queue))
    for state in after[0]:
        tables.put(state, after[1])
    for gone in {s.name for s in before[0]} - {s.name for s in after[0]}:
        tables.remove(gone)
    assert tables.names == [s.name for s in after[0]]
    fresh = FleetTables(*after)
    assert tables.candidates(situation(queue)) == fresh.candidates(situation(queue))
    assert decide(tables, policy, situation(queue)) == decide(fresh, policy, situation(queue))


def test_only_what_a_server_holds_can_be_put_alone() -> None:
    latency = latencies(a={100: (0.01, 0.0)}, b={100: (0.02, 0.0)})
    tables = FleetTables([fleet_server("a"), fleet_server("b")], latency)
    tables.put_load(fleet_server("a", held=((100, 4, 0.0),) * 9, batch_limit=10))  # deeper than there was room for
    assert [c.wait_s for c in tables.candidates(situation())] == pytest.approx([0.36, 0.0])
    tables.put_load(fleet_server("a", bound_items=((model_name(100), 3),)))
    assert [(c.wait_s, c.server_items) for c in tables.candidates(situation())] == [(pytest.approx(0.03), 3), (0, 0)]
    tables.put_load(fleet_server("a"))
    tables.put_load(fleet_server("b", healthy=False))
    assert [(c.server, c.wait_s) for c in tables.candidates(situation())] == [("a", 0.0)]


def test_batches_of_models_that_are_gone_still_take_their_place() -> None:
    held = (BatchInFlight(model_name(25), 4, 0.0), BatchInFlight(served_model(100, family="other").name, 4, 0.0))
    for batch_limit in (2, 3):
        state = replace(fleet_server("a", batch_limit=batch_limit), in_flight=held)
        tables = FleetTables([state], latencies(a={100: (0.01, 0.0)}))
        found = [(c.has_room, c.wait_s, c.server_items) for c in tables.candidates(situation())]
        assert found == [(batch_limit == 3, 0.0, 8)]


def test_servers_to_avoid_are_left_out_unless_there_are_no_others() -> None:
    tables = FleetTables([fleet_server("a"), fleet_server("b")], NOTHING_KNOWN)
    a, b, gone = ServerName("a"), ServerName("b"), ServerName("gone")
    policy = parse_policy("jsq")

    def chosen(*avoided: ServerName) -> str:
        decision = decide(tables, policy, situation(), avoided)
        assert isinstance(decision, Dispatch)
        return decision.candidate.server

    assert chosen() == "a"
    assert chosen(a, gone) == "b"
    assert [c.server for c in tables.candidates(situation(), avoided=[b])] == ["a"]
    assert chosen(a, b) == "a"


def test_a_model_of_a_server_can_be_left_out_and_is_there_the_next_time() -> None:
    tables = FleetTables([fleet_server("a", widths=(25, 100)), fleet_server("b", widths=(25, 100))], NOTHING_KNOWN)
    a, b, dead = ServerName("a"), ServerName("b"), model_name(100)
    everything = tables.candidates(situation())
    assert [(c.server, c.width) for c in everything] == [("a", 25), ("a", 100), ("b", 25), ("b", 100)]
    found = tables.candidates(situation(), avoided=[b], without=[(a, dead), (b, dead), (ServerName("gone"), dead)])
    assert [(c.server, c.width) for c in found] == [("a", 25)]
    assert tables.candidates(situation()) == everything


def test_what_is_excluded_is_still_reachable_and_is_taken_where_there_is_nothing_else() -> None:
    tables = FleetTables([fleet_server("a", widths=(25, 100)), fleet_server("b", widths=(25, 100))], NOTHING_KNOWN)
    a, b, dead = ServerName("a"), ServerName("b"), model_name(100)

    def left(*servers: ServerName, widths: tuple[int, ...] = WIDTHS) -> list[tuple[str, int]]:
        queue = replace(QUEUE, allowed_widths=tuple(map(Width, widths)))
        found = CandidateSet(tables, situation(queue))
        assert found.is_whole
        found.exclude(servers, [(a, dead), (b, dead)])
        assert not found.is_whole
        assert len(found.reachable) == 2 * len({25, 100} & set(widths))
        return [(c.server, c.width) for c in found.candidates]

    assert left() == [("a", 25), ("b", 25)]
    assert left(a) == [("b", 25)]
    assert left(a, b) == [("a", 25), ("b", 25)]
    assert left(widths=(100,)) == [("a", 100), ("b", 100)]


def test_what_servers_to_avoid_hold_keeps_nobody_waiting() -> None:
    held = ((100, 64, -5.0),)  # it should have been answered long ago
    a, b = fleet_server("a"), fleet_server("b", held=held)
    latency = latencies(a={100: (0.01, 0.0)}, b={100: (0.01, 0.0)})
    alone = FleetTables([a], latency).candidates(situation())
    assert FleetTables([a, b], latency).candidates(situation(), avoided=[b.name]) == alone
    both = FleetTables([a, b], latency).candidates(situation())
    assert both[0].drain_s > alone[0].drain_s


def test_a_policy_of_values_is_given_values() -> None:
    class Last:
        name, binding = "last", Binding.EARLY

        def choose(self, candidates: tuple[Candidate, ...], situation: Situation) -> Decision:
            return Dispatch(candidates[-1], Reason.DRAWN)

    tables = FleetTables([fleet_server("b"), fleet_server("a")], NOTHING_KNOWN)
    decision = decide(tables, Last(), situation())
    assert isinstance(decision, Dispatch)
    assert (decision.candidate.server, decision.candidate.items) == ("b", 20)


def test_a_fleet_without_servers_has_no_candidates() -> None:
    tables = FleetTables()
    assert decide(tables, parse_policy("lert"), situation()) == Hold(Reason.NO_CANDIDATE)
    tables.put(fleet_server("a", (25, 100)), NOTHING_KNOWN)
    assert [c.width for c in tables.candidates(situation())] == [Width(25), Width(100)]
