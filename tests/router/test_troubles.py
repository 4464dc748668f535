"""Whatever befalls the servers, every request ends once, rightly, and the router holds on to nothing."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.config import RetrySettings
from orchestrator.errors import SlimError
from orchestrator.router import Answer, Router
from tests.fakes.servers import item
from tests.fakes.troubled import TroubledServer
from tests.fakes.virtual_time import new_virtual_loop
from tests.router.dispatch.test_sender import RecordingObserver, router_over
from tests.router.test_router import right

TROUBLES = ("kill", "hangs", "hangs_quietly", "slow", "fails", "cancel")


@dataclass(frozen=True)
class Trouble:
    """What befalls a server, from when and for how long; ``cancel`` befalls a caller."""

    kind: str
    server: str
    at_s: float
    lasts_s: float


troubles = st.lists(
    st.builds(
        Trouble, st.sampled_from(TROUBLES), st.sampled_from("abc"), st.floats(0, 3), st.sampled_from([0.01, 0.1, 1, 4])
    ),
    max_size=6,
)


def begin(server: TroubledServer, kind: str) -> None:
    if kind == "kill":
        server.kill()
    elif kind == "slow":
        server.slowdown = 20
    else:
        setattr(server, kind, True)


def end(server: TroubledServer, kind: str) -> None:
    if kind == "kill":
        server.start()
    elif kind == "slow":
        server.slowdown = 1
    else:
        setattr(server, kind, False)


async def ask_all(
    router: Router, servers: dict[str, TroubledServer], planned: list[Trouble], deadline_ms: float | None
) -> list[Answer | BaseException]:
    loop = asyncio.get_running_loop()
    calls: list[asyncio.Task[Answer]] = []

    def cancel_last() -> None:
        if calls:
            calls[-1].cancel()

    for trouble in planned:
        if trouble.kind == "cancel":
            loop.call_later(trouble.at_s, cancel_last)
        else:
            loop.call_later(trouble.at_s, begin, servers[trouble.server], trouble.kind)
            loop.call_later(trouble.at_s + trouble.lasts_s, end, servers[trouble.server], trouble.kind)
    for n in range(100):
        calls.append(asyncio.create_task(router.infer(item(n % 10), deadline_ms=deadline_ms)))
        await asyncio.sleep(0.04)
    return await asyncio.gather(*calls, return_exceptions=True)


@settings(max_examples=25, deadline=None)
@given(
    planned=troubles,
    policy=st.sampled_from(["lert", "lert:slack", "round-robin", "p2c", "max-accuracy"]),
    hedges=st.booleans(),
    deadline_ms=st.sampled_from([None, 100.0, 1000.0]),
)
def test_every_request_ends_once_and_nothing_is_left_behind(
    planned: list[Trouble], policy: str, hedges: bool, deadline_ms: float | None
) -> None:
    async def run() -> None:
        observer, servers = RecordingObserver(), {name: TroubledServer(per_item_s=0.004) for name in "abc"}
        options = {"policy": policy, "group_timeout_s": 2, "request_timeout_s": 20}
        if hedges:
            options["hedge"] = {"quantile": 0.9}
        async with router_over(observer, dict(servers), probes={"period_s": 20}, **options) as router:
            outcomes = await ask_all(router, servers, planned, deadline_ms)
            for n, outcome in enumerate(outcomes):
                if isinstance(outcome, Answer):
                    assert right(outcome, n % 10)
                else:
                    assert isinstance(outcome, SlimError | asyncio.CancelledError)
            again = observer.count("retry") + observer.count("hedge")
            minimum = RetrySettings().minimum
            assert again <= minimum + 0.1 * len(outcomes) + minimum * 30 / 10, "the budget is kept"
            await asyncio.sleep(200)  # longer than any ejection
            assert all(len(widths) == 4 for widths in router.served_by().values())
            assert len(router.served_by()) == 3, "everybody is back"
            assert right(await router.infer(item(7)), 7)
            await asyncio.sleep(1)
            found = router.inspect()
            for server in found.servers.values():
                assert (server.awaited_batches, server.calls, server.is_suspect) == (0, 0, False)
            assert (found.backlog.items, found.batches_given_up) == (0, 0)
        assert router.inspect().batches_under_way == 0

    loop = new_virtual_loop()
    try:
        loop.run_until_complete(run())
    finally:
        loop.close()
