from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings

from orchestrator.policies.tables.occupancy import mark_begun
from orchestrator.profile.fit import LatencyTable
from orchestrator.snapshot import BatchInFlight, QueueState, ServerState
from tests.fakes.servers import served_model
from tests.policies.fleets import (
    WIDTHS,
    Occupancy,
    build_candidates,
    fleet_server,
    fleets,
    has_room_for,
    latencies,
    model_name,
)

TEN_MS_AN_ITEM = latencies(a={25: (0.01, 0.0), 100: (0.01, 0.0)})


def waits(server: ServerState, latency: LatencyTable = TEN_MS_AN_ITEM, now_s: float = 0.0) -> dict[int, float]:
    held = Occupancy(server, latency, now_s=now_s)
    return {m.width: held.wait_s(m) for m in server.models}


def two_instances(*held: tuple[int, int, float], **state: object) -> ServerState:
    return fleet_server(instances={100: 2}, held=held, **state)  # type: ignore[arg-type]


def test_one_of_two_instances_is_free_at_once() -> None:
    assert waits(two_instances((100, 4, 0.0)))[100] == 0


def test_the_first_of_two_busy_instances_to_be_free_is_waited_for() -> None:
    busy = two_instances((100, 8, 0.0), (100, 4, 0.0))
    assert waits(busy, now_s=0.01)[100] == pytest.approx(0.03)
    assert Occupancy(busy, TEN_MS_AN_ITEM, now_s=0.01).backlog_s == pytest.approx((0.07 + 0.03) / 2)


def test_a_batch_behind_two_instances_takes_the_one_that_is_free_first() -> None:
    assert waits(two_instances((100, 8, 0.0), (100, 4, 0.0), (100, 2, 0.0)))[100] == pytest.approx(0.04 + 0.02)


def test_a_batch_that_got_an_instance_late_has_run_only_since_then() -> None:
    server = two_instances((100, 4, 0.0), (100, 4, 0.0))
    late = replace(server.in_flight[1], began_s=0.03)
    assert waits(replace(server, in_flight=(server.in_flight[0], late)), now_s=0.035)[100] == pytest.approx(0.005)
    assert waits(replace(server, in_flight=(late, late)), now_s=0.035)[100] == pytest.approx(0.035)


def test_a_width_with_one_instance_has_the_server_to_itself() -> None:
    def mixed(*held: tuple[int, int, float]) -> ServerState:
        return fleet_server(widths=(25, 100), instances={25: 2, 100: 1}, held=held)

    assert waits(mixed((25, 4, 0.0))) == pytest.approx({25: 0.0, 100: 0.04})
    assert waits(mixed((25, 4, 0.0), (100, 10, 0.0))) == pytest.approx({25: 0.14, 100: 0.14})


def test_what_is_bound_is_shared_by_the_instances() -> None:
    bound = {"bound_items": ((model_name(100), 33),)}
    latency = latencies(a={100: (0.01, 0.002)})
    assert waits(fleet_server(**bound), latency)[100] == pytest.approx(0.334)  # type: ignore[arg-type]
    assert waits(two_instances(**bound), latency)[100] == pytest.approx(0.167)


@pytest.mark.parametrize(
    ("now_s", "ratio"),
    [(0.0, 1.0), (0.039, 1.0), (0.049, 1.0), (0.1, 2.0), (1.0, 20.0)],
)
def test_a_server_is_overdue_once_the_margin_is_used_up(now_s: float, ratio: float) -> None:
    held = Occupancy(fleet_server(held=((100, 4, 0.0), (100, 1, 0.0))), TEN_MS_AN_ITEM, now_s=now_s)
    assert held.overdue_ratio(1.25) == pytest.approx(ratio)


def test_what_was_never_seen_is_not_expected_so_it_is_not_overdue() -> None:
    held = Occupancy(fleet_server(held=((100, 4, 0.0),)), LatencyTable(), now_s=5.0)
    assert held.overdue_ratio(1.25) == 1


def test_several_instances_drain_a_queue_sooner_as_far_as_there_are_batches_for_them() -> None:
    def drain_s(instances: int, items: int) -> float:
        queue = QueueState(items, 1, 100.0, 100.0, WIDTHS)
        server = fleet_server(instances={100: instances})
        return build_candidates([server], queue, TEN_MS_AN_ITEM, now_s=0.0, slack_margin=1.0)[0].drain_s

    assert drain_s(1, 64) == pytest.approx(0.64)
    assert drain_s(2, 64) == pytest.approx(0.32)
    assert drain_s(2, 8) == pytest.approx(0.08)
    assert drain_s(4, 64) == pytest.approx(0.32)


@pytest.mark.parametrize(
    ("held", "room"),
    [
        ((), {25, 100}),
        ((25, 25), {100}),
        ((25, 100), {25, 100}),
        ((25, 25, 100), {100}),
        ((100, 100, 100), {25, 100}),
        ((100, 100, 100, 100), set()),
        ((25, 100, 100, 100), set()),  # the bound of the whole server
    ],
)
def test_a_width_may_wait_with_one_batch_more_than_it_has_instances(held: tuple[int, ...], room: set[int]) -> None:
    server = fleet_server(
        widths=(25, 100), instances={25: 1, 100: 3}, held=tuple((w, 1, 0.0) for w in held), batch_limit=4
    )
    assert {m.width for m in server.models if has_room_for(server, m)} == room
    assert not any(has_room_for(replace(server, healthy=False), m) for m in server.models)


def batch(width: int, sent_s: float, began_s: float | None = None) -> BatchInFlight:
    return BatchInFlight(model_name(width), 1, sent_s, began_s)


@pytest.mark.parametrize(
    ("batches", "since_s", "began"),
    [
        ([batch(100, 1.0), batch(100, 2.0), batch(100, 3.0)], None, [1.0, 2.0, None]),
        ([batch(100, 1.0), batch(100, 2.0), batch(100, 3.0)], 2.5, [2.5, 2.5, None]),
        ([batch(100, 1.0, 1.0), batch(100, 3.0)], 2.5, [1.0, 3.0]),
        ([batch(25, 1.0), batch(100, 2.0)], 2.5, [None, None]),  # one instance: no need to know, and no room beside
        ([batch(100, 1.0), batch(25, 2.0), batch(100, 3.0)], None, [1.0, None, None]),  # none overtakes
    ],
)
def test_batches_begin_when_an_instance_is_free(
    batches: list[BatchInFlight], since_s: float | None, began: list[float | None]
) -> None:
    marked = mark_begun(batches, {model_name(100): 2, model_name(25): 1}, since_s=since_s)
    assert [g.began_s for g in marked] == began
    assert marked == batches  # still known as the same


@settings(deadline=None)
@given(fleets())
def test_waits_are_sound_whatever_the_fleet(fleet: tuple[list[ServerState], LatencyTable]) -> None:
    servers, latency = fleet
    for server in servers:
        held = Occupancy(server, latency, now_s=0.0)
        for model in server.models:
            single = replace(model, instances=1)
            assert 0 <= held.wait_s(model) <= held.wait_s(single) + 1e-9
        alone = replace(server, models=tuple(served_model(m.width) for m in server.models))
        serial = Occupancy(alone, latency, now_s=0.0)
        assert {round(serial.wait_s(m) - serial.backlog_s, 9) for m in alone.models} == {0}
