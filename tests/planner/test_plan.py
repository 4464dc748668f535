"""What the plan does in single situations, shown by snapshots written down by hand."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import pytest

from orchestrator.config import ControllerSettings
from orchestrator.planner.actions import Action, ActionKind, ActionReason, NoticeKind, Outcome, Plan, RefusalReason
from orchestrator.planner.host import (
    Batching,
    HostSnapshot,
    Limits,
    LoadedModel,
    ModelSnapshot,
    ModelStatus,
    RepositoryModel,
)
from orchestrator.planner.ledgers.memory_ledger import MemoryLedger
from orchestrator.planner.plan import plan
from orchestrator.planner.rates import Rates
from orchestrator.planner.state import SchedulerState
from orchestrator.snapshot import Family, ModelName, Width
from tests.planner.fluid_host import MIB, name_of
from tests.planner.settings import with_settings

W25, W50, W75, W100 = (name_of(width) for width in (25, 50, 75, 100))
LIMITS = Limits(
    memory_budget_bytes=1000 * MIB,
    minimum=(W25,),
    wanted=(W25, W50, W75, W100),
    unmeasured_instance_bytes=100 * MIB,
    settings=ControllerSettings(memory_margin=0.0),
)
BUSY = Rates(
    window_s=1.0,
    requests_per_s=100,
    items_per_s=100,
    executions_per_s=100,
    waiting_requests=6.0,
    items_per_execution=1.0,
    service_s=0.0098,
)
QUIET = Rates(window_s=1.0)


def model(
    width: int,
    instances: int = 1,
    rates: Rates = QUIET,
    *,
    status: ModelStatus = ModelStatus.READY,
    demanded_until_s: float | None = None,
    live: int | None = None,
    **loaded: Any,
) -> ModelSnapshot:
    name = name_of(width)
    files = RepositoryModel(name, Family("net"), Width(width), width / 100, 64, 1 * MIB)
    state = LoadedModel(
        name,
        status,
        instances=instances if status is ModelStatus.READY else 0,
        is_python_based=live is not None,
        **loaded,
    )
    return ModelSnapshot(files, state, rates, live, demanded_until_s=demanded_until_s)


def absent(width: int, **changes: Any) -> ModelSnapshot:
    return model(width, status=ModelStatus.ABSENT, **changes)


def host(
    *models: ModelSnapshot, used_mib: int | None = 200, utilisation: float | None = 0.5, **more: Any
) -> HostSnapshot:
    used = None if used_mib is None else used_mib * MIB
    return HostSnapshot(models, used, utilisation, server_id="1", **more)


def learned(**sizes_mib: int) -> SchedulerState:
    """A state in which a load of w<nnn> was measured to take so much."""
    sizes = {ModelName(f"net_{name}"): (mib * MIB,) for name, mib in sizes_mib.items()}
    return SchedulerState(memory=MemoryLedger(loads_bytes=sizes, server_id="1"))


def run(
    snapshot: HostSnapshot, limits: Limits = LIMITS, *, seconds: int = 0, state: SchedulerState | None = None
) -> Plan:
    """Return the last plan after the host has looked the same for so many seconds."""
    state = state or SchedulerState()
    made = Plan()
    for now_s in range(seconds + 1):
        made, state = plan(snapshot, state, limits, now_s=float(now_s))
    return made


def brief(made: Plan) -> list[tuple[str, str, str, int]]:
    return [(a.kind.value, a.model, a.reason.value, a.instances) for a in made.actions]


# --- loading ---


def test_an_empty_server_gets_the_minimum_set_first_and_then_what_is_wanted() -> None:
    made = run(host(absent(100), absent(50), absent(25), absent(75)))
    assert brief(made) == [
        ("load", W25, "minimum-set", 1),
        ("load", W50, "wanted", 1),
        ("load", W75, "wanted", 1),
        ("load", W100, "wanted", 1),
    ]
    assert all(a.needed_bytes == 100 * MIB for a in made.actions)
    assert made.desired_instances == ((W25, 1), (W50, 1), (W75, 1), (W100, 1))


def test_what_does_not_fit_is_refused_with_the_numbers_and_ends_the_wanted_list() -> None:
    made = run(host(model(25), absent(50), absent(75), absent(100), used_mib=850))
    assert brief(made) == [("load", W50, "wanted", 1)]
    (refusal,) = made.refusals
    assert (refusal.kind, refusal.model, refusal.reason) == (ActionKind.LOAD, W75, RefusalReason.MEMORY_BUDGET)
    assert dict(refusal.numbers) == {
        "budget_bytes": 1000 * MIB,
        "used_bytes": 850 * MIB,
        "reserved_bytes": 100 * MIB,
        "needed_bytes": 100 * MIB,
    }
    assert dict(made.desired_instances) == {W25: 1, W50: 1, W75: 1, W100: 1}


def test_learned_sizes_replace_the_assumed_one() -> None:
    state = learned(w050=30, w075=40, w100=150)
    made = run(host(model(25), absent(50), absent(75), absent(100), used_mib=900), state=state)
    assert brief(made) == [("load", W50, "wanted", 1), ("load", W75, "wanted", 1)]
    assert [a.needed_bytes for a in made.actions] == [30 * MIB, 40 * MIB]


def test_a_demand_loads_a_width_that_is_not_wanted_until_it_ends() -> None:
    limits = dataclasses.replace(LIMITS, wanted=())
    seen = absent(75, demanded_until_s=5.0)
    assert brief(run(host(model(25), seen), limits)) == [("load", W75, "demanded", 1)]
    assert run(host(model(25), seen), limits, seconds=5).actions == ()


def test_the_minimum_set_is_loaded_even_when_memory_is_unknown_and_nothing_else_is() -> None:
    made = run(host(absent(25), absent(50), used_mib=None))
    assert brief(made) == [("load", W25, "minimum-set", 1)]
    assert [(r.model, r.reason) for r in made.refusals] == [(W50, RefusalReason.MEMORY_UNKNOWN)]


def test_a_failed_load_is_left_alone_with_its_reason_and_tried_again_later() -> None:
    snapshot = host(absent(25), used_mib=100)
    made, state = plan(snapshot, SchedulerState(), LIMITS, now_s=0.0)
    outcome = Outcome(made.actions[0], 0.0, 1.0, error="no such file")
    state = state.record(outcome, LIMITS)
    made, state = plan(snapshot, state, LIMITS, now_s=2.0)
    (refusal,) = made.refusals
    assert made.actions == ()
    assert (refusal.reason, refusal.detail) == (RefusalReason.QUARANTINED, "no such file")
    assert dict(refusal.numbers) == {"failures": 1, "retry_in_s": 4.0}
    made, state = plan(snapshot, state, LIMITS, now_s=6.0)
    assert brief(made) == [("load", W25, "minimum-set", 1)]


def test_what_is_loading_is_left_alone_its_memory_reserved_and_reported_when_it_takes_too_long() -> None:
    loading = model(50, status=ModelStatus.LOADING)
    made = run(host(model(25), loading, absent(75), used_mib=850))
    assert made.actions == ()
    assert dict(made.refusals[0].numbers)["reserved_bytes"] == 100 * MIB
    assert made.notices == ()
    made = run(host(model(25), loading, used_mib=850), seconds=60)
    assert [(n.kind, n.model) for n in made.notices] == [(NoticeKind.STUCK, W50)]


# --- instances ---


def test_a_queue_gets_an_instance_after_it_has_lasted() -> None:
    snapshot = host(model(25, 1, BUSY))
    assert run(snapshot, seconds=1).actions == ()
    made = run(snapshot, seconds=5)
    assert brief(made) == [("scale-up", W25, "queueing", 2)]
    numbers = dict(made.actions[0].numbers)
    assert numbers["relieved_requests"] == pytest.approx(numbers["waiting_requests"] / 2)
    assert numbers["busy_ratio"] == pytest.approx(0.98, abs=0.05)


def test_of_two_queues_the_one_relieved_most_per_byte_comes_first_and_alone() -> None:
    long = dataclasses.replace(BUSY, waiting_requests=10.0)
    small = learned(w025=50, w050=50)
    assert brief(run(host(model(25, 1, BUSY), model(50, 1, long)), seconds=5, state=small)) == [
        ("scale-up", W50, "queueing", 2)
    ]
    large = learned(w025=50, w050=150)
    assert brief(run(host(model(25, 1, BUSY), model(50, 1, long)), seconds=5, state=large)) == [
        ("scale-up", W25, "queueing", 2)
    ]


@pytest.mark.parametrize(
    ("items", "waiting", "used_mib", "kind"),
    [
        (64.0, 6.0, 200, "reload"),  # full batches wait one behind the other: in place it would not come through
        (64.0, 0.8, 200, "scale-up"),  # less than a batch waits for the instance
        (16.0, 6.0, 200, "scale-up"),  # batches with room to spare leave gaps
        (64.0, 6.0, 850, "scale-up"),  # no room to hold old and new at once
    ],
)
def test_growth_behind_full_batches_is_a_reload_where_memory_allows(
    items: float, waiting: float, used_mib: int, kind: str
) -> None:
    rates = dataclasses.replace(BUSY, items_per_s=100 * items, items_per_execution=items, waiting_requests=waiting)
    made = run(host(model(25, 1, rates), used_mib=used_mib), seconds=5)
    assert brief(made) == [(kind, W25, "queueing", 2)]
    assert made.actions[0].is_forced == (kind == "reload")


def test_equal_relief_goes_to_the_narrower_width() -> None:
    made = run(host(model(100, 1, BUSY), model(25, 1, BUSY), model(50, 1, BUSY)), seconds=5)
    assert brief(made) == [("scale-up", W25, "queueing", 2)]


@pytest.mark.parametrize(
    ("instances", "utilisation", "used_mib", "reason"),
    [
        (4, 0.5, 200, RefusalReason.MAX_INSTANCES),
        (1, 0.95, 200, RefusalReason.UTILISATION),
        (1, 0.5, 950, RefusalReason.MEMORY_BUDGET),
        (1, 0.5, None, RefusalReason.MEMORY_UNKNOWN),
    ],
)
def test_growth_is_refused_beyond_each_limit(
    instances: int, utilisation: float, used_mib: int | None, reason: RefusalReason
) -> None:
    rates = dataclasses.replace(BUSY, executions_per_s=100.0 * instances)
    made = run(host(model(25, instances, rates), used_mib=used_mib, utilisation=utilisation), seconds=5)
    assert made.actions == ()
    assert [(r.kind, r.model, r.reason) for r in made.refusals] == [(ActionKind.SCALE_UP, W25, reason)]
    assert made.refusals[0].numbers


def test_growth_without_a_utilisation_reading_is_bounded_by_instances_alone() -> None:
    assert brief(run(host(model(25, 1, BUSY), utilisation=None), seconds=5)) == [("scale-up", W25, "queueing", 2)]


def test_there_is_no_growth_beside_a_dead_instance() -> None:
    full = dataclasses.replace(BUSY, executions_per_s=200.0)
    snapshot = host(model(25, 2, full, live=1))
    limits = with_settings(LIMITS, repair_after_s=1e9)
    assert run(snapshot, limits, seconds=20).actions == ()


def test_the_dearer_way_to_grow_is_not_taken() -> None:
    slow = SchedulerState()
    up = Action(ActionKind.SCALE_UP, W50, ActionReason.QUEUEING, 2)
    again = Action(ActionKind.RELOAD, W50, ActionReason.DRIFTED, 1)
    for action, took_s in ((up, 3.0), (again, 0.4)):
        slow = slow.record(Outcome(action, 0.0, took_s, instances_before=1), LIMITS)
    assert brief(run(host(model(25, 1, BUSY)), seconds=5, state=slow)) == [("reload", W25, "queueing", 2)]


def test_the_minimum_set_takes_the_room_of_busy_widths_and_of_demanded_ones() -> None:
    state = learned(w025=50, w050=60, w075=70)
    some = dataclasses.replace(QUIET, requests_per_s=1.0, items_per_s=1.0)
    snapshot = host(absent(25), model(50, 1, BUSY), model(75, 1, some, demanded_until_s=1e9), used_mib=960)
    made = run(snapshot, seconds=3, state=state)
    assert brief(made) == [("unload", W75, "make-room", 0), ("load", W25, "minimum-set", 1)]


WORKING = dataclasses.replace(BUSY, requests_per_s=400, items_per_s=400, executions_per_s=400)
"""What keeps four instances busy."""


def grown(**sizes_mib: int) -> SchedulerState:
    """A state in which loads and further instances were measured to take so much."""
    state = learned(**sizes_mib)
    memory = dataclasses.replace(state.memory, instances_bytes=state.memory.loads_bytes)
    return dataclasses.replace(state, memory=memory)


def test_the_minimum_set_takes_instances_of_what_has_grown_where_no_width_can_go() -> None:
    both = dataclasses.replace(LIMITS, minimum=(W25, W50), wanted=())
    made = run(host(model(25, 4, WORKING), absent(50), used_mib=900), both, seconds=9, state=grown(w025=150, w050=300))
    assert brief(made) == [("scale-down", W25, "make-room", 2), ("load", W50, "minimum-set", 1)]
    assert dict(made.actions[0].numbers) == {"lacking_bytes": 200 * MIB, "instance_bytes": 150 * MIB}


def test_the_minimum_set_takes_instances_besides_all_widths_that_can_go() -> None:
    both = dataclasses.replace(LIMITS, minimum=(W25, W50), wanted=())
    snapshot = host(model(25, 4, WORKING), absent(50), model(75, 1, BUSY), used_mib=900)
    made = run(snapshot, both, state=grown(w025=100, w050=300, w075=150))
    assert brief(made) == [
        ("unload", W75, "make-room", 0),
        ("scale-down", W25, "make-room", 3),
        ("load", W50, "minimum-set", 1),
    ]


@pytest.mark.parametrize("state", [SchedulerState(), grown(w025=30, w050=300)], ids=["unknown", "too-little"])
def test_nobody_gives_instances_that_are_of_unknown_size_or_would_not_be_enough(state: SchedulerState) -> None:
    both = dataclasses.replace(LIMITS, minimum=(W25, W50), wanted=())
    made = run(host(model(25, 4, WORKING), absent(50), used_mib=950), both, seconds=9, state=state)
    assert made.actions == ()
    assert RefusalReason.MEMORY_BUDGET in {refusal.reason for refusal in made.refusals}


def test_a_dead_minimum_is_seen_to_even_beyond_the_budget() -> None:
    over = dataclasses.replace(LIMITS, memory_budget_bytes=199 * MIB)
    made = run(host(model(25, 1, live=0), used_mib=200), over, seconds=3)
    assert brief(made) == [("unload", W25, "dead-instance", 0)]
    assert [n.kind for n in made.notices] == [NoticeKind.OVER_BUDGET]


def test_idle_widths_make_room_for_a_queue_but_never_kept_ones() -> None:
    state = learned(w025=50, w050=60, w075=70, w100=80)
    snapshot = host(model(25), model(50), model(75, 1, BUSY), model(100), used_mib=990)
    made = run(snapshot, seconds=40, state=state)
    assert brief(made) == [("unload", W100, "make-room", 0), ("scale-up", W75, "queueing", 2)]
    kept = host(model(25), model(75, 1, BUSY), model(100, demanded_until_s=1e9), used_mib=990)
    made = run(kept, seconds=40, state=state)
    assert made.actions == ()
    assert [(r.model, r.reason) for r in made.refusals] == [(W75, RefusalReason.MEMORY_BUDGET)]


def test_room_that_costs_more_than_the_queue_is_made_later() -> None:
    slow = learned(w025=50, w050=60, w075=70, w100=80)
    for kind, took_s in ((ActionKind.UNLOAD, 20.0), (ActionKind.LOAD, 70.0)):
        slow = slow.record(
            Outcome(Action(kind, W50, ActionReason.DEMANDED, 1), 0.0, took_s, instances_before=1), LIMITS
        )
    some = dataclasses.replace(BUSY, waiting_requests=4.0)  # of which another instance relieves two
    snapshot = host(model(25), model(75, 1, some), model(100), used_mib=990)
    made = run(snapshot, seconds=40, state=slow)
    assert made.actions == ()
    (refused,) = (r for r in made.refusals if r.model == W75)
    assert refused.reason is RefusalReason.PRICE
    numbers = dict(refused.numbers)
    assert (numbers["price_s"], round(numbers["saved_wait_s"])) == (90.0, 82)
    assert run(snapshot, seconds=43, state=slow).actions == ()
    made = run(snapshot, seconds=45, state=slow)
    assert brief(made) == [("unload", W100, "make-room", 0), ("scale-up", W75, "queueing", 2)]
    # Where nobody must go for it the same growth has no such price.
    free = dataclasses.replace(snapshot, memory_used_bytes=200 * MIB)
    assert brief(run(free, seconds=5, state=slow)) == [("scale-up", W75, "queueing", 2)]


def test_nobody_makes_room_when_all_together_would_not_be_enough() -> None:
    state = learned(w025=50, w050=10, w075=300)
    made = run(host(model(25), model(50), model(75, 1, BUSY), used_mib=990), seconds=40, state=state)
    assert made.actions == ()


def test_what_made_room_is_not_loaded_again_while_growth_lacks_memory() -> None:
    state = learned(w025=50, w050=60, w075=200)
    made = run(host(model(25), absent(50), model(75, 1, BUSY), used_mib=930), seconds=40, state=state)
    assert made.actions == ()
    assert [(r.kind, r.model) for r in made.refusals] == [(ActionKind.SCALE_UP, W75)]


def test_idle_instances_are_taken_away_at_once_after_the_idle_time() -> None:
    snapshot = host(model(25, 4))
    assert run(snapshot, seconds=28).actions == ()
    assert brief(run(snapshot, seconds=29)) == [("scale-down", W25, "idle", 1)]  # the first window began at -1


def test_nothing_is_taken_away_from_a_width_that_fails() -> None:
    failing = dataclasses.replace(QUIET, requests_per_s=90.0, failures_per_s=9.0)  # too few for a broken instance of 4
    assert run(host(model(25, 4, failing)), seconds=60).actions == ()


def test_more_instances_than_allowed_are_taken_away_however_busy() -> None:
    limits = dataclasses.replace(LIMITS, max_instances=2)
    full = dataclasses.replace(BUSY, executions_per_s=500.0)
    assert brief(run(host(model(25, 5, full)), limits)) == [("scale-down", W25, "max-instances", 2)]


def test_only_as_many_are_taken_away_as_would_not_be_missed() -> None:
    rates = dataclasses.replace(BUSY, waiting_requests=0.0)  # one instance's worth of work
    assert brief(run(host(model(25, 4, rates)), seconds=40)) == [("scale-down", W25, "idle", 3)]
    assert run(host(model(25, 3, rates)), seconds=40).actions == ()


def test_an_unwanted_idle_width_is_unloaded_a_wanted_or_minimum_one_never() -> None:
    limits = dataclasses.replace(LIMITS, wanted=(W50,))
    snapshot = host(model(25), model(50), model(75))
    assert run(snapshot, limits, seconds=298).actions == ()
    assert brief(run(snapshot, limits, seconds=299)) == [("unload", W75, "idle", 0)]


def test_a_width_in_use_that_is_not_wanted_gives_way_to_one_that_is() -> None:
    """As after ``wanted_widths`` were changed, or a demand ended: as long as requests come it would never be idle."""
    used = dataclasses.replace(BUSY, executions_per_s=50, waiting_requests=0.0)
    some = dataclasses.replace(LIMITS, wanted=(W25, W100))
    full = host(model(25), model(75, 1, used), absent(100), used_mib=950)
    made = run(full, some, seconds=9, state=learned(w025=50, w075=100, w100=120))
    assert brief(made) == [("unload", W75, "make-room", 0), ("load", W100, "wanted", 1)]
    demanded = host(model(25), model(75, 1, used, demanded_until_s=1e9), absent(100), used_mib=950)
    made = run(demanded, some, seconds=9, state=learned(w025=50, w075=100, w100=120))
    assert made.actions == ()


def test_missing_rates_are_neither_load_nor_calm() -> None:
    unknown = Rates()
    made = run(host(model(25, 4, unknown), model(50, 1, unknown)), dataclasses.replace(LIMITS, wanted=()), seconds=400)
    assert made.actions == ()


@pytest.mark.parametrize("instances", [1, 3])
def test_conditions_do_not_go_on_holding_through_an_outage_of_the_counters(instances: int) -> None:
    limits = dataclasses.replace(LIMITS, wanted=())
    calm, blind = host(model(25), model(50, instances)), host(model(25), model(50, instances, Rates()))
    state = SchedulerState()
    for now_s in range(300):
        made, state = plan(calm if now_s < 29 else blind, state, limits, now_s=float(now_s))
        assert made.actions == ()
    made, _ = plan(calm, state, limits, now_s=300.0)
    assert made.actions == ()


# --- over the budget ---


def test_over_budget_the_idle_go_first_then_instances_then_the_rest_one_at_a_time() -> None:
    over = dataclasses.replace(LIMITS, memory_budget_bytes=100 * MIB)
    full = dataclasses.replace(BUSY, executions_per_s=300.0)
    first = run(host(model(25, 3, full), model(50, 1, BUSY), model(75), used_mib=200), over)
    assert brief(first) == [("unload", W75, "over-budget", 0)]
    spare = run(host(model(25, 3), model(50, 1, BUSY), model(75), used_mib=200), over)
    assert brief(spare) == [("scale-down", W25, "over-budget", 2)]
    second = run(host(model(25, 3, full), model(50, 1, BUSY), used_mib=200), over)
    assert brief(second) == [("scale-down", W25, "over-budget", 2)]
    third = run(host(model(25, 1, BUSY), model(50, 1, BUSY), used_mib=200), over)
    assert brief(third) == [("unload", W50, "over-budget", 0)]
    last = run(host(model(25, 1, BUSY), used_mib=200), over, seconds=9)
    assert last.actions == ()
    assert [(n.kind, dict(n.numbers)["used_bytes"]) for n in last.notices] == [(NoticeKind.OVER_BUDGET, 200 * MIB)]


def test_over_budget_what_is_wanted_goes_after_what_is_not() -> None:
    over = dataclasses.replace(LIMITS, memory_budget_bytes=100 * MIB, wanted=(W100,))
    made = run(host(model(25, 1, BUSY), model(50), model(75), model(100), used_mib=200), over)
    assert brief(made) == [("unload", W75, "over-budget", 0)]
    made = run(host(model(25, 1, BUSY), model(100), used_mib=200), over)
    assert brief(made) == [("unload", W100, "over-budget", 0)]


# --- repair ---


def test_a_dead_instance_is_repaired_by_a_forced_reload_after_a_moment() -> None:
    snapshot = host(model(25, 2, live=1))
    assert run(snapshot, seconds=1).actions == ()
    made = run(snapshot, seconds=2)
    assert brief(made) == [("reload", W25, "dead-instance", 2)]
    assert made.actions[0].is_forced
    assert dict(made.actions[0].numbers)["alive"] == 1


def test_a_wholly_dead_width_without_room_for_a_reload_is_unloaded_first() -> None:
    assert brief(run(host(model(25, 1, live=0), used_mib=950), seconds=2)) == [("unload", W25, "dead-instance", 0)]
    assert run(host(model(25, 2, live=1), used_mib=950), seconds=2).actions == ()


def test_nothing_is_done_that_may_load_weights_which_differ_from_their_digest_and_that_is_told() -> None:
    def damaged(seen: ModelSnapshot) -> ModelSnapshot:
        return dataclasses.replace(seen, model=dataclasses.replace(seen.model, damage="other weights"))

    cases = {
        "reload": host(damaged(model(25, 1, live=0))),
        "load": host(damaged(absent(25)), model(50, rates=QUIET), used_mib=990),
        "scale-up": host(damaged(model(25, 1, BUSY))),
        "scale-down": host(damaged(model(25, 2))),
    }
    for kind, snapshot in cases.items():
        made = run(snapshot, seconds=40)
        assert made.actions == (), "and nobody is unloaded for it"
        assert [(r.kind, r.reason, r.detail) for r in made.refusals] == [
            (kind, RefusalReason.WEIGHTS_DIFFER, "other weights")
        ]
        assert [(n.kind, n.model, n.detail) for n in made.notices] == [
            (NoticeKind.WEIGHTS_DIFFER, W25, "other weights")
        ]
    assert run(host(damaged(model(25, 1, live=0)), used_mib=950), seconds=40).actions == ()
    drifted = damaged(model(75, is_canonical=False))
    assert run(host(model(25), drifted, used_mib=990), seconds=40).actions == (), "what it has goes on"
    over = run(host(model(25), damaged(model(50)), used_mib=1010), LIMITS, seconds=0)
    assert brief(over) == [("unload", W50, "over-budget", 0)]
    grown = run(host(model(25, 1, BUSY), damaged(model(50, 1, BUSY))), seconds=10)
    assert ("scale-up", W25, "queueing", 2) in brief(grown), "the others go on"


def test_a_width_that_only_fails_is_reloaded_and_each_repair_in_vain_waits_longer() -> None:
    failing = Rates(window_s=1.0, failures_per_s=5.0)
    snapshot = host(model(25, 1, failing))
    state = SchedulerState()
    repaired_s = []
    for second in range(100):
        made, state = plan(snapshot, state, LIMITS, now_s=float(second))
        for action in made.actions:
            assert action.reason is ActionReason.FAILING
            repaired_s.append(second)
            state = state.record(Outcome(action, second, second + 0.5, instances_before=1), LIMITS)
    pauses = [later - earlier for earlier, later in itertools.pairwise(repaired_s)]
    assert repaired_s[0] == 2
    assert pauses == [6, 11, 21, 41]


@pytest.mark.parametrize(
    ("instances", "failures_per_s", "is_repaired"), [(1, 4.0, False), (1, 12.0, True), (2, 3.0, False), (2, 4.0, True)]
)
def test_a_share_of_failures_that_a_broken_instance_would_give_calls_for_a_repair(
    instances: int, failures_per_s: float, is_repaired: bool
) -> None:
    mixed = dataclasses.replace(QUIET, requests_per_s=10.0, failures_per_s=failures_per_s)
    made = run(host(model(25, instances, mixed)), seconds=30)
    assert brief(made) == ([("reload", W25, "failing", instances)] if is_repaired else [])


def test_a_repair_makes_room_and_what_only_fails_is_unloaded_when_there_is_none() -> None:
    failing = Rates(window_s=1.0, failures_per_s=5.0)
    state = learned(w025=50, w050=60)
    made = run(host(model(25, 1, failing), model(50), used_mib=990), seconds=40, state=state)
    assert brief(made) == [("unload", W50, "make-room", 0), ("reload", W25, "failing", 1)]
    assert brief(run(host(model(25, 1, failing), used_mib=990), seconds=40, state=state)) == [
        ("unload", W25, "failing", 0)
    ]


# --- files and batching ---


def test_a_width_that_runs_with_something_else_than_its_files_is_reloaded_once_in_a_while() -> None:
    snapshot = host(model(25, 3, is_canonical=False))
    made = run(snapshot)
    assert brief(made) == [("reload", W25, "drifted", 3)]
    assert not made.actions[0].is_forced
    _, state = plan(snapshot, SchedulerState(), LIMITS, now_s=0.0)
    state = state.record(Outcome(made.actions[0], 0.0, 1.0, instances_before=3), LIMITS)
    assert plan(snapshot, state, LIMITS, now_s=30.0)[0].actions == ()
    assert brief(plan(snapshot, state, LIMITS, now_s=61.0)[0]) == [("reload", W25, "drifted", 3)]
    seen = snapshot.models[0]
    exported = host(dataclasses.replace(seen, model=dataclasses.replace(seen.model, files_stamp="another")))
    assert brief(plan(exported, state, LIMITS, now_s=30.0)[0]) == [("reload", W25, "drifted", 3)]


def test_new_files_are_followed_on_a_full_host_too() -> None:
    state = learned(w025=50, w050=60, w075=70)
    drifted = model(75, is_canonical=False)
    made = run(host(model(25), model(50), drifted, used_mib=990), seconds=40, state=state)
    assert brief(made) == [("unload", W50, "make-room", 0), ("reload", W75, "drifted", 1)]
    alone = run(host(model(25), drifted, used_mib=990), seconds=40, state=state)
    assert brief(alone) == [("unload", W75, "drifted", 0)]


def test_files_that_do_not_load_are_left_alone_until_they_change() -> None:
    def seen(stamp: str) -> HostSnapshot:
        drifted = model(25, is_canonical=False)
        return host(dataclasses.replace(drifted, model=dataclasses.replace(drifted.model, files_stamp=stamp)))

    state, tries = SchedulerState(), 0
    for now_s in range(3000):
        made, state = plan(seen("old"), state, LIMITS, now_s=float(now_s))
        for action in made.actions:
            tries += 1
            failed = Outcome(action, now_s, now_s + 0.5, "bad graph", instances_before=1)
            state = state.record(failed, LIMITS)
    assert tries == 3
    assert [(r.reason, r.detail) for r in made.refusals] == [
        (RefusalReason.QUARANTINED, "its files have failed to load; export them again")
    ]
    made, _ = plan(seen("new"), state, LIMITS, now_s=3000.0)
    assert brief(made) == [("reload", W25, "drifted", 1)]


def test_a_batching_that_nobody_sized_is_brought_back_when_it_can_not_be_judged() -> None:
    foreign = model(25, batching=Batching((), 50_000))
    assert run(host(foreign), seconds=59).actions == ()
    made = run(host(foreign), seconds=60)
    assert brief(made) == [("reload", W25, "drifted", 1)]
    assert made.actions[0].batching == Batching()
    off = dataclasses.replace(LIMITS, batching_horizon_s=0.0)
    assert brief(run(host(foreign), off)) == [("reload", W25, "drifted", 1)]


def test_what_made_room_rests_before_it_is_wanted_again() -> None:
    unload = Action(ActionKind.UNLOAD, W50, ActionReason.MAKE_ROOM, 0)
    state = SchedulerState().record(Outcome(unload, 0.0, 1.0, instances_before=1), LIMITS)
    snapshot = host(model(25), absent(50))
    made, state = plan(snapshot, state, LIMITS, now_s=30.0)
    assert made.actions == ()
    assert brief(plan(snapshot, state, LIMITS, now_s=31.0)[0]) == [("load", W50, "wanted", 1)]


def test_a_width_never_measured_is_guessed_from_its_siblings_and_the_refusal_says_so() -> None:
    state = learned(w025=40, w050=40)
    made = run(host(model(25), model(50), absent(100), used_mib=960), state=state)
    (refusal,) = made.refusals
    assert dict(refusal.numbers)["needed_bytes"] == 80 * MIB  # twice as wide as the nearest one
    assert "assumed" in refusal.detail


def observe_sizes(state: SchedulerState, rates: Rates, sizes: tuple[float, ...]) -> tuple[SchedulerState, float]:
    """Show the plan windows with batches of these sizes on a curve of 1 ms an item and 4 ms a batch."""
    now_s = 0.0
    for size in sizes * 4:
        window = dataclasses.replace(rates, items_per_execution=size, service_s=0.001 * size + 0.004)
        _, state = plan(host(model(25, 1, window)), state, LIMITS, now_s=now_s)
        now_s += 1.0
    return state, now_s


def test_batching_is_sized_where_it_saves_more_than_its_reload_costs() -> None:
    rates = dataclasses.replace(BUSY, executions_per_s=60.0, waiting_requests=0.2)
    state, now_s = observe_sizes(SchedulerState(), rates, (1.0, 2.0, 4.0))
    window = dataclasses.replace(rates, service_s=0.005)
    made, _ = plan(host(model(25, 1, window)), state, LIMITS, now_s=now_s)
    assert brief(made) == [("reload", W25, "batching-gain", 1)]
    batching = made.actions[0].batching
    assert batching == Batching((4,), 30_000)
    numbers = dict(made.actions[0].numbers)
    assert numbers["saved_instance_s"] > numbers["price_instance_s"] > 0
    assert numbers["latency_s"] <= LIMITS.deadline_budget_s


def test_batching_is_left_alone_when_switched_off_or_when_the_curve_is_unknown() -> None:
    rates = dataclasses.replace(BUSY, waiting_requests=0.2)
    off = dataclasses.replace(LIMITS, batching_horizon_s=0.0)
    state, now_s = observe_sizes(SchedulerState(), rates, (1.0, 2.0, 4.0))
    assert plan(host(model(25, 1, rates)), state, off, now_s=now_s)[0].actions == ()
    state, now_s = observe_sizes(SchedulerState(), rates, (1.0,))
    assert plan(host(model(25, 1, rates)), state, LIMITS, now_s=now_s)[0].actions == ()


# --- the whole ---


def test_one_action_a_model_and_none_for_what_is_busy() -> None:
    snapshot = host(model(25, 1, BUSY), model(50, 3), busy_models=frozenset({W25, W50}))
    assert run(snapshot, seconds=100).actions == ()


def test_a_leak_beyond_the_limit_advises_a_restart() -> None:
    state = SchedulerState(memory=MemoryLedger(balance_bytes=600 * MIB, server_id="1"))
    made = run(host(model(25)), state=state)
    assert [(n.kind, n.model, dict(n.numbers)["residue_bytes"]) for n in made.notices] == [
        (NoticeKind.RESTART_ADVISED, None, 600 * MIB)
    ]


def test_learning_goes_by_what_was_read_around_an_action() -> None:
    action = Action(ActionKind.LOAD, W25, ActionReason.MINIMUM_SET, instances=1)
    outcome = Outcome(action, 0.0, 2.0, memory_before_bytes=100, memory_after_bytes=142)
    state = SchedulerState().record(outcome, LIMITS)
    assert state.memory.load_bytes(W25, 1, unmeasured_bytes=7) == 42
    assert state.prices.price_s(ActionKind.LOAD) == 2.0
