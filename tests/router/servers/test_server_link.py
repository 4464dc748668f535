from __future__ import annotations

import pytest

from orchestrator.config import RouterSettings
from orchestrator.router.servers.server_link import ServerLink
from orchestrator.snapshot import BatchInFlight, ModelName, ServerName
from tests.fakes.servers import FakeServer, served_model

Observation = tuple[str, int, float]


@pytest.fixture
def observed() -> list[Observation]:
    return []


@pytest.fixture
def link(observed: list[Observation]) -> ServerLink:
    def observe(server: ServerName, model: ModelName, items: int, service_s: float) -> None:
        observed.append((model, items, pytest.approx(service_s)))  # type: ignore[arg-type]

    return ServerLink(ServerName("a"), FakeServer(), RouterSettings(in_flight_groups=2), observe)


def answer(link: ServerLink, batch: BatchInFlight, now_s: float) -> None:
    link.finish(batch, now_s=now_s)
    link.in_flight.remove(batch)


def batch(link: ServerLink, items: int, sent_s: float, width: int = 100) -> BatchInFlight:
    sent = BatchInFlight(served_model(width).name, items, sent_s)
    link.in_flight.append(sent)
    return sent


def test_a_group_alone_is_observed_at_once(link: ServerLink, observed: list[Observation]) -> None:
    answer(link, batch(link, 4, 1.0), 1.5)
    assert observed == [("fashion_w100", 4, 0.5)]


def test_a_group_behind_another_began_when_that_was_answered(link: ServerLink, observed: list[Observation]) -> None:
    first, second = batch(link, 4, 1.0), batch(link, 2, 1.1, width=50)
    answer(link, first, 1.5)
    assert observed == []
    answer(link, second, 1.7)
    assert observed == [("fashion_w100", 4, 0.5), ("fashion_w050", 2, 0.2)]


def test_groups_that_triton_ran_as_one_are_observed_as_one(link: ServerLink, observed: list[Observation]) -> None:
    first, second = batch(link, 4, 1.0), batch(link, 2, 1.1)
    answer(link, first, 1.5)
    third = batch(link, 1, 1.5005)
    answer(link, second, 1.501)
    assert observed == []
    answer(link, third, 1.6)
    assert observed == [("fashion_w100", 6, 0.501), ("fashion_w100", 1, 0.099)]


def serve(link: ServerLink, **instances: int) -> None:
    link.served = tuple(served_model(int(w[1:]), instances=count) for w, count in instances.items())


def test_groups_on_two_instances_are_observed_from_when_each_began(
    link: ServerLink, observed: list[Observation]
) -> None:
    serve(link, w100=2)
    first, second, third = (batch(link, items, 1.0) for items in (4, 4, 2))
    answer(link, first, 1.4)
    answer(link, second, 1.4001)  # as close as if Triton had joined them, but each had an instance
    fourth = batch(link, 1, 1.5)
    answer(link, third, 1.6)  # began when the first was answered
    answer(link, fourth, 1.7)
    times = [("fashion_w100", 4, 0.4), ("fashion_w100", 4, 0.4001), ("fashion_w100", 2, 0.2), ("fashion_w100", 1, 0.2)]
    assert observed == times


def test_a_group_on_an_instance_of_its_own_is_not_cut_short_by_the_answers_beside_it(
    link: ServerLink, observed: list[Observation]
) -> None:
    serve(link, w100=2)
    long = batch(link, 32, 1.0)
    for index in range(5):
        answer(link, batch(link, 1, 1.0 + index / 10), 1.1 + index / 10)
    answer(link, long, 1.55)
    assert observed == [*[("fashion_w100", 1, 0.1)] * 5, ("fashion_w100", 32, 0.55)]


def test_equal_groups_are_told_apart_by_nothing_and_none_is_lost(link: ServerLink, observed: list[Observation]) -> None:
    serve(link, w100=2)
    batches = [batch(link, 4, 1.0) for _ in range(3)]
    for answered, now_s in zip(batches, (1.4, 1.4, 1.8), strict=True):
        answer(link, answered, now_s)
    assert observed == [("fashion_w100", 4, 0.4)] * 3
    assert link.in_flight == []


def test_a_width_may_have_a_group_for_each_instance_and_one_that_waits(link: ServerLink) -> None:
    serve(link, w25=1, w100=3)
    narrow, wide = link.served
    link.problem = None
    assert link.batch_limit == 4
    batch(link, 1, 1.0, width=25)
    assert link.has_room_for(narrow)
    batch(link, 1, 1.0, width=25)
    assert not link.has_room_for(narrow)
    assert link.has_room_for(wide)
    assert [c.has_room_for(narrow) for c in [link.state(narrow.family, ())]] == [False]
