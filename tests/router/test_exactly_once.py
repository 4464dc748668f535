"""Every accepted request is answered exactly once, whatever servers, callers and policies do; nothing is left behind.

A scenario is drawn: requests with deadlines, priorities and bounds, some of whose callers give up; servers that answer,
refuse, raise, hang, answer short or late at each of their calls, and that go away and come back. It is played in
virtual time, and then the books must balance.
"""

from __future__ import annotations

import asyncio
import gc
from dataclasses import dataclass
from typing import Any

import numpy as np
from hypothesis import given, note, settings
from hypothesis import strategies as st

from orchestrator.config import RouterSettings
from orchestrator.errors import DeadlineError, PermanentError, ServerUnavailableError, SlimError, TransientError
from orchestrator.request_options import RequestOptions
from orchestrator.router import Answer, CallbackSink, Router
from orchestrator.router.observer import RouterObserver
from orchestrator.snapshot import Preference, ServedModel, ServerName, Width
from tests.fakes.servers import CLASSES, NO_TIME_LIMITS, FakeServer, item
from tests.fakes.virtual_time import new_virtual_loop

STEPS = ("answer", "refuse", "break", "fail", "raise", "hang", "short", "slow", "late refusal")


@dataclass(frozen=True)
class Call:
    """One request: when it comes, what it asks for, when its caller gives up, and how it is answered."""

    after_s: float
    items: int
    options: tuple[tuple[str, Any], ...]
    patience_s: float | None
    by_callback: bool = False


@dataclass(frozen=True)
class Scenario:
    calls: tuple[Call, ...]
    scripts: tuple[tuple[str, ...], ...]  # of each server, one a call, then it answers
    losses: tuple[tuple[float, int, float], ...]  # (when, which server, for how long)
    settings: tuple[tuple[str, Any], ...]
    close_early: bool


request_options = st.fixed_dictionaries(
    {},
    optional={
        "deadline_ms": st.sampled_from((0.0, 5.0, 20.0, 100.0, 1000.0)),
        "priority": st.integers(0, 4),
        "width": st.sampled_from((Width(25), Width(100))),
        "min_accuracy": st.sampled_from((0.91, 0.92)),
        "preference": st.sampled_from((Preference(1.0, 0.0, 0.0), Preference(0.2, 0.5, 0.3))),
    },
)
calls = st.builds(
    Call,
    after_s=st.sampled_from((0.0, 0.0, 0.001, 0.01, 0.1)),
    items=st.sampled_from((1, 1, 1, 3)),
    options=request_options.map(lambda found: tuple(found.items())),
    patience_s=st.sampled_from((None, None, None, 0.0, 0.005, 0.05)),
    by_callback=st.booleans(),
)
router_settings = st.fixed_dictionaries(
    {
        "policy": st.sampled_from(("lert:slack", "random", "round-robin", "slackfit", "p2c:slack", "max-batch")),
        "binding": st.sampled_from(("policy", "early", "late")),
        "queue_limit": st.sampled_from((3, 10, 1000)),
        "in_flight_groups": st.integers(1, 3),
        "hedge": st.sampled_from((None, {"floor_ms": 1.0})),
        "max_attempts": st.integers(1, 3),
        "overload": st.sampled_from(({"shed_late": True}, {"shed_late": False})),
    }
)
scenarios = st.builds(
    Scenario,
    calls=st.lists(calls, min_size=1, max_size=30).map(tuple),
    scripts=st.lists(st.lists(st.sampled_from(STEPS), max_size=6).map(tuple), min_size=1, max_size=3).map(tuple),
    losses=st.lists(
        st.tuples(st.sampled_from((0.0, 0.002, 0.02, 0.2)), st.integers(0, 2), st.sampled_from((0.001, 0.1, 5.0))),
        max_size=3,
    ).map(tuple),
    settings=router_settings.map(lambda found: tuple(found.items())),
    close_early=st.booleans(),
)


class ScriptedServer(FakeServer):
    """Does what its script says at each call, before or after it has run the batch."""

    def __init__(self, script: tuple[str, ...]) -> None:
        super().__init__(per_item_s=0.004)
        self._script = script
        self._steps: list[str] = []

    def begin(self) -> None:
        """Behave well no longer: the warm-up is over."""
        self._steps = list(self._script)

    async def infer_batch(self, model: ServedModel, batch: Any) -> Any:
        step = self._steps.pop(0) if self._steps else "answer"
        if step == "refuse":
            raise ServerUnavailableError("connection refused", executed=False)
        if step == "raise":
            raise ZeroDivisionError("bug")
        if step == "hang":
            await asyncio.sleep(60)
        if step == "slow":
            await asyncio.sleep(0.3)
        if step == "late refusal":
            await asyncio.sleep(0.05)
            raise TransientError("not ready", executed=False)
        outputs = await super().infer_batch(model, batch)
        if step == "break":
            raise TransientError("socket closed")
        if step == "fail":
            raise PermanentError("bad kernel")
        return tuple(output[:-1] for output in outputs) if step == "short" else outputs


class Ledger(RouterObserver):
    """Counts batches that were sent and that have ended, and items that were shed."""

    def __init__(self) -> None:
        self.under_way = 0
        self.shed_items = 0

    def on_sent(self, server: ServerName, width: Width, items: int) -> None:
        self.under_way += 1

    def on_ended(self, server: ServerName, width: Width, items: int) -> None:
        self.under_way -= 1

    def on_shed(self, reason: str, items: int) -> None:
        self.shed_items += items


async def ask(router: Router, mark: int, call: Call) -> Any:
    """Return the answer or the error of a request, None when its caller gave up."""
    batch = np.stack([item(mark)] * call.items)
    if call.by_callback:
        return await submit(router, batch, call)
    asking = router.infer(batch, **dict(call.options))
    if call.patience_s is None:
        return await asking
    try:
        async with asyncio.timeout(call.patience_s):
            return await asking
    except TimeoutError:
        return None


async def submit(router: Router, batch: Any, call: Call) -> Any:
    called_back: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    sink = CallbackSink(called_back.set_result)  # which raises when it is called twice, or after it was given up
    router.submit(batch, RequestOptions(**dict(call.options)), sink)
    try:
        async with asyncio.timeout(call.patience_s):
            outcome = await asyncio.shield(called_back)
    except TimeoutError:
        if called_back.done():  # in the very same moment
            return called_back.result()
        sink.cancel()
        called_back.cancel()
        return None
    if isinstance(outcome, Exception):
        raise outcome
    return outcome


async def lose(server: FakeServer, after_s: float, for_s: float) -> None:
    await asyncio.sleep(after_s)
    server.is_up = False
    await asyncio.sleep(for_s)
    server.is_up = True


async def play(scenario: Scenario) -> None:
    servers = [ScriptedServer(script) for script in scenario.scripts]
    ledger = Ledger()
    options = RouterSettings.model_validate(
        {
            "guard": NO_TIME_LIMITS,
            "request_timeout_s": 20,
            "group_timeout_s": 5,
            "drain_s": 30,
            **dict(scenario.settings),
        }
    )
    router = Router(options, {ServerName(f"s{n}"): server for n, server in enumerate(servers)}, observer=ledger)
    asked: list[asyncio.Task[Any]] = []
    async with router:
        for server in servers:
            server.begin()
        troubles = [
            asyncio.create_task(lose(servers[which % len(servers)], after_s, for_s))
            for after_s, which, for_s in scenario.losses
        ]
        for mark, call in enumerate(scenario.calls):
            asked.append(asyncio.create_task(ask(router, mark, call)))
            await asyncio.sleep(call.after_s)
        if not scenario.close_early:
            _, lost = await asyncio.wait(asked, timeout=300)
            assert not lost, "some were never answered"
            backlog = router.inspect().backlog
            assert (backlog.requests, backlog.items, backlog.size_bytes) == (0, 0, 0)
    _, lost = await asyncio.wait(asked, timeout=300)
    assert not lost, "some were never answered"
    outcomes = await asyncio.gather(*asked, return_exceptions=True)
    await asyncio.gather(*troubles)
    check_outcomes(scenario, outcomes)
    check_nothing_is_left(router, ledger)


def check_outcomes(scenario: Scenario, outcomes: list[Any]) -> None:
    is_calm = not scenario.losses and not {"refuse", "hang", "late refusal"} & {
        step for script in scenario.scripts for step in script
    }
    for mark, (call, outcome) in enumerate(zip(scenario.calls, outcomes, strict=True)):
        note(f"{mark}: {outcome!r}"[:200])
        if isinstance(outcome, Answer):
            assert outcome.output.shape == (call.items, CLASSES)
            assert {int(row.argmax()) for row in outcome.output} == {mark % CLASSES}, "somebody else's answer"
            assert outcome.output.max() == mark + 1
        elif outcome is None:
            assert call.patience_s is not None
        else:
            assert isinstance(outcome, SlimError), "callers see our errors only"
            is_timeout = isinstance(outcome, DeadlineError) and "request_timeout_s" in str(outcome)
            assert not (is_calm and is_timeout), "lost, and found by its timeout only"


def check_nothing_is_left(router: Router, ledger: Ledger) -> None:
    backlog = router.inspect().backlog
    assert (backlog.requests, backlog.items, backlog.size_bytes) == (0, 0, 0)
    assert ledger.under_way == 0
    assert router.inspect().batches_under_way == 0
    left = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    # Calls to servers go on in the background for as long as they take; the router's own are gone.
    assert not [task for task in left if "router" in repr(task.get_coro())], left


@settings(deadline=None, max_examples=100)
@given(scenarios)
def test_every_request_is_answered_exactly_once_and_nothing_is_left(scenario: Scenario) -> None:
    unhandled: list[dict[str, Any]] = []
    loop = new_virtual_loop()
    loop.set_exception_handler(lambda _, context: unhandled.append(context))  # futures resolved twice, lost exceptions
    try:
        loop.run_until_complete(play(scenario))
        loop.run_until_complete(asyncio.sleep(0))
    finally:
        for task in asyncio.all_tasks(loop):
            task.cancel()
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()
    gc.collect(0)
    assert not unhandled
