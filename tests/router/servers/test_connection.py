from __future__ import annotations

import pytest

from orchestrator.config import RouterSettings
from orchestrator.router.servers.connection import APART_S, ServerConnection
from orchestrator.snapshot import SHORT_S, BatchInFlight, ServerName
from tests.fakes.servers import FakeServer, served_model
from tests.policies.fleets import has_room_for

Observed = tuple[str, int, float]


@pytest.fixture
def server() -> ServerConnection:
    return ServerConnection(ServerName("a"), FakeServer(), RouterSettings(in_flight_groups=2), lambda server: 0.0)


def answer(server: ServerConnection, batch: BatchInFlight, now_s: float) -> list[Observed]:
    """Return the runs that are known to be over after a batch was answered."""
    _, runs = server.finish(batch, now_s=now_s)
    server.in_flight.remove(batch)
    return [(run.model, run.items, pytest.approx(run.ended_s - run.began_s)) for run in runs]  # type: ignore[misc]


def batch(server: ServerConnection, items: int, sent_s: float, width: int = 100) -> BatchInFlight:
    sent = BatchInFlight(served_model(width).name, items, sent_s)
    server.in_flight.append(sent)
    return sent


def serve(server: ServerConnection, **instances: int) -> None:
    server.served = tuple(served_model(int(w[1:]), instances=count) for w, count in instances.items())


def test_a_batch_alone_is_observed_at_once(server: ServerConnection) -> None:
    assert answer(server, batch(server, 4, 1.0), 1.5) == [("fashion_w100", 4, 0.5)]


def test_a_batch_behind_another_began_when_that_was_answered(server: ServerConnection) -> None:
    first, second = batch(server, 4, 1.0), batch(server, 2, 1.1, width=50)
    assert answer(server, first, 1.5) == []
    assert answer(server, second, 1.7) == [("fashion_w100", 4, 0.5), ("fashion_w050", 2, 0.2)]


def test_batches_that_triton_ran_as_one_are_observed_as_one(server: ServerConnection) -> None:
    first, second = batch(server, 4, 1.0), batch(server, 2, 1.1)
    assert answer(server, first, 1.5) == []
    third = batch(server, 1, 1.5005)
    assert answer(server, second, 1.501) == []
    assert answer(server, third, 1.6) == [("fashion_w100", 6, 0.501), ("fashion_w100", 1, 0.099)]


def test_batches_on_two_instances_are_observed_from_when_each_began(server: ServerConnection) -> None:
    serve(server, w100=2)
    first, second, third = (batch(server, items, 1.0) for items in (4, 4, 2))
    observed = answer(server, first, 1.4)
    observed += answer(server, second, 1.4001)  # as close as if Triton had joined them, but each had an instance
    fourth = batch(server, 1, 1.5)
    observed += answer(server, third, 1.6)  # began when the first was answered
    observed += answer(server, fourth, 1.7)
    times = [("fashion_w100", 4, 0.4), ("fashion_w100", 4, 0.4001), ("fashion_w100", 2, 0.2), ("fashion_w100", 1, 0.2)]
    assert observed == times


def test_a_batch_on_an_instance_of_its_own_is_not_cut_short_by_the_answers_beside_it(server: ServerConnection) -> None:
    serve(server, w100=2)
    long, observed = batch(server, 32, 1.0), []
    for index in range(5):
        observed += answer(server, batch(server, 1, 1.0 + index / 10), 1.1 + index / 10)
    observed += answer(server, long, 1.55)
    assert observed == [*[("fashion_w100", 1, 0.1)] * 5, ("fashion_w100", 32, 0.55)]


def test_equal_batches_differ_in_nothing_and_none_is_lost(server: ServerConnection) -> None:
    serve(server, w100=2)
    batches = [batch(server, 4, 1.0) for _ in range(3)]
    times_s = zip(batches, (1.4, 1.4, 1.8), strict=True)
    observed = [run for answered, now_s in times_s for run in answer(server, answered, now_s)]
    assert observed == [("fashion_w100", 4, 0.4)] * 3
    assert server.in_flight == []


def test_a_width_may_have_a_batch_for_each_instance_and_one_that_waits(server: ServerConnection) -> None:
    serve(server, w25=1, w100=3)
    narrow, wide = server.served
    server.health.problem = None
    assert server.limits() == (4, 1)
    batch(server, 1, 1.0, width=25)
    assert server.free_batches(narrow) == 1
    batch(server, 1, 1.0, width=25)
    assert (server.free_batches(narrow), server.free_batches(wide)) == (0, 2)
    assert not has_room_for(server.state(narrow.family, ()), narrow)


def test_a_server_that_is_out_may_be_sent_nothing(server: ServerConnection) -> None:
    serve(server, w100=3)
    assert not server.has_room
    assert server.free_batches(server.served[0]) == 0


def test_a_batch_is_kept_back_while_the_one_before_it_is_about_to_begin(server: ServerConnection) -> None:
    serve(server, w50=1, w75=2, w100=1)
    half, twice, whole = server.served
    server.work_s = lambda server: 2 * SHORT_S
    assert server.pause_s(whole, now_s=1.001) == 0, "the instance is free"
    running = batch(server, 8, 1.0)
    assert server.pause_s(whole, now_s=1.001) == pytest.approx(APART_S - 0.001)
    assert server.pause_s(half, now_s=1.001) == 0, "Triton joins batches of one model alone"
    assert server.pause_s(whole, now_s=1.0 + 2 * APART_S) == 0
    batch(server, 8, 1.1)
    answer(server, running, 1.2)
    assert server.pause_s(whole, now_s=1.201) == pytest.approx(APART_S - 0.001), "what waited begins after the answer"
    server.work_s = lambda server: 1.5 * APART_S
    assert server.pause_s(whole, now_s=1.201) == pytest.approx(0.75 * APART_S - 0.001), "half of what it has to do"
    server.work_s = lambda server: 0.9 * APART_S
    assert server.pause_s(whole, now_s=1.201) == 0, "it could idle"
    server.work_s = lambda server: SHORT_S
    batch(server, 8, 1.201)
    assert server.pause_s(whole, now_s=1.201) == 0, "others wait, and are joined"
    for _ in range(2):
        batch(server, 8, 1.2, width=75)
    assert server.pause_s(twice, now_s=1.201) == 0, "one of two instances may be free at any moment"
