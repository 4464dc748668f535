"""Senders as the processes they are, against a gateway over fake servers."""

from __future__ import annotations

import asyncio
import sys
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import replace

import numpy as np
import psutil
import pytest
import pytest_asyncio

from orchestrator.config import RouterSettings
from orchestrator.errors import ConfigError, ServerUnavailableError
from orchestrator.loadgen.clients import router_options
from orchestrator.loadgen.judge import TOP_1
from orchestrator.loadgen.plan import Load
from orchestrator.loadgen.records import OK, summarize
from orchestrator.loadgen.run import run_load
from orchestrator.loadgen.sample import Sample
from orchestrator.loadgen.target import find_target, parse_set_up
from tests.fakes.servers import item
from tests.gateway.fakes import World, open_world

IMAGES = np.stack([item(mark) for mark in range(3)])
LABELS = np.array([0, 1, 1])
"""The fakes say which item they were given, so two of three are right."""
SAMPLE = Sample((IMAGES,), LABELS, TOP_1)
LOAD = Load("steady", 60.0, 1.0, 60.0)


@pytest_asyncio.fixture
async def world() -> AsyncIterator[World]:
    async with open_world() as opened:
        yield opened


def address_of(world: World, kind: str) -> str:
    return world.grpc if kind == "grpc" else world.http.removeprefix("http://")


async def test_of_several_outputs_it_must_be_said_which_has_the_scores(world: World) -> None:
    target = replace(await find_target("grpc", world.grpc, "fashion"), outputs=("boxes", "scores"))
    with pytest.raises(ConfigError, match="fashion has the outputs boxes, scores; give the one of scores as --output"):
        await run_load(target, LOAD, SAMPLE, senders=1, progress=print)


@pytest.mark.parametrize("kind", ["grpc", "http"])
async def test_every_request_of_all_senders_is_sent_and_judged_by_its_label(world: World, kind: str) -> None:
    target = await find_target(kind, address_of(world, kind), "fashion")
    assert target.is_gateway
    told: list[float] = []
    run = await run_load(target, LOAD, SAMPLE, senders=2, progress=told.append)
    summary = summarize(run.records, LOAD.deadline_s)
    assert (summary.requests, summary.statuses) == (59, {OK: 59})  # the sixtieth is due when all is over
    assert summary.right_in_time == pytest.approx(2 / 3, abs=0.02)
    assert set(summary.servers) <= {"a", "b"}
    assert summary.policies == {RouterSettings().policy: 1}
    assert sum(summary.widths.values()) == pytest.approx(1)
    assert run.records.due_s.tolist() == sorted(run.records.due_s)
    assert (run.records.sent_s >= run.records.due_s).all()
    assert told
    assert not run.is_cut


@pytest.mark.parametrize("kind", ["grpc", "http"])
async def test_several_addresses_are_asked_in_turn(world: World, kind: str) -> None:
    async with open_world(others={"c": ()}) as other:
        places = f"{address_of(world, kind)}+{address_of(other, kind)}"
        run = await run_load(await find_target(kind, places, "fashion"), LOAD, SAMPLE)
    answered = Counter(decision.partition("-")[0] for decision in run.records.decision.tolist())
    assert sorted(answered.values()) == [29, 30], "each gateway's router has ids of its own"
    assert set(run.records.status) == {OK}
    with pytest.raises(ServerUnavailableError, match=r"127\.0\.0\.1:1 says nothing"):
        await find_target(kind, f"{address_of(world, kind)}+127.0.0.1:1", "fashion")


async def test_parameters_and_what_is_left_of_the_deadline_go_with_each_request(world: World) -> None:
    set_up = await parse_set_up(f"narrow=grpc:{world.grpc}:fashion,slim_width=50")
    load = set_up.of(Load("burst:40", 0.0, 1.0, 0.001))
    run = await run_load(set_up.target, load, SAMPLE)
    assert set(run.records.width[run.records.status == OK]) <= {50}
    assert "its deadline" in " ".join(run.records.details.values())  # a millisecond for forty of them


async def test_a_run_that_is_killed_leaves_nobody_who_goes_on_sending(world: World) -> None:
    script = f"""
import asyncio
from orchestrator.loadgen.plan import Load
from orchestrator.loadgen.run import run_load
from orchestrator.loadgen.target import find_target
from tests.loadgen.test_run import SAMPLE

async def run():
    target = await find_target("grpc", "{world.grpc}", "fashion")
    tell = lambda seconds: print(seconds, flush=True)
    await run_load(target, Load("steady", 10.0, 3600.0, 60.0), SAMPLE, senders=2, progress=tell)

asyncio.run(run())
"""
    run = await asyncio.create_subprocess_exec(sys.executable, "-c", script, stdout=asyncio.subprocess.PIPE)
    assert run.stdout is not None
    assert await run.stdout.readline(), "it has begun"
    senders = psutil.Process(run.pid).children()
    assert len(senders) == 2
    run.kill()
    await run.wait()
    _, alive = await asyncio.to_thread(psutil.wait_procs, senders, timeout=30)
    for process in alive:
        process.kill()
    assert not alive


async def test_answers_that_cannot_be_judged_end_the_run_and_without_labels_nothing_is_right_or_wrong(
    world: World,
) -> None:
    target = await find_target("grpc", world.grpc, "fashion")
    with pytest.raises(ConfigError, match="a sender ended early: --metric top-2 can't judge the answer to item"):
        await run_load(target, Load("burst:3", 0.0, 1.0, 60.0), Sample((IMAGES,), LABELS + 1000, "top-2"))
    with pytest.raises(ServerUnavailableError, match="a sender could not begin: --metric best: is none"):
        await run_load(target, Load("burst:3", 0.0, 1.0, 60.0), Sample((IMAGES,), LABELS, "best"))
    with pytest.raises(ConfigError, match="--output mask: there are only"):
        await run_load(target, Load("burst:3", 0.0, 1.0, 60.0), Sample((IMAGES,), LABELS, "top-1", "mask"))
    run = await run_load(target, Load("burst:3", 0.0, 1.0, 60.0), Sample((IMAGES,)))
    summary = summarize(run.records, 60.0)
    assert (summary.statuses, summary.in_time) == ({OK: 3}, 1)
    assert (summary.right_in_time, summary.accuracy) == (None, None)


def test_a_router_gets_as_options_what_a_gateway_gets_as_parameters() -> None:
    parameters = {"slim_width": 50, "slim_min_accuracy": 0.9, "priority": 1, "slim_preference": "accuracy=1"}
    options = router_options(parameters)
    assert (options["width"], options["min_accuracy"], options["priority"]) == (50, 0.9, 1)
    assert options["preference"].accuracy == 1
    with pytest.raises(ConfigError, match="a router takes no parameter 'slim_colour'; it takes slim_deadline_ms"):
        router_options({"slim_colour": 1})
    with pytest.raises(ConfigError, match="can't be used"):
        router_options({"slim_width": "wide"})


async def test_who_interrupts_gets_what_was_sent_until_then(world: World) -> None:
    target = await find_target("grpc", world.grpc, "fashion")
    begun = asyncio.Event()
    task = asyncio.create_task(
        run_load(target, Load("steady", 50.0, 30.0, 1.0), SAMPLE, progress=lambda seconds: begun.set())
    )
    await begun.wait()
    task.cancel()
    run = await task
    assert run.is_cut
    assert 0 < len(run.records.due_s) < 1500


async def test_nobody_there_and_no_such_model_are_said_in_one_line(world: World) -> None:
    with pytest.raises(ServerUnavailableError, match=r"127\.0\.0\.1:1 says nothing of model 'fashion'"):
        await find_target("grpc", "127.0.0.1:1", "fashion")
    with pytest.raises(ServerUnavailableError, match="says nothing of model 'nobody'"):
        await find_target("http", address_of(world, "http"), "nobody")
    for text in ("grpc:x", "a=", "a=grpc:127.0.0.1:1:m,slim_width"):
        with pytest.raises(ConfigError, match="is no NAME="):
            await parse_set_up(text)
    for kind, places, problem in (
        ("grpc", "here", "grpc address: must be host:port, .*got 'here'"),
        ("http", "127.0.0.1:1+http://127.0.0.1:1", "http address: must be host:port, .*got 'http://127"),
        ("http", "127.0.0.1:99999", "port 99999 is outside 1 to 65535"),
    ):
        with pytest.raises(ConfigError, match=problem):
            await find_target(kind, places, "fashion")
    with pytest.raises(ConfigError, match="unknown kind of target 'carrier-pigeon'"):
        await find_target("carrier-pigeon", "x", "y")
