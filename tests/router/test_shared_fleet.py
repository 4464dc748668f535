"""Routers that drive some of the servers of a fleet, as those of several gateways do."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from orchestrator.errors import ServerUnavailableError
from orchestrator.request_options import RequestOptions
from orchestrator.snapshot import ServerName, Width
from tests.fakes.servers import ACCURACY, FakeServer, item
from tests.router.test_router import routed

pytestmark = pytest.mark.virtual_time


async def test_a_router_sends_to_the_servers_that_it_drives_and_to_no_other() -> None:
    servers = {name: FakeServer() for name in "abc"}
    async with routed(servers) as router:
        router.share.drive([ServerName("b"), ServerName("not-there-yet")])
        answers = await asyncio.gather(*(router.infer(item(n)) for n in range(200)))
        assert {answer.server for answer in answers} == {"b"}
        router.share.drive(None)
        answers = await asyncio.gather(*(router.infer(item(n)) for n in range(200)))
        assert {answer.server for answer in answers} == set("abc")


async def test_a_server_that_goes_to_another_gateway_finishes_what_it_has_and_no_request_is_lost() -> None:
    servers = {name: FakeServer(max_batch_size=4) for name in "ab"}
    async with routed(servers, binding="early", deadline_ms=10_000) as router:
        calls = [asyncio.create_task(router.infer(item(n))) for n in range(100)]
        await asyncio.sleep(0.02)
        under_way = servers["a"].in_flight
        assert under_way
        sent = len(servers["a"].batches) + under_way
        router.share.drive([ServerName("b")])
        answers = await asyncio.gather(*calls)
        assert len(answers) == 100
        assert len(servers["a"].batches) == sent


@pytest.mark.parametrize("deadline_ms", [None, 50])
async def test_a_router_that_drives_nothing_refuses_at_once_whatever_the_deadline(deadline_ms: float | None) -> None:
    async with routed({"a": FakeServer()}) as router:
        router.share.drive([])
        with pytest.raises(ServerUnavailableError, match="driven by another gateway now") as refused:
            await router.infer(item(1), deadline_ms=deadline_ms)
        assert not refused.value.executed
        router.share.drive([ServerName("a")])
        assert (await router.infer(item(2), deadline_ms=deadline_ms)).server == "a"


async def test_what_waits_for_servers_that_others_drive_now_is_given_back_whatever_its_deadline() -> None:
    servers = {name: FakeServer(max_batch_size=1) for name in "ab"}
    async with routed(servers, deadline_ms=10_000) as router:
        calls = [asyncio.create_task(router.infer(item(n))) for n in range(40)]
        await asyncio.sleep(0.015)
        router.share.drive([])
        ends = await asyncio.gather(*calls, return_exceptions=True)
        given_back = [end for end in ends if isinstance(end, ServerUnavailableError)]
        assert given_back
        assert not any(end.executed for end in given_back)
        assert len(given_back) + sum(len(server.batches) for server in servers.values()) == 40


async def test_what_a_router_has_to_do_is_what_waits_and_what_runs_on_the_servers_that_it_drives() -> None:
    async with routed({name: FakeServer() for name in "ab"}) as router:
        router.share.drive([ServerName("a")])
        calls = [asyncio.create_task(router.infer(item(n), deadline_ms=5000)) for n in range(50)]
        await asyncio.sleep(0.01)
        assert router.share.unfinished_items == 50
        assert router.share.weigh().keys() == {"a", "b"}
        assert (router.share.has_sent(ServerName("a")), router.share.has_sent(ServerName("b"))) == (True, False)
        await asyncio.gather(*calls)
        assert router.share.unfinished_items == 0


async def test_a_request_costs_as_many_items_of_the_quickest_width_as_take_as_long() -> None:
    async with routed({name: FakeServer() for name in "ab"}) as router:
        share = router.share
        share.weigh()
        of_25, of_100 = (share.cost(RequestOptions(width=Width(width))) for width in (25, 100))
        assert (share.cost(RequestOptions()), of_25) == (1.0, 1.0)
        assert of_100 > 2.0
        assert share.cost(RequestOptions(min_accuracy=ACCURACY[100])) == of_100
        assert share.cost(RequestOptions(min_accuracy=1.0)) == 1.0, "nothing is known of what no width can run"


async def test_a_server_suits_whoever_asks_for_no_quality_where_all_qualities_lie_below_0() -> None:
    """As errors do, with their sign turned round."""
    server = FakeServer()
    server.models = tuple(replace(model, accuracy=-model.flops / 1e9 - 0.5) for model in server.models)
    async with routed({"a": server}) as router:
        assert router.share.suiting(RequestOptions()) == ["a"]
        assert router.share.drives_for(RequestOptions())
        assert router.share.suiting(RequestOptions(min_accuracy=0.0)) == []


async def test_costs_of_whatever_callers_ask_for_are_not_kept_without_end() -> None:
    async with routed({"a": FakeServer()}) as router:
        router.share.weigh()
        costs = {router.share.cost(RequestOptions(min_accuracy=n / 10_000)) for n in range(9280)}
        assert len(costs) == 4, "one for each width"
        assert len(router.share._costs) <= 1024


async def test_what_waits_for_a_wide_answer_is_as_much_to_do_as_it_takes() -> None:
    async with routed({"a": FakeServer()}) as router:
        router.share.weigh()
        router.share.drive([ServerName("a")])
        options = RequestOptions(width=Width(100), deadline_ms=5000)
        calls = [asyncio.create_task(router.infer(item(n), width=Width(100), deadline_ms=5000)) for n in range(50)]
        await asyncio.sleep(0.01)
        assert router.share.unfinished_items == pytest.approx(50 * router.share.cost(options))
        await asyncio.gather(*calls)
        assert router.share.unfinished_items == 0
