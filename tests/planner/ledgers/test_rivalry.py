"""Whether somebody else changes the same Triton: over random histories, and by hand where a number matters."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.config import ControllerSettings
from orchestrator.planner.actions import Action, ActionKind, ActionReason, NoticeKind, Outcome
from orchestrator.planner.host import HostSnapshot, Limits, LoadedModel, ModelSnapshot, ModelStatus, RepositoryModel
from orchestrator.planner.ledgers.rivalry import Rivalry, remembered_s
from orchestrator.planner.plan import plan
from orchestrator.planner.state import SchedulerState
from orchestrator.snapshot import Family, ModelName, Width

NAMES = tuple(ModelName(f"net_w{width:03d}") for width in (25, 50, 100))
W025, W050, _ = NAMES
SETTINGS = ControllerSettings(rival_quiet_s=60, quarantine_max_s=200, unload_after_s=300)
REMEMBERED_S = remembered_s(SETTINGS)


@dataclass
class World:
    """A Triton, and what a controller that looks at it once a second makes of it."""

    counts: dict[ModelName, int] = field(default_factory=lambda: dict.fromkeys(NAMES, 1))
    moving: set[ModelName] = field(default_factory=set)
    starts: int = 1
    is_visible: bool = True
    now_s: float = 0.0
    rivalry: Rivalry = field(default_factory=Rivalry)

    def look(self, after_s: float = 1.0) -> Rivalry:
        self.now_s += after_s
        self.rivalry = self.rivalry.follow(self.snapshot(), SETTINGS, now_s=self.now_s)
        return self.rivalry

    def snapshot(self) -> HostSnapshot:
        models = []
        for name, count in self.counts.items():
            status = ModelStatus.READY if count else ModelStatus.ABSENT
            status = ModelStatus.LOADING if name in self.moving else status
            model = RepositoryModel(name, Family("net"), Width(int(name[-3:])), 0.9, 8, 1000)
            loaded = LoadedModel(name, status, instances=count if status is ModelStatus.READY else 0)
            models.append(ModelSnapshot(model, loaded))
        return HostSnapshot(tuple(models), 0, 0.0, server_id=f"{self.starts}" if self.is_visible else None)

    def order(self, name: ModelName, count: int, *, fails: bool = False) -> None:
        """Let the controller change something; what a failed change leaves behind is as likely as what it was for."""
        self.counts[name] = count
        action = Action(ActionKind.LOAD if count else ActionKind.UNLOAD, name, ActionReason.WANTED, count)
        outcome = Outcome(action, self.now_s, self.now_s, "it failed" if fails else None)
        self.rivalry = self.rivalry.record(outcome)

    def undo(self, name: ModelName, after_s: float = 1.0) -> Rivalry:
        """Let the controller load a model and somebody else unload it."""
        self.order(name, 1)
        self.look(after_s / 2)
        self.counts[name] = 0
        return self.look(after_s / 2)


names, counts = st.sampled_from(NAMES), st.integers(0, 3)
orders = st.tuples(st.just("order"), names, counts, st.booleans())
events = st.one_of(
    orders,
    st.tuples(st.just("restart")),
    st.tuples(st.just("hide")),
    st.tuples(st.just("move"), names),
    st.tuples(st.just("wait"), st.floats(0.1, 100)),
)


def happen(world: World, event: tuple[object, ...]) -> None:
    match event:
        case ("order", str(name), int(count), bool(fails)):
            world.order(ModelName(name), count, fails=fails)
        case ("restart",):
            world.counts, world.starts = dict.fromkeys(NAMES, 0), world.starts + 1
        case ("hide",):
            world.is_visible = not world.is_visible
        case ("move", str(name)):
            world.moving ^= {ModelName(name)}
        case ("wait", float(wait_s)):
            world.look(wait_s)


@given(st.lists(events, max_size=60))
def test_its_own_changes_failures_and_restarts_are_nobody_elses(history: list[tuple[object, ...]]) -> None:
    world = World()
    world.look()
    for event in history:
        happen(world, event)
        assert not world.look().undone_s
    assert world.rivalry.rival_of is None


@given(st.lists(orders, max_size=40), st.dictionaries(st.integers(0, 40), st.tuples(names, counts), max_size=3))
def test_a_hand_that_changes_each_model_once_is_no_rival(
    history: list[tuple[object, ...]], hands: dict[int, tuple[ModelName, int]]
) -> None:
    world = World()
    touched: set[ModelName] = set()
    for step, event in enumerate(history):
        happen(world, event)
        world.look()
        name, count = hands.get(step, (W025, 0))
        if step in hands and name not in touched:
            touched.add(name)
            world.counts[name] = count
        assert world.look().rival_of is None


@given(st.lists(orders, max_size=20), names, st.floats(1, REMEMBERED_S / 2 - 10), st.lists(orders, max_size=20))
def test_the_same_model_undone_twice_is_a_rival_whatever_happens_between(
    before: list[tuple[object, ...]], name: ModelName, between_s: float, between: list[tuple[object, ...]]
) -> None:
    world = World()
    for event in before:
        happen(world, event)
        world.look()
    world.undo(name)
    for event in between:
        happen(world, event)
        world.look(0.1)
    assert world.rivalry.rival_of is None
    assert world.undo(name, between_s).rival_of == name


@given(st.lists(st.tuples(st.floats(0.5, 70), st.booleans()), max_size=30))
def test_nothing_is_changed_until_nobody_else_has_for_long_enough(looks: list[tuple[float, bool]]) -> None:
    world = World()
    world.undo(W050)
    world.undo(W050)
    moved_s = world.now_s
    for after_s, is_moved in looks:
        if is_moved:
            world.counts[W025] = world.counts[W025] % 3 + 1
            moved_s = world.now_s + after_s
        rivalry = world.look(after_s)
        limits = Limits(1 << 30, minimum=NAMES, settings=SETTINGS)
        made, state = plan(world.snapshot(), SchedulerState(rivalry=rivalry), limits, now_s=world.now_s)
        if world.now_s - moved_s >= 60:
            assert state.rivalry.rival_of is None and [action.model for action in made.actions] == [W050]
            return
        assert made.actions == ()
        (notice,) = made.notices
        assert (notice.kind, notice.model) == (NoticeKind.RIVAL, W050)
        assert dict(notice.numbers) == {"quiet_s": pytest.approx(world.now_s - moved_s), "needed_quiet_s": 60}
        assert "controller.rival_quiet_s = 60" in notice.detail and "one controller" in notice.detail


def test_who_goes_on_is_left_alone_for_longer_each_time_and_sooner() -> None:
    world = World()
    world.undo(W050)
    waits = []
    for _ in range(4):
        assert world.undo(W050).rival_of == W050, "one more is enough as long as the last ones are remembered"
        waits.append(world.rivalry.quiet_s(SETTINGS))
        assert world.look(waits[-1] - 0.1).rival_of == W050
        assert world.look(0.1).rival_of is None
    assert waits == [60, 120, 200, 200]
    assert world.look(REMEMBERED_S).rounds == 0
    assert world.undo(W050).rival_of is None, "all is forgotten"


def test_changes_that_lie_far_apart_are_an_operators() -> None:
    world = World()
    for _ in range(5):
        assert world.undo(W050).rival_of is None
        world.look(REMEMBERED_S)
