from __future__ import annotations

import pytest

from orchestrator.config import RouterSettings
from orchestrator.router.link import ServerLink
from orchestrator.snapshot import GroupInFlight, ModelName, ServerName
from tests.fakes.servers import FakeServer, served_model

Observation = tuple[str, int, float]


@pytest.fixture
def observed() -> list[Observation]:
    return []


@pytest.fixture
def link(observed: list[Observation]) -> ServerLink:
    def observe(server: ServerName, model: ModelName, items: int, service_s: float) -> None:
        observed.append((model, items, pytest.approx(service_s)))  # type: ignore[arg-type]

    return ServerLink(ServerName("a"), FakeServer(), RouterSettings(), observe)


def answer(link: ServerLink, group: GroupInFlight, now_s: float) -> None:
    link.finish(group, now_s=now_s)
    link.in_flight.remove(group)


def group(link: ServerLink, items: int, sent_s: float, width: int = 100) -> GroupInFlight:
    sent = GroupInFlight(served_model(width).name, items, sent_s)
    link.in_flight.append(sent)
    return sent


def test_a_group_alone_is_observed_at_once(link: ServerLink, observed: list[Observation]) -> None:
    answer(link, group(link, 4, 1.0), 1.5)
    assert observed == [("fashion_w100", 4, 0.5)]


def test_a_group_behind_another_began_when_that_was_answered(link: ServerLink, observed: list[Observation]) -> None:
    first, second = group(link, 4, 1.0), group(link, 2, 1.1, width=50)
    answer(link, first, 1.5)
    assert observed == []
    answer(link, second, 1.7)
    assert observed == [("fashion_w100", 4, 0.5), ("fashion_w050", 2, 0.2)]


def test_groups_that_triton_ran_as_one_are_observed_as_one(link: ServerLink, observed: list[Observation]) -> None:
    first, second = group(link, 4, 1.0), group(link, 2, 1.1)
    answer(link, first, 1.5)
    third = group(link, 1, 1.5005)
    answer(link, second, 1.501)
    assert observed == []
    answer(link, third, 1.6)
    assert observed == [("fashion_w100", 6, 0.501), ("fashion_w100", 1, 0.099)]
