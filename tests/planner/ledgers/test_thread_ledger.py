from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from orchestrator.planner.actions import NoticeKind
from orchestrator.planner.host import HostSnapshot, Limits, LoadedModel, ModelSnapshot, ModelStatus, RepositoryModel
from orchestrator.planner.ledgers.thread_ledger import SETTLED_S, ThreadLedger
from orchestrator.planner.plan import plan
from orchestrator.planner.state import SchedulerState
from orchestrator.snapshot import Family, ModelName, Width
from tests.planner.settings import with_settings

W025, W050 = ModelName("net_w025"), ModelName("net_w050")
LIMITS = with_settings(Limits(1 << 30, minimum=(W025,)), leak_limit_threads=10)


def host(*counts: int, left: int = 0, **changes: object) -> HostSnapshot:
    """Return a host on which a model takes 2 threads and an instance 35, beside 25 and what was left behind."""
    models = []
    for width, count in zip((25, 50), counts, strict=False):
        name = ModelName(f"net_w{width:03d}")
        loaded = LoadedModel(name, ModelStatus.READY if count else ModelStatus.ABSENT, instances=count)
        models.append(ModelSnapshot(RepositoryModel(name, Family("net"), Width(width), 0.9, 8, 1000), loaded))
    threads = 25 + 2 * sum(count > 0 for count in counts) + 35 * sum(counts) + left
    values: dict[str, object] = {"server_id": "1", "server_threads": threads, **changes}
    return HostSnapshot(tuple(models), 0, 0.0, **values)  # type: ignore[arg-type]


def seen(ledger: ThreadLedger, snapshot: HostSnapshot, at_s: float) -> ThreadLedger:
    """Return the ledger after a host stood like that for long enough."""
    return ledger.observe(snapshot, now_s=at_s).observe(snapshot, now_s=at_s + SETTLED_S)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(0, 20)), min_size=1, max_size=20))
def test_instances_that_come_and_go_are_never_taken_for_what_was_left(history: list[tuple[int, int, int]]) -> None:
    ledger, left = ThreadLedger(), 0
    first = history[0][2]
    for step, (narrow, wide, more) in enumerate(history):
        left += more
        ledger = seen(ledger, host(narrow, wide, left=left), step * 100.0)
        assert 0 <= ledger.left_behind <= left - first


@given(st.lists(st.integers(0, 20), min_size=1, max_size=20), st.lists(st.integers(0, 3), max_size=19))
def test_what_repairs_leave_adds_up(repairs: list[int], loads: list[int]) -> None:
    ledger, left = seen(ThreadLedger(), host(1, 1), 0.0), 0
    for step, more in enumerate(repairs, 1):
        left += more
        ledger = seen(ledger, host(1, 1, left=left), step * 100.0)
        assert ledger.left_behind == left
    for step, count in enumerate(loads):
        ledger = seen(ledger, host(1, count, left=left), 10_000 + step * 100.0)
        assert ledger.left_behind == left, "another load has nothing to do with it"


def test_nothing_is_believed_of_a_host_that_moves_is_short_or_cannot_be_seen() -> None:
    ledger = seen(ThreadLedger(), host(1, 1), 0.0)
    moving = replace(host(1, 1, left=50), busy_models=frozenset({W025}))
    dead = host(1, 1, left=50)
    dead = replace(dead, models=(replace(dead.models[0], live_instances=0), dead.models[1]))
    for snapshot in (moving, dead, host(1, 1, server_threads=None)):
        after = seen(ledger, snapshot, 100.0)
        assert after.left_behind == 0
        assert after.observe(host(1, 1, left=50), now_s=130.0).left_behind == 0, "not at once either"
        assert seen(after, host(1, 1, left=50), 130.0).left_behind == 50


def test_a_new_process_has_left_nothing_behind() -> None:
    ledger = seen(seen(ThreadLedger(), host(1), 0.0), host(1, left=30), 100.0)
    assert ledger.left_behind == 30
    assert seen(ledger, host(1, left=30, server_id="2"), 200.0) == replace(
        seen(ThreadLedger(), host(1, left=30, server_id="2"), 200.0), server_id="2"
    )


def test_a_restart_is_advised_beyond_the_limit_and_it_is_told_how_long_all_has_been_idle() -> None:
    state = SchedulerState()
    for at_s, left in ((0.0, 0), (SETTLED_S, 0), (100.0, 11)):
        made, state = plan(host(1, left=left), state, LIMITS, now_s=at_s)
    (notice,) = made.notices
    assert (notice.kind, notice.model) == (NoticeKind.RESTART_ADVISED, None)
    assert dict(notice.numbers) == {"left_threads": 11, "limit_threads": 10, "idle_s": 0}
    made, _ = plan(host(1, left=10), state, LIMITS, now_s=200.0)
    assert made.notices == ()
