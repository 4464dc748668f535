"""More than can be answered: what is given up, in which order, and that nobody waits for it."""

from __future__ import annotations

import asyncio
import gc
import re
import weakref
from collections import Counter
from typing import Any

import numpy as np
import pytest

from orchestrator.config import ProbeSettings
from orchestrator.errors import CapacityError, ConfigError, DeadlineError, ServerUnavailableError
from orchestrator.router import Answer, Router
from orchestrator.router.observer import RouterObserver
from orchestrator.router.queue.request import BatchKey, PendingRequest
from orchestrator.router.queue.request_queue import QueueEstimate, RequestQueue
from orchestrator.router.queue.shedding import comes_too_late, describe_place
from orchestrator.snapshot import Family, Width
from tests.fakes.servers import FakeServer, item
from tests.fakes.troubled import TroubledServer
from tests.router.test_router import right, routed

pytestmark = pytest.mark.virtual_time

DEADLINE_S = 0.5


class Sheds(RouterObserver):
    """Counts what is shed, by reason."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()

    def on_shed(self, reason: str, items: int) -> None:
        self.counts[str(reason)] += items


async def timed(
    router: Router, mark: int, **options: Any
) -> tuple[float, float, Answer | CapacityError | DeadlineError]:
    """Return when a request came, how long it took, and its answer or refusal."""
    clock = asyncio.get_running_loop().time
    began_s = clock()
    try:
        outcome: Answer | CapacityError | DeadlineError = await router.infer(item(mark), **options)
    except (CapacityError, DeadlineError) as exc:
        outcome = exc
    return began_s, clock() - began_s, outcome


async def burst(router: Router, *, rate_rps: float, seconds: float, **options: Any) -> list[Any]:
    async with asyncio.TaskGroup() as batch:
        tasks = []
        for n in range(int(rate_rps * seconds)):
            tasks.append(batch.create_task(timed(router, n % 10, deadline_ms=DEADLINE_S * 1e3, **options)))
            await asyncio.sleep(1 / rate_rps)
    return [task.result() for task in tasks]


# This server answers at most 19.9/s at full width, 50 ms each, and 291/s at 25 %, both in groups of 32.
# With more groups in flight a few of them are bound to wider widths before the burst is seen for what it is.
@pytest.mark.parametrize(("batches", "narrow_ratio"), [(2, 1.0), (4, 0.98)])
async def test_a_burst_narrows_widths_before_anything_is_shed_and_nobody_waits_past_the_deadline_for_it(
    batches: int, narrow_ratio: float
) -> None:
    full_rps, narrow_rps = 20.0, 290.0
    server = FakeServer(per_item_s=0.05, fixed_s=0.01)
    async with routed({"a": server}, policy="lert:slack", in_flight_groups=batches) as router:
        calm = await burst(router, rate_rps=0.5 * full_rps, seconds=2)
        assert all(isinstance(outcome, Answer) and outcome.width == 100 for _, _, outcome in calm)
        # Five times what the full width answers: all is answered, in time, with less accuracy.
        busy = await burst(router, rate_rps=5 * full_rps, seconds=4)
        assert all(isinstance(outcome, Answer) for _, _, outcome in busy)
        assert sum(outcome.deadline_met for _, _, outcome in busy) > 0.99 * len(busy)
        assert np.mean([outcome.width for _, _, outcome in busy]) < 80
        # Five times what even the narrowest answers: the rest is shed, before its deadline.
        flood = await burst(router, rate_rps=5 * narrow_rps, seconds=4)
        backlog = router.inspect().backlog
    answers = [(began_s, outcome) for began_s, _, outcome in flood if isinstance(outcome, Answer)]
    refused = [(wait_s, outcome) for _, wait_s, outcome in flood if isinstance(outcome, CapacityError)]
    assert len(answers) + len(refused) == len(flood)
    assert all(wait_s < DEADLINE_S for wait_s, _ in refused)
    assert np.median([wait_s for wait_s, _ in refused]) < DEADLINE_S / 4, "and most have time to ask elsewhere"
    # No more than what comes within a deadline can wait: 725 items, some 2.5 s of work.
    assert all(error.retry_after_s is not None and 0 < error.retry_after_s < 3 for _, error in refused)
    assert sum(outcome.deadline_met for _, outcome in answers) > 0.95 * len(answers)
    assert len(answers) > 0.8 * narrow_rps * 4, "what is answered in time comes near to what can be"
    # While it lasts: what is left of it when nothing more comes may be answered by wider ones.
    first_s, last_s = flood[0][0], flood[-1][0]
    lasting = [outcome for began_s, outcome in answers if began_s > first_s + 1 and began_s + outcome.queue_s < last_s]
    widths = [outcome.width for outcome in lasting]
    assert widths.count(Width(25)) >= narrow_ratio * len(widths)
    assert (backlog.requests, backlog.items, backlog.size_bytes) == (0, 0, 0)


async def test_a_policy_of_one_width_gives_up_what_that_width_cannot_answer_though_a_narrower_one_could() -> None:
    async with routed({"a": FakeServer(per_item_s=0.05, fixed_s=0.01)}, policy="lert:100") as router:
        outcomes = [outcome for _, _, outcome in await burst(router, rate_rps=60, seconds=4)]
    in_time = [outcome for outcome in outcomes if isinstance(outcome, Answer) and outcome.deadline_met]
    refused = [outcome for outcome in outcomes if isinstance(outcome, CapacityError)]
    assert {outcome.width for outcome in in_time} == {Width(100)}
    assert len(in_time) > 0.8 * 20 * 4
    assert len(in_time) + len(refused) > 0.97 * len(outcomes), "next to nothing is sent and late"


@pytest.mark.parametrize("policy", ["lert:slack", "lert:narrowest"])
@pytest.mark.parametrize("items", [128, 192, 512])
async def test_of_a_burst_nobody_makes_room_for_those_who_have_no_more_time_than_they(policy: str, items: int) -> None:
    """Four batches of 32 at 25 % end before the deadline of those who came at once: as many are answered, no fewer."""
    async with routed({"a": FakeServer(per_item_s=0.05, fixed_s=0.01)}, policy=policy) as router:
        await burst(router, rate_rps=50, seconds=1)
        waiting = [timed(router, n % 10, deadline_ms=DEADLINE_S * 1e3) for n in range(items)]
        outcomes = [outcome for _, _, outcome in await asyncio.gather(*waiting)]
    answers = [outcome for outcome in outcomes if isinstance(outcome, Answer)]
    assert all(answer.deadline_met for answer in answers)
    assert len(answers) == 4 * 32


async def test_who_comes_too_late_is_judged_by_what_goes_before_and_what_can_be_answered_at_most() -> None:
    loop = asyncio.get_running_loop()
    queue = RequestQueue(BatchKey(Family("f"), ((10,),), (Width(25),), 0.0))

    def waiting(deadline_s: float, *, own: bool = True) -> PendingRequest:
        now_s = loop.time()
        request = PendingRequest((np.zeros((1, 10)),), False, now_s, now_s + deadline_s, loop.create_future())
        request.has_own_deadline, request.given_s = own, deadline_s
        queue.push(request)
        return request

    crowd = [waiting(1.0) for _ in range(100)]
    # What a server that hangs holds makes the queue look endless; the others' capacity does not.
    queue.estimate = QueueEstimate(item_drain_s=60.0, most_rps=200.0)
    assert not comes_too_late(queue, waiting(1.0))
    queue.estimate = QueueEstimate(item_drain_s=0.001, most_rps=50.0)
    last = waiting(1.0)
    assert comes_too_late(queue, last)
    assert describe_place(queue, last) == (
        "its deadline of 1000 ms can't be kept: 1000 ms are left, and with some 101 items that go before it an answer "
        "takes 2040 ms at least"
    )
    urgent = waiting(0.001)
    assert comes_too_late(queue, urgent)
    assert describe_place(queue, urgent) == (
        "its deadline of 1 ms can't be kept at any width it allows: 1 ms are left, and an answer may take 20 ms"
    ), "nothing goes before it"
    assert not comes_too_late(queue, waiting(0.5)), "it goes before the others"
    assert not comes_too_late(queue, waiting(1.0, own=False))
    last.attempts = 1
    assert not comes_too_late(queue, last), "it has been sent before and may be answered by that"
    queue.estimate = QueueEstimate(item_drain_s=0.001)
    assert not comes_too_late(queue, crowd[-1]), "nothing is known"


async def test_a_refusal_says_whether_a_request_could_not_be_answered_or_gives_way_to_those_behind_it() -> None:
    async with routed({"a": FakeServer(per_item_s=0.05, fixed_s=0.01)}, policy="lert:slack") as router:
        flood = await burst(router, rate_rps=1500, seconds=2)
    refused = [str(outcome) for _, _, outcome in flood if isinstance(outcome, CapacityError)]
    lacks = re.findall(
        r"can't be kept at any width it allows: ([\d.]+) ms are left, and an answer may take ([\d.]+) ms",
        "\n".join(refused),
    )
    crowds = re.findall(
        r"the most urgent ones give way: .* leaves (\d+) ms, and a batch .* may take (\d+) ms", "\n".join(refused)
    )
    assert crowds, refused[:3]
    for found in (lacks, crowds):
        assert all(float(left_ms) <= float(takes_ms) for left_ms, takes_ms in found)


async def test_a_refusal_tells_to_come_again_unless_an_idle_server_takes_as_long() -> None:
    async with routed({"a": FakeServer(per_item_s=0.05, fixed_s=0.01)}, policy="lert:slack") as router:
        await router.infer(item(0))
        before = asyncio.create_task(router.infer(item(0)))
        await asyncio.sleep(0.001)
        with pytest.raises(CapacityError, match=r"allow more time, an idle server takes as long$") as hopeless:
            await router.infer(item(0), deadline_ms=5)
        assert hopeless.value.retry_after_s is None
        await before
        calls = [router.infer(item(0), deadline_ms=900) for _ in range(300)]
        crowd = [
            error for error in await asyncio.gather(*calls, return_exceptions=True) if isinstance(error, CapacityError)
        ]
    assert crowd
    assert all(str(error).endswith("; retry later") and error.retry_after_s is not None for error in crowd), crowd


async def test_what_a_server_that_hangs_holds_up_is_no_reason_to_refuse_what_the_other_can_answer() -> None:
    servers = {"a": FakeServer(per_item_s=0.02), "b": FakeServer(per_item_s=0.02)}
    async with routed(servers, policy="lert:slack") as router:
        await burst(router, rate_rps=40, seconds=2)
        servers["b"].fixed_s = 60.0
        outcomes = await burst(router, rate_rps=100, seconds=4)
    refused = [outcome for _, _, outcome in outcomes if not isinstance(outcome, Answer)]
    assert refused == []


async def test_a_server_that_hangs_costs_no_accuracy_where_the_other_has_time() -> None:
    servers = {name: FakeServer(per_item_s=0.006) for name in "ab"}
    async with routed(servers, policy="lert:slack") as router:
        await burst(router, rate_rps=100, seconds=1)
        servers["b"].fixed_s = 60.0
        await burst(router, rate_rps=100, seconds=1)
        outcomes = await burst(router, rate_rps=100, seconds=4)
    assert {outcome.width for _, _, outcome in outcomes if isinstance(outcome, Answer)} == {100}
    assert all(isinstance(outcome, Answer) and outcome.deadline_met for _, _, outcome in outcomes)


async def test_a_server_that_stalls_while_another_is_slow_is_no_reason_to_refuse_what_comes() -> None:
    servers = {"quick": FakeServer(per_item_s=0.01), "slow": FakeServer(per_item_s=1.0)}
    patience = {"overdue_factor": 1, "overdue_floor_ms": 1}
    async with routed(servers, policy="lert:slack", retries=patience, ejection={"latency_floor_ms": 1e6}) as router:
        await asyncio.sleep(0.01)
        async with servers["quick"].busy():
            asked = [asyncio.create_task(timed(router, n % 10, deadline_ms=2000)) for n in range(100)]
            await asyncio.sleep(1)
            assert router.inspect().suspects == {"quick"}
            asked += [asyncio.create_task(timed(router, n % 10, deadline_ms=2000)) for n in range(50)]
            await asyncio.sleep(0.1)
        outcomes = await asyncio.gather(*asked)
    # Some are sent to the slow one in vain, whatever comes of it; nobody is turned away.
    assert [outcome for _, _, outcome in outcomes if isinstance(outcome, CapacityError)] == []


class Stalling(FakeServer):
    """Takes now as long as it should, then a third longer, and each tenth time a fifth of a second more."""

    def service_s(self, width: int, items: int) -> float:
        expected_s = super().service_s(width, items)
        return (expected_s, expected_s * 4 / 3)[len(self.batches) % 2] + (0.1 if len(self.batches) % 10 == 9 else 0.0)


@pytest.mark.parametrize("probes", [None, ProbeSettings()])
async def test_servers_that_stall_make_hardly_anybody_late_in_a_burst_and_none_is_refused_while_narrower_have_time(
    probes: ProbeSettings | None,
) -> None:
    servers = {name: Stalling(per_item_s=0.05, fixed_s=0.01) for name in "ab"}
    async with routed(servers, probes=probes) as router:
        pressed = await burst(router, rate_rps=350, seconds=4)
        flood = await burst(router, rate_rps=2500, seconds=3)
    assert all(isinstance(outcome, Answer) for _, _, outcome in pressed)
    late = Counter(type(outcome) for _, _, outcome in flood)[DeadlineError]
    assert late < 0.01 * len(flood)  # who was sent just before a server stalled
    answers = [outcome for _, _, outcome in flood if isinstance(outcome, Answer)]
    assert np.mean([answer.width == 25 for answer in answers]) > 0.95


async def test_a_pinned_width_and_an_accuracy_floor_are_shed_rather_than_narrowed() -> None:
    async with routed({"a": FakeServer()}, policy="lert:slack") as router:
        outcomes = await burst(router, rate_rps=500, seconds=1, min_accuracy=0.92)
    answered = [outcome for _, _, outcome in outcomes if isinstance(outcome, Answer)]
    assert {answer.width for answer in answered} <= {75, 100}
    assert 0 < len(answered) < len(outcomes)
    said = [re.search(r"(\d+) ms(?: are left)?, and .* may take (\d+) ms", str(outcome)) for *_, outcome in outcomes]
    times_ms = [(int(found[1]), int(found[2])) for found in said if found is not None]
    assert times_ms, "some are refused as heads of the queue"
    assert all(left_ms <= takes_ms for left_ms, takes_ms in times_ms)


async def test_an_idle_server_is_tried_whatever_is_expected_of_it() -> None:
    server = FakeServer(per_item_s=1.0)
    async with routed({"a": server}, policy="lert:slack") as router:
        _, wait_s, outcome = await timed(router, 0, deadline_ms=10)
        assert isinstance(outcome, DeadlineError), "it was sent"
        assert wait_s == pytest.approx(0.01), "and nobody waits longer than he asked to"
        await asyncio.sleep(1)
        assert server.batches[-1] == (25, 1), "what nobody waits for any more runs to its end"
        server.per_item_s = 0.001  # it is believed to be slow, and would never be seen to be quick again
        outcomes = [await timed(router, n, deadline_ms=10) for n in range(40)]
        assert all(isinstance(outcome, Answer) for _, _, outcome in outcomes)
        server.per_item_s = 1.0
        await timed(router, 0, deadline_ms=10)
        await asyncio.sleep(1)
        server.per_item_s = 0.001
        at_once = await asyncio.gather(*(timed(router, n, deadline_ms=10) for n in range(5)))
        assert all(isinstance(outcome, Answer) for _, _, outcome in at_once), "those behind the first are not given up"


async def test_only_deadlines_of_the_callers_own_are_a_reason_to_be_given_up() -> None:
    async with routed({"a": FakeServer(per_item_s=0.1)}, policy="lert", deadline_ms=20, probes=None) as router:
        answers = await asyncio.gather(*(router.infer(item(n)) for n in range(60)))
        assert not all(answer.deadline_met for answer in answers)
        outcomes = await asyncio.gather(*(timed(router, n, deadline_ms=20) for n in range(60)))
    assert all(outcome.deadline_met for _, _, outcome in outcomes if isinstance(outcome, Answer))
    failed = [(wait_s, type(outcome)) for _, wait_s, outcome in outcomes if not isinstance(outcome, Answer)]
    assert {kind for _, kind in failed} == {CapacityError, DeadlineError}
    assert all(wait_s <= 0.02 for wait_s, _ in failed)


async def test_without_shedding_late_answers_are_given() -> None:
    settings = {"shed_late": False}
    async with routed({"a": FakeServer(per_item_s=0.1)}, policy="lert", overload=settings) as router:
        answers = await asyncio.gather(*(router.infer(item(n), deadline_ms=20) for n in range(60)))
    assert all(right(answer, n) for n, answer in enumerate(answers))


async def test_what_was_refused_is_forgotten_at_once_with_its_tensor() -> None:
    server = FakeServer()
    tensors: list[weakref.ref[Any]] = []
    refusals: Counter[type] = Counter()

    async def ask(router: Router) -> None:
        array = item(1)
        tensors.append(weakref.ref(array))
        try:
            await router.infer(array, deadline_ms=100)
        except (CapacityError, DeadlineError) as exc:
            refusals[type(exc)] += 1

    async with routed({"a": server}, policy="lert", queue_limit=50) as router:
        gc.collect()
        gc.disable()
        try:
            async with server.busy():
                await asyncio.gather(*(ask(router) for _ in range(200)))
            held = sum(tensor() is not None for tensor in tensors)
        finally:
            gc.enable()
    assert set(refusals) == {CapacityError, DeadlineError}
    assert held <= refusals[DeadlineError], "those of the groups that are still with the server"


async def test_who_waits_for_a_server_that_hangs_is_refused_at_the_deadline() -> None:
    server = FakeServer()
    async with routed({"a": server}, policy="lert") as router:
        async with server.busy():
            asked = [asyncio.create_task(timed(router, n, deadline_ms=300)) for n in range(3)]
            patient = asyncio.create_task(router.infer(item(4)))
            await asyncio.sleep(1)
            assert all(task.done() for task in asked)
        assert right(await patient, 4), "who named no deadline is answered"
    for _, wait_s, outcome in await asyncio.gather(*asked):
        assert isinstance(outcome, DeadlineError)
        assert wait_s == pytest.approx(0.3)


async def test_who_waits_behind_a_server_that_hangs_is_refused_before_the_deadline() -> None:
    server = FakeServer()
    observer = Sheds()
    patience = {"overdue_floor_ms": 5000}
    settings = {"in_flight_groups": 2, "retries": patience}
    async with routed({"a": server}, policy="lert", observer=observer, **settings) as router:
        server.fixed_s = 2.0
        first = asyncio.create_task(router.infer(item(0)))
        await asyncio.sleep(0.001)
        second = asyncio.create_task(router.infer(item(0)))  # the server's budget is spent
        await asyncio.sleep(0.001)
        _, wait_s, outcome = await timed(router, 1, deadline_ms=200)
        assert isinstance(outcome, CapacityError)
        assert 0.1 < wait_s < 0.2
        assert observer.counts == {"expired": 1}
        await asyncio.gather(first, second)


async def test_a_deadline_that_a_hanging_server_can_not_keep_is_refused_at_once_though_it_has_room() -> None:
    server, observer = FakeServer(), Sheds()
    async with routed({"a": server}, policy="lert", observer=observer) as router:
        server.fixed_s = 2.0
        first = asyncio.create_task(router.infer(item(0)))
        await asyncio.sleep(0.3)  # the first is overdue by now
        began_s = asyncio.get_running_loop().time()
        with pytest.raises(ServerUnavailableError, match=r"a has answered nothing for 0\.3 s"):
            await router.infer(item(1), deadline_ms=200)
        assert asyncio.get_running_loop().time() - began_s < 0.01
        assert observer.counts == {"late": 1}
        await first


async def test_who_waits_for_a_fleet_that_is_gone_learns_so() -> None:
    server = FakeServer()
    async with routed({"a": server}, policy="lert") as router:
        server.is_up = False
        began_s = asyncio.get_running_loop().time()
        with pytest.raises(ServerUnavailableError, match="refused"):
            await router.infer(item(0), deadline_ms=300)
        assert asyncio.get_running_loop().time() - began_s < 0.3


async def test_higher_priorities_go_first_and_deadlines_decide_within_one() -> None:
    server = FakeServer(max_batch_size=1)
    order: list[str] = []

    async def call(router: Router, name: str, deadline_ms: float, priority: int, **options: Any) -> None:
        await router.infer(item(0), deadline_ms=deadline_ms, priority=priority, **options)
        order.append(name)

    async with routed({"a": server}, policy="lert", in_flight_groups=1) as router, asyncio.TaskGroup() as batch:
        for name, deadline_ms, priority in (
            ("low", 900, 3),
            ("default", 1000, 0),
            ("unknown level", 1100, 9),
            ("high, later", 2000, 1),
            ("high", 1500, 1),
        ):
            batch.create_task(call(router, name, deadline_ms, priority))
        batch.create_task(call(router, "high in another queue", 1700, 1, min_accuracy=0.92))
    assert order == ["high", "high in another queue", "high, later", "default", "unknown level", "low"]


async def test_a_full_queue_gives_up_the_least_important_for_something_more_important() -> None:
    observer = Sheds()
    async with routed(
        {"a": FakeServer(per_item_s=0.5)},
        queue_limit=4,
        in_flight_groups=1,
        policy="lert",
        warm_up=False,
        observer=observer,
    ) as router:
        first = asyncio.create_task(router.infer(item(0)))
        await asyncio.sleep(0.1)

        async def call(name: str, deadline_ms: float, priority: int) -> tuple[str, type]:
            outcome = (await timed(router, 0, deadline_ms=deadline_ms, priority=priority))[2]
            return name, type(outcome)

        calls = [
            asyncio.create_task(call(*asked))
            for asked in (
                ("low early", 9000, 3),
                ("low late", 9500, 3),
                ("default", 9000, 2),
                ("default late", 9900, 2),
                ("high", 9000, 1),  # takes the place of low late
                ("default early", 8000, 2),  # of low early
                ("default early too", 8000, 2),  # of default late
                ("low again", 1000, 3),  # nothing is less important
            )
        ]
        outcomes = dict(await asyncio.gather(*calls))
        await first
    refused = {name for name, kind in outcomes.items() if kind is CapacityError}
    assert refused == {"low early", "low late", "default late", "low again"}
    assert observer.counts == {"displaced": 3, "full": 1}


async def test_the_queue_is_bounded_in_bytes() -> None:
    kibibyte = FakeServer(per_item_s=0.5, shape=(1, 16, 16))
    array = np.zeros((1, 16, 16), np.float32)
    settings = {"queue_limit_mib": 4.5 / 1024}
    async with routed({"a": kibibyte}, in_flight_groups=1, policy="lert", warm_up=False, overload=settings) as router:
        first = asyncio.create_task(router.infer(array))
        await asyncio.sleep(0.1)
        outcomes = await asyncio.gather(*(router.infer(array) for _ in range(6)), return_exceptions=True)
        await first
        assert [type(o) for o in outcomes] == [Answer] * 4 + [CapacityError] * 2
        with pytest.raises(ConfigError, match="5120 bytes exceed overload"):
            await router.infer(np.zeros((5, 1, 16, 16), np.float32))


async def test_what_was_given_up_leaves_no_tensor_behind() -> None:
    async with routed(
        {"a": FakeServer(per_item_s=10.0)},
        policy="lert",
        warm_up=False,
        in_flight_groups=1,
        request_timeout_s=1000,
        group_timeout_s=999,
    ) as router:
        first = asyncio.create_task(router.infer(item(0)))
        await asyncio.sleep(0.1)
        waiting = asyncio.create_task(router.infer(item(0)))  # at the top of the heap, before all that follow
        for n in range(2000):
            call = asyncio.create_task(router.infer(item(n), deadline_ms=9e5))
            await asyncio.sleep(0)
            call.cancel()
            await asyncio.sleep(0)
        assert router._queues.entries < 200
        assert router._shedder.watched < 200
        assert router.inspect().backlog.items == 1
        await asyncio.gather(first, waiting)


async def test_a_second_copy_that_has_to_leave_the_queue_leaves_its_request_to_the_first() -> None:
    """And what is to be sent a third time still has its tensor."""
    observer, slow, busy = Sheds(), TroubledServer(per_item_s=0.001), FakeServer(per_item_s=0.001)
    retries = {"overdue_floor_ms": 50}
    async with routed(
        {"a": slow, "b": busy},
        queue_limit=1,
        in_flight_groups=1,
        policy="lert",
        retries=retries,
        probes=None,
        observer=observer,
    ) as router:
        slow.hangs_quietly, busy.per_item_s = True, 2.0
        first = asyncio.create_task(router.infer(item(3), priority=3))
        await asyncio.sleep(0.001)
        other = asyncio.create_task(router.infer(item(4)))
        await asyncio.sleep(0.2)
        (copy,) = router._queues.waiting()
        assert copy.under_way == 1
        urgent = asyncio.create_task(router.infer(item(5), priority=1))
        await asyncio.sleep(0.1)
        assert not first.done()
        assert not copy.is_queued
        assert not observer.counts
        slow.kill()  # so the first attempt fails, and the request is sent again
        answers = await asyncio.gather(first, other, urgent)
    assert all(right(answer, mark) for answer, mark in zip(answers, (3, 4, 5), strict=True))
