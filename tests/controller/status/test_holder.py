"""Who drives a Triton, as gateways ask its controller over real HTTP."""

from __future__ import annotations

import asyncio
import http.client
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from orchestrator.controller.status.endpoint import ControllerEndpoint, Heartbeat
from orchestrator.controller.status.holder import HolderKeeper
from orchestrator.ownership.record import LEASE_S
from orchestrator.snapshot import ServerName
from orchestrator.triton.protocol_key import render_headers
from tests.ports import choose_free_port

JSON = {"Content-Type": "application/json"}
FIRST_TERM = 1000


@dataclass
class Keeper:
    """A controller's endpoint whose clock the test sets, composed at 0 s; its loop never runs."""

    headers: dict[str, str] = field(default_factory=dict)
    now_s: float = 0.0
    bound_s: float = 0.0
    port: int = field(default_factory=choose_free_port)

    @contextmanager
    def listening(self) -> Iterator[Keeper]:
        loop = asyncio.new_event_loop()
        endpoint = ControllerEndpoint(
            f"127.0.0.1:{self.port}",
            server=ServerName("gpu-0"),
            registry=CollectorRegistry(),
            report=lambda: None,
            heartbeat=Heartbeat(1.0, lambda: 0.0),
            models=tuple,
            demand=lambda model, hold_s: None,
            keeper=HolderKeeper(lambda: self.now_s, first_term=FIRST_TERM, headers=self.headers),
            loop=loop,
        )
        self.now_s = self.bound_s
        with endpoint:
            yield self
        loop.close()

    def send(self, method: str, body: object, headers: dict[str, str] | None = None) -> tuple[int, dict[str, Any]]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        connection.request(method, "/holder", json.dumps(body).encode(), JSON | (headers or {}))
        answer = connection.getresponse()
        values = json.loads(answer.read())
        connection.close()
        return answer.status, values

    def ask(self, what: str, gateway: str, term: int | None = None, **more: str) -> tuple[int, dict[str, Any]]:
        return self.send(
            "POST", {"ask": what, "gateway": gateway} | ({} if term is None else {"term": term}) | dict(more)
        )


@pytest.fixture
def keeper() -> Iterator[Keeper]:
    with Keeper().listening() as keeper:
        keeper.now_s = LEASE_S
        yield keeper


def held_by(gateway: str, term: int) -> dict[str, Any]:
    return {"holder": gateway, "term": term, "wait_s": LEASE_S}


def test_a_gateway_claims_renews_and_gives_a_triton_to_a_successor(keeper: Keeper) -> None:
    assert keeper.ask("claim", "a") == (200, held_by("a", FIRST_TERM))
    keeper.now_s += 1
    assert keeper.ask("renew", "a", FIRST_TERM) == (200, held_by("a", FIRST_TERM))
    assert keeper.ask("release", "a", FIRST_TERM, successor="b") == (200, held_by("b", FIRST_TERM + 1))
    assert keeper.ask("claim", "b") == (200, held_by("b", FIRST_TERM + 2))
    assert keeper.send("GET", None) == (200, held_by("b", FIRST_TERM + 2))


def test_what_another_gateway_has_is_refused_with_its_name_and_the_time_to_come_again(keeper: Keeper) -> None:
    keeper.ask("claim", "a")
    keeper.now_s += 0.5
    error = "claim is not granted, a has the Triton; claim it again in 1.5 s"
    assert keeper.ask("claim", "b") == (
        409,
        {"error": error, "holder": "a", "term": FIRST_TERM, "wait_s": LEASE_S - 0.5},
    )
    keeper.now_s += 1.5
    assert keeper.ask("renew", "a", FIRST_TERM)[0] == 409
    assert keeper.ask("claim", "b")[0] == 200


def test_a_keeper_that_has_just_begun_grants_nothing() -> None:
    with Keeper().listening() as keeper:
        assert keeper.ask("claim", "a") == (
            409,
            {
                "error": "claim is not granted, nobody yet has the Triton; claim it again in 2 s",
                "holder": None,
                "term": None,
                "wait_s": LEASE_S,
            },
        )


def test_it_has_begun_when_it_has_the_address_which_an_earlier_one_answered_at_until_then() -> None:
    with Keeper(bound_s=10.0).listening() as keeper:
        keeper.now_s = 10.0 + LEASE_S / 2
        assert keeper.ask("claim", "a")[0] == 409
        keeper.now_s = 10.0 + LEASE_S
        assert keeper.ask("claim", "a")[0] == 200


def test_of_many_that_claim_at_once_one_gets_it(keeper: Keeper) -> None:
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda n: keeper.ask("claim", f"gateway-{n}"), range(8)))
    assert sorted(status for status, _ in answers) == [200] + [409] * 7
    assert len({values["holder"] for _, values in answers}) == 1


def test_where_triton_is_restricted_a_claim_carries_its_key() -> None:
    key = render_headers(("cluster-key", "secret"))
    claim = {"ask": "claim", "gateway": "a"}
    with Keeper(headers=key).listening() as keeper:
        keeper.now_s = LEASE_S
        for headers in ({}, {next(iter(key)): "wrong"}, {next(iter(key)): "sécret"}):
            status, answer = keeper.send("POST", claim, headers)
            assert status == 403
            assert "secret" not in answer["error"]
        assert keeper.send("POST", claim, key)[0] == 200


def test_web_pages_get_nothing(keeper: Keeper) -> None:
    origin = {"Origin": "http://example.org"}
    assert keeper.send("POST", {"ask": "claim", "gateway": "a"}, origin)[0] == 403
    assert keeper.send("GET", None)[1]["holder"] is None


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        ({"ask": "steal", "gateway": "a"}, "the body: ask: must be"),
        ({"ask": "claim", "gateway": "a b"}, "the body: gateway: must be letters"),
        ({"ask": "claim", "gateway": "a" * 300}, "the body: gateway"),
        ({"ask": "claim", "gateway": "a", "term": 1}, "the body: to renew and release give the 'term'"),
        ({"ask": "renew", "gateway": "a"}, "the body: to renew and release give the 'term'"),
        ({"ask": "renew", "gateway": "a", "term": 0}, "the body: term: must be at least 1"),
        ({"ask": "renew", "gateway": "a", "term": 1, "successor": "b"}, "the body: only a release has a successor"),
        ({"ask": "claim", "gateway": "a", "until": 9}, "the body: unknown key until"),
        ([], "the body"),
    ],
)
def test_a_request_that_makes_no_sense_is_refused_in_one_line(keeper: Keeper, body: object, problem: str) -> None:
    status, answer = keeper.send("POST", body)
    assert status == 400
    assert answer["error"].startswith(problem)
    assert "\n" not in answer["error"]
    assert keeper.send("GET", None)[1]["holder"] is None
