"""What comes of actions: memory that belongs to them, hangs, failures, nonces."""

from __future__ import annotations

import asyncio
import itertools
from dataclasses import replace
from typing import Any

import pytest

from orchestrator.controller.actuator import SETTLE_S, STUB_END_S, Actuator
from orchestrator.controller.ports import Clocks
from orchestrator.errors import ServerUnavailableError
from orchestrator.planner.actions import Action, Outcome
from orchestrator.planner.host import Batching, LoadedModel, ModelStatus
from orchestrator.snapshot import ModelName
from tests.controller.worlds import LIMITS, MIB, W025, W050, W075, load, now_s, reload, scale, triton, unload
from tests.fakes.control import FakeTriton

pytestmark = pytest.mark.virtual_time


class Hands:
    """An actuator on a fake, and all that it reported."""

    def __init__(self, server: FakeTriton, clocks: Clocks | None = None) -> None:
        self.server = server
        loop = asyncio.get_running_loop()
        self.actuator = Actuator(
            server, server.telemetry, clocks=clocks or Clocks(loop.time, lambda: 1.7e9 + loop.time())
        )
        self.outcomes: list[Outcome] = []
        self.left_actions: list[tuple[Action, float]] = []
        self.withheld_actions: list[tuple[Action, str]] = []

    def ended(self, outcome: Outcome) -> None:
        self.outcomes.append(outcome)

    def left(self, action: Action, *, took_s: float) -> None:
        self.left_actions.append((action, took_s))

    def withheld(self, action: Action, why: str) -> None:
        self.withheld_actions.append((action, why))

    async def act(self, *actions: Action, limits: Any = LIMITS) -> None:
        loaded = {model.name: model for model in await self.server.loaded_models()}
        await self.actuator.act(actions, loaded, limits=limits, listener=self)

    @property
    def changes_mib(self) -> list[float | None]:
        changes = []
        for outcome in self.outcomes:
            before, after = outcome.memory_before_bytes, outcome.memory_after_bytes
            changes.append(None if before is None or after is None else (after - before) / MIB)
        return changes


async def test_each_action_is_charged_with_what_it_took() -> None:
    server = triton(instance_mib={25: 10, 50: 20, 75: 30, 100: 40})
    hands = Hands(server)
    await hands.act(load(W025), load(W075))
    await hands.act(scale(W025, 3), unload(W075))
    assert hands.changes_mib == [10, 30, 20, -30]
    assert [outcome.instances_before for outcome in hands.outcomes] == [0, 0, 1, 1]
    assert all(outcome.error is None for outcome in hands.outcomes)
    took_s = [outcome.ended_s - outcome.began_s for outcome in hands.outcomes]
    assert took_s == pytest.approx([1.4, 1.4, 0.2, 0.3]), "what settling takes is no part of the price"


async def test_memory_given_back_behind_the_answer_is_waited_for() -> None:
    server = triton(instance_mib=64)
    hands = Hands(server)
    server.release_s = 0.75
    await hands.act(load(W025), load(W050))
    await hands.act(unload(W025), reload(W050, is_forced=True), load(W025))
    assert hands.changes_mib == [64, 64, -64, 0, 64]


async def test_the_stubs_of_an_old_version_end_one_after_another_and_are_waited_for() -> None:
    server = triton(instance_mib=64)
    hands = Hands(server)
    await hands.act(load(W025), load(W050, instances=2))
    server.release_s = 2.6  # of two stubs on the embedded server
    began_s = now_s()
    await hands.act(replace(reload(W050, is_forced=True), instances=2), load(W075))
    assert hands.changes_mib == [64, 128, 0, 64]
    server.release_s = 1e6
    before_s = now_s()
    await hands.act(replace(reload(W050, is_forced=True), instances=2))
    assert hands.changes_mib[4:] == [128], "as it is then: the ledger is to know of what stays"
    assert now_s() - before_s <= server.reload_s + SETTLE_S + 2 * STUB_END_S + 0.2
    assert before_s - began_s < 8


async def test_memory_that_is_never_given_back_is_waited_for_only_so_long() -> None:
    server = triton(instance_mib=64)
    hands = Hands(server)
    await hands.act(load(W025))
    server.leak_bytes = 64 * MIB
    began_s = now_s()
    await hands.act(unload(W025))
    assert hands.changes_mib == [64, 0]
    assert now_s() - began_s <= server.unload_s + SETTLE_S + 0.2


async def test_unreadable_memory_shows_no_size_and_stops_only_what_needs_it() -> None:
    server = triton()
    hands = Hands(server)
    server.telemetry.is_memory_readable = False
    await hands.act(load(W025))  # of the minimum set
    assert hands.changes_mib == [None] and hands.outcomes[0].error is None
    await hands.act(unload(W025), scale(W050, 2))
    assert [call.kind for call in server.calls] == ["load", "unload"]
    assert hands.withheld_actions == [(scale(W050, 2), "no longer fits: used_bytes=None needed_bytes=67108864")]


async def test_an_action_that_no_longer_fits_ends_the_plan() -> None:
    server = triton(base_mib=100, instance_mib=200)
    hands = Hands(server)
    limits = replace(LIMITS, memory_budget_bytes=400 * MIB)
    await hands.act(load(W025), load(W050, needed_mib=110), unload(W025), limits=limits)
    assert [call.model for call in server.calls] == [W025]
    assert hands.withheld_actions[0][0].model == W050


async def test_a_hanging_load_is_left_to_itself_and_what_needs_memory_waits_for_it() -> None:
    server = triton()
    hands = Hands(server)
    await hands.act(load(W025, instances=2), load(W075))
    server.load_s = 30
    await hands.act(load(W050), scale(W025, 3), scale(W025, 1, up=False), unload(W075))
    assert now_s() < 20
    assert hands.left_actions == [(load(W050), 10)]
    assert hands.withheld_actions == [(scale(W025, 3), "waits for fashion_w050")]
    assert hands.actuator.busy_models == {W050}
    assert hands.changes_mib[2:] == [None, None], "nobody knows whose change it was"
    await hands.act(unload(W050), reload(W025), load(W075))
    assert len(hands.withheld_actions) == 4, "neither its model nor what needs memory"
    assert hands.actuator.collect() == ()
    await asyncio.sleep(30)
    (late,) = hands.actuator.collect()
    assert late.is_late and late.error is None
    assert (late.memory_before_bytes, late.memory_after_bytes) == (None, None)
    assert late.ended_s - late.began_s == pytest.approx(30)
    assert hands.actuator.busy_models == frozenset()


async def test_a_late_end_disturbs_no_reading_of_the_next_action() -> None:
    server = triton(instance_mib=64)
    hands = Hands(server)
    await hands.act(load(W025))
    server.reload_s, server.release_s = 30, 0.75
    await hands.act(reload(W025, is_forced=True))
    await asyncio.sleep(20.01 - SETTLE_S)
    while not hands.actuator.collect():
        await asyncio.sleep(0.01)
    await hands.act(load(W050))
    assert hands.changes_mib[-1] == 64, "the old version of the reload went before, not during"


async def test_a_failure_is_reported_in_one_line_and_ends_the_plan() -> None:
    server = triton()
    hands = Hands(server)
    server.fail_next(W025, "out of\n  memory")
    await hands.act(load(W025), load(W050))
    assert [o.error for o in hands.outcomes] == ["Triton at fake: load failed for model 'fashion_w025': out of memory"]
    assert hands.outcomes[0].is_executed and hands.changes_mib == [None]
    assert len(server.calls) == 1
    await hands.act(load(W050))
    assert hands.changes_mib[-1] == 64


async def test_a_server_that_went_away_before_says_nothing_of_the_config() -> None:
    server = triton()
    hands = Hands(server)
    await hands.act(load(W025))
    loaded = {model.name: model for model in await server.loaded_models()}
    server.kill()
    await hands.actuator.act((unload(W025), load(W050)), loaded, limits=LIMITS, listener=hands)
    assert [outcome.is_executed for outcome in hands.outcomes] == [True, False]


async def test_a_server_that_dies_during_an_action_may_have_died_of_it() -> None:
    server = triton()
    hands = Hands(server)
    asyncio.get_running_loop().call_later(1, server.kill)
    await hands.act(load(W025), load(W050))
    (outcome,) = hands.outcomes
    assert outcome.is_executed and outcome.error == "Triton at fake: Socket closed"


class Liar(FakeTriton):
    """Says that it did what it did not."""

    async def apply(self, model: ModelName, *, instances: int, batching: Batching, nonce: str) -> None:
        await super().apply(model, instances=1, batching=batching, nonce=nonce)

    async def unload(self, model: ModelName) -> None:
        return None


class Deserter(FakeTriton):
    """Loses what it has just loaded, or fails in a way nobody expects."""

    bug: Exception | None = None

    async def apply(self, model: ModelName, *, instances: int, batching: Batching, nonce: str) -> None:
        if self.bug is not None:
            raise self.bug
        await super().apply(model, instances=instances, batching=batching, nonce=nonce)
        await super().unload(model)


async def test_what_triton_says_it_did_is_verified() -> None:
    hands = Hands(Liar(clock=asyncio.get_running_loop().time))
    await hands.act(load(W025))
    await hands.act(scale(W025, 2))
    await hands.act(unload(W025))
    assert [outcome.error for outcome in hands.outcomes] == [
        None,
        "Triton runs 1 instances of it where 2 were asked for",
        "Triton called it unloaded, yet it is ready",
    ]
    lost = Hands(Deserter(clock=asyncio.get_running_loop().time))
    await lost.act(load(W025))
    assert lost.outcomes[0].error == "Triton called it loaded, yet it is absent"


async def test_an_unexpected_failure_is_an_outcome_and_leaves_a_traceback(caplog: pytest.LogCaptureFixture) -> None:
    server = Deserter(clock=asyncio.get_running_loop().time)
    server.bug = KeyError("instance_group")
    hands = Hands(server)
    await hands.act(load(W025), load(W050))
    assert [outcome.error for outcome in hands.outcomes] == ["KeyError: 'instance_group'"]
    assert "Traceback" in caplog.text
    assert hands.actuator.busy_models == frozenset()


async def test_a_nonce_is_repeated_unless_the_reload_is_forced() -> None:
    server = triton()
    hands = Hands(server)
    slow = Batching((8,), 500)
    await hands.act(load(W025))
    await hands.act(scale(W025, 2))
    await hands.act(reload(W025, is_forced=True))
    await hands.act(scale(W025, 3))
    await hands.act(reload(W025, batching=slow))
    await hands.act(reload(W025, batching=slow, is_forced=True))
    nonces = [call.nonce for call in server.calls]
    assert nonces[:2] == ["", ""]
    assert nonces[2] and nonces[2:5] == [nonces[2]] * 3
    assert nonces[5] not in nonces[:5]
    assert [call.kind for call in server.calls] == ["load", "in-place", "reload", "in-place", "reload", "reload"]


async def test_a_nonce_is_fresh_also_after_a_restart_of_the_daemon() -> None:
    server = triton()
    hands = Hands(server)
    await hands.act(load(W025), reload(W050, is_forced=True))
    frozen = Clocks(now_s, lambda: 1.7e9)  # a clock that stands still, and was set back
    again = Hands(server, frozen)
    used = {again.actuator._fresh_nonce("") for _ in range(5)}
    assert len(used) == 5
    first = Actuator(server, server.telemetry, clocks=frozen)._fresh_nonce("")
    assert first in used, "the same moment and count"
    repeated = Actuator(server, server.telemetry, clocks=frozen)
    assert repeated._fresh_nonce(first) != first, "but never what the model has"


async def test_closing_waits_for_what_is_under_way_and_then_no_longer() -> None:
    server = triton()
    server.load_s = 15
    hands = Hands(server)
    await hands.act(load(W025))
    assert now_s() == pytest.approx(10)
    await hands.actuator.close(wait_s=20)
    assert now_s() == pytest.approx(15)
    server.load_s = 100
    slow = Hands(server)
    await slow.act(load(W050))
    await slow.actuator.close(wait_s=3)
    assert now_s() == pytest.approx(28)
    await slow.act(load(W075))
    assert server.calls[-1].model == W050, "nothing is begun once it is closed"
    await asyncio.sleep(100)
    assert (await server.loaded_models())[1].status is ModelStatus.READY, "Triton finished it all the same"


async def test_a_cancelled_step_loses_no_outcome() -> None:
    server = triton()
    for moment_s in itertools.count(0.05, 0.1):
        hands = Hands(server)
        step = asyncio.create_task(hands.act(load(W025)))
        await asyncio.sleep(moment_s)
        if step.done():
            break
        step.cancel()
        await asyncio.wait({step})
        await asyncio.sleep(5)
        late = hands.actuator.collect()
        assert [outcome.error for outcome in late] == [None]
        assert late[0].memory_after_bytes is None
        assert hands.actuator.busy_models == frozenset()
        await server.unload(W025)
    assert moment_s > server.load_s


async def test_a_model_that_nobody_has_seen_counts_as_absent() -> None:
    server = triton()
    hands = Hands(server)
    await hands.actuator.act((load(W025),), {}, limits=LIMITS, listener=hands)
    assert hands.outcomes[0].instances_before == 0
    assert (await server.loaded_models())[0] == LoadedModel(W025, ModelStatus.READY, instances=1, is_python_based=True)


async def test_an_unavailable_server_in_verification_fails_the_action() -> None:
    server = triton()
    hands = Hands(server)

    def fall_silent() -> None:
        server.observe_error = ServerUnavailableError("gone")

    asyncio.get_running_loop().call_later(0.5, fall_silent)
    await hands.act(load(W025))
    assert [outcome.error for outcome in hands.outcomes] == ["gone"]
