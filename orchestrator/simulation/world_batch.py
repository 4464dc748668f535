"""Many worlds that are stepped from choice to choice in one compiled call: what learning is fed with.

The tables of all worlds lie in arrays with the world as their first axis (orchestrator.simulation.world.layout), so a
step costs no more Python for a hundred worlds than for one, and each world in it is the very World that a Simulation
runs, by the same functions. Worlds may differ in everything (fleet, workload, objectives).

A world stops only where there is a choice: decisions with one allowed action are made on the way. ppo-paper has one
wherever a candidate has room. An episode ends when every request of its trace is answered or given up.

What a step earned comes as four numbers, see orchestrator.simulation.rewards.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from copy import copy
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from orchestrator.errors import ConfigError
from orchestrator.policies.learned import features as feat
from orchestrator.policies.learned.actions import ACTIONS, HOLD_ACTION, action_count, do_action
from orchestrator.policies.learned.decide import choose_base, first_allowed, look, parse_base
from orchestrator.policies.learned.encoding import EXTREMES, View
from orchestrator.policies.learned.memory import end_hold_at, note_decision, standing_hold
from orchestrator.policies.learned.paper import allowed_choices, choices_of, do_choices, place_lines
from orchestrator.policies.tables import columns as col
from orchestrator.policies.tables.compiled import compiled, compiled_apart
from orchestrator.policies.tables.layout import HOLD
from orchestrator.policies.tables.memory import MEMORY_FIELDS
from orchestrator.simulation import rewards
from orchestrator.simulation.controllers import SimulatedController, control
from orchestrator.simulation.rewards import OBJECTIVES, Task
from orchestrator.simulation.scenario.trace import Trace, draw_trace
from orchestrator.simulation.simulation import Simulation
from orchestrator.simulation.world import columns as sim
from orchestrator.simulation.world.families import memory_place
from orchestrator.simulation.world.layout import StackedWorlds, World, stack, world_at, world_of
from orchestrator.simulation.world.loop import advance, advance_at, apply

Floats = NDArray[np.float64]
_MOST_WIDTHS: Final = 32

RUNS: Final = 0
"""A world has not stopped for its controllers."""
BEFORE_CHOICE: Final = 1
"""It has, on the way to its first choice."""
AFTER_ACTION: Final = 2
"""It has, after an action."""


class Step(NamedTuple):
    """What the worlds look like where the next choice is.

    Attributes:
        observations: float32 [worlds, lines · FEATURES + CONTEXT].
        masks: bool [worlds, actions of so many lines], of what is allowed; all of a world that has ended are.
        rewards: float64 [worlds, 4], what the action before earned, by OBJECTIVES.
        ended: bool [worlds].
        elapsed: float64 [worlds], time since the choice before, in deadlines.
    """

    observations: NDArray[np.float32]
    masks: NDArray[np.bool_]
    rewards: Floats
    ended: NDArray[np.bool_]
    elapsed: Floats


class Learners(NamedTuple):
    """What is kept for each world beside it, with the world as first axis.

    Attributes:
        preference: [worlds, 3], weights of accuracy, latency and energy.
        widths: [worlds, _MOST_WIDTHS], of its fleet, ascending, in percent.
        scales: [worlds, SCALES], what rewards are relative to.
        sums: [worlds, SUMS], what had come of it at the step before.
        views: what is decided about; its ``picked`` and ``extremes`` have no axis more, all share that room.
        considered: [worlds], how many candidates are.
        holds_on: whether a hold stands.
        is_apart: whether choices are those of ppo-paper.
    """

    preference: Floats
    widths: Floats
    scales: Floats
    sums: Floats
    views: View
    considered: NDArray[np.int64]
    holds_on: bool
    is_apart: bool


class WorldBatch:
    """Worlds of one batch; each is loaded with a task, then all are stepped together.

    The base policy says what is masked, and a learned one rests on it. Where ``holds_on``, a hold stands as it does
    where a learned policy serves (orchestrator.policies.learned.memory); else every decision is asked about. What is
    seen has ``lines`` candidates, as many as the largest fleet has or ROWS. Where choices are those of ppo-paper,
    ``is_apart``, each candidate has a place of its own (``observations_apart``).

    Raises:
        ConfigError: when the base can't be one.
    """

    def __init__(
        self,
        worlds: int,
        *,
        base: str = "lert:slack",
        holds_on: bool = False,
        is_apart: bool = False,
        lines: int = feat.ROWS,
    ) -> None:
        self.worlds, self.lines = worlds, lines
        self._base = parse_base(base)
        self._worlds: StackedWorlds | None = None
        self._learners = _new_learners(worlds, holds_on=holds_on, is_apart=is_apart)
        self._is_running = np.zeros(worlds, np.bool_)
        self._controllers: list[list[SimulatedController]] = [[] for _ in range(worlds)]
        self._stopped = np.zeros(worlds, np.int8)
        self._step = Step(
            np.zeros((worlds, feat.observation_size(lines)), np.float32),
            np.ones((worlds, action_count(lines)), np.bool_),
            np.zeros((worlds, len(OBJECTIVES))),
            np.ones(worlds, np.bool_),
            np.zeros(worlds),
        )
        self._orders = np.zeros((worlds, 3), np.int64)

    def load(self, world: int, task: Task, seed: int | Trace) -> None:
        """Begin an episode in a world, by index; ``settle`` then runs it to its first choice.

        The trace is that of a seed, or one that was drawn before. Equal tasks and traces give equal worlds.

        Raises:
            ConfigError: The task has more widths than can be learned.
        """
        servers = sorted(task.servers, key=lambda s: s.name)
        trace = draw_trace(task.settings, servers, seed) if isinstance(seed, int) else seed
        # The world's own rule is the base, so that it observes what becomes of batches.
        simulation = Simulation(task.settings, task.servers, self._base, trace=trace)
        simulation.decide_outside()
        simulation.prefer(task.preference)
        self._worlds = stack(self._worlds, world, simulation.world, self.worlds)
        self._controllers[world], self._stopped[world] = simulation.controllers, RUNS
        self._learners = learner = _with_room(self._learners, self._worlds.tables)
        learner.preference[world] = task.preference
        learner.sums[world] = 0
        learner.scales[world] = rewards.reward_scales(task)
        widths = sorted({m.width for s in task.servers for m in s.models})
        if len(widths) > _MOST_WIDTHS:
            raise ConfigError(f"{task.settings.name} has {len(widths)} widths; at most {_MOST_WIDTHS} can be learned")
        learner.widths[world] = 0
        learner.widths[world, : len(widths)] = widths
        self._is_running[world] = True
        self._orders[world] = -1

    def settle(self) -> Step:
        """Run worlds that were loaded to their first choice; nothing else changes."""
        self._run()
        return self._step

    def step(self, actions: NDArray[np.int64]) -> Step:
        """Take an action in every world that has not ended and run to the next choice; arrays are reused.

        Actions are int64 [worlds], see orchestrator.policies.learned.actions; or int64 [worlds, 3], servers, widths and
        powers of 2 of ppo-paper.
        """
        if actions.ndim == 1:
            self._orders[:, 0] = actions
            self._orders[:, 1:] = -1
        else:
            self._orders[:] = actions
        self._orders[~self._is_running] = -1
        self._run()
        return self._step

    def _run(self) -> None:
        assert self._worlds is not None, "load the worlds first"
        run = self._worlds, self._learners, self._orders, self._is_running, self._stopped, self._step
        _step_worlds(*run, False, self._advancing)
        while self._control():
            _step_worlds(*run, True, self._advancing)
        self._orders[:] = -1

    @property
    def _advancing(self) -> int:
        """The address of what runs worlds on."""
        assert self._worlds is not None, "load the worlds first"
        return advance.address or advance.compile_for(world_at(self._worlds, 0), math.inf)

    def _control(self) -> bool:
        """Let controllers act for which worlds have stopped; return whether any had."""
        assert self._worlds is not None, "load the worlds first"
        stopped = np.flatnonzero(self._stopped)
        for world in stopped:
            control(world_at(self._worlds, world), self._controllers[world])
        return len(stopped) > 0

    def resemble(self, source: int, first: int, count: int) -> None:
        """Make ``count`` worlds from one on the same as another is now, its choice included."""
        assert self._worlds is not None, "load the worlds first"
        for array in _arrays((self._worlds, self._learners._replace(views=_own(self._learners.views)))):
            array[first : first + count] = array[source].copy()
        self._is_running[first : first + count] = self._is_running[source]
        for world in range(first, first + count):
            self._controllers[world] = [copy(each) for each in self._controllers[source]]

    def allowed_choices(self, fleet: tuple[int, int, int]) -> NDArray[np.bool_]:
        """Return which of ppo-paper's choices can be sent in each world, bool [worlds, servers + widths + batches]."""
        return allowed_choices(*self._shown(), fleet, self._learners.widths)

    def observations_apart(self, fleet: tuple[int, int, int]) -> NDArray[np.float32]:
        """Return what ppo-paper sees in each world, float32 [worlds, servers · widths · FEATURES + CONTEXT]."""
        views = self._learners.views
        lines = place_lines(views.lines, *self._shown(), fleet, self._learners.widths)
        return np.concatenate([lines, views.context], axis=1, dtype=np.float32)

    def base_choices(self, fleet: tuple[int, int, int]) -> NDArray[np.int64]:
        """Return what the base does in each world as ppo-paper's choices, see ``choices_of``."""
        assert self._worlds is not None, "load the worlds first"
        base = self._learners.views.base[:, col.DECIDED_ROW].astype(np.int64)
        return choices_of(self._worlds.tables.rows, base, fleet, self._learners.widths)

    def _shown(self) -> tuple[Floats, NDArray[np.int64]]:
        """Return the candidates of each world, and how many there are."""
        assert self._worlds is not None, "load the worlds first"
        tables = self._worlds.tables
        return tables.rows, tables.state[:, sim.ROW_COUNT].astype(np.int64)

    def totals(self, world: int) -> dict[str, float]:
        """Return what has come of an episode so far: requests by outcome, mean accuracy and latency, joules."""
        assert self._worlds is not None, "load the worlds first"
        state, servers = self._worlds.tables.state[world], int(self._worlds.counts[world, 0])
        busy_j = self._worlds.tables.truth[world, sim.BUSY_J, :servers]
        return totals_of(state, busy_j=float(busy_j.sum()))


def totals_of(state: NDArray[np.float64], *, busy_j: float) -> dict[str, float]:
    """Return what has come of a world: requests by outcome, mean accuracy and latency, and the joules given."""
    answered = float(state[sim.ANSWERED_COUNT])
    return {
        "requests": float(state[sim.ARRIVALS]),
        "answered": answered,
        "in_time": float(state[sim.ON_TIME_COUNT]),
        "lost": float(state[sim.LOST_COUNT]),
        "accuracy": float(state[sim.ACCURACY_SUM]) / max(1.0, answered),
        "latency_s": float(state[sim.LATENCY_SUM_S]) / max(1.0, answered),
        "busy_j": busy_j,
    }


def _new_learners(worlds: int, *, holds_on: bool, is_apart: bool) -> Learners:
    return Learners(
        preference=np.zeros((worlds, 3)),
        widths=np.zeros((worlds, _MOST_WIDTHS)),
        scales=np.zeros((worlds, rewards.SCALES)),
        sums=np.zeros((worlds, rewards.SUMS)),
        views=View(
            base=np.zeros((worlds, 3)),
            picked=np.zeros(1),
            chosen=np.zeros((worlds, feat.ROWS)),
            extremes=np.zeros(EXTREMES),
            lines=np.zeros((worlds, feat.ROWS, feat.FEATURES)),
            context=np.zeros((worlds, feat.CONTEXT)),
            mask=np.zeros((worlds, ACTIONS)),
        ),
        considered=np.zeros(worlds, np.int64),
        holds_on=holds_on,
        is_apart=is_apart,
    )


def _own(views: View) -> Any:
    """Return the arrays of views that have an axis for the world."""
    return views.base, views.chosen, views.lines, views.context, views.mask


def _arrays(part: Any) -> Iterator[NDArray[Any]]:
    if isinstance(part, tuple):
        for inner in part:
            yield from _arrays(inner)
    elif isinstance(part, np.ndarray):
        yield part


def _with_room(learners: Learners, tables: World) -> Learners:
    """Return learners with room for the candidates and memories of worlds."""
    candidates = tables.rows.shape[2]
    if len(learners.views.picked) < candidates:
        learners = learners._replace(views=learners.views._replace(picked=np.zeros(candidates)))
    return learners


@compiled
def view_of(learners: Learners, at: int) -> View:
    """Return what is decided about in one of the worlds, by index."""
    views = learners.views
    return View(
        views.base[at],
        views.picked,
        views.chosen[at],
        views.extremes,
        views.lines[at],
        views.context[at],
        views.mask[at],
    )


@compiled
def _step_worlds(
    worlds: StackedWorlds,
    learner: Learners,
    orders: NDArray[np.int64],
    is_running: NDArray[np.bool_],
    stopped: NDArray[np.int8],
    step: Step,
    goes_on: bool,
    advancing: int,
) -> None:
    """Take the actions and run to the next choices; where it ``goes_on``, only run those on that had stopped."""
    for i in range(orders.shape[0]):
        if goes_on and stopped[i] == RUNS:
            continue
        world, view = world_of(worlds, i), view_of(learner, i)
        if not goes_on:
            for objective in range(4):
                step.rewards[i, objective] = 0.0
            step.ended[i] = not is_running[i]
            step.elapsed[i] = 0.0
            if not is_running[i]:
                continue
            if world.state[sim.IS_PENDING] != 0:
                if orders[i, 0] < 0:
                    continue  # it waits for its action
                _take_apart(world, view, learner, orders[i], i)
        is_choice = run_to_choice(world, view, learner, i, advancing)
        stopped[i] = AFTER_ACTION if world.state[sim.IS_CONTROL_DUE] != 0 else RUNS
        if stopped[i] != RUNS:
            continue
        passed_s = world.state[sim.NOW_S] - learner.sums[i, rewards.TIME_SUM]
        step.elapsed[i] = passed_s / learner.scales[i, rewards.DEADLINE_SCALE]
        learner.sums[i, rewards.TIME_SUM] = world.state[sim.NOW_S]
        rewards.write_rewards(world, learner.scales[i], learner.sums[i], step.rewards[i])
        if is_choice:
            write_observation(view, int(learner.considered[i]), step.observations[i], step.masks[i])
        else:
            step.ended[i] = True
            is_running[i] = False
            step.masks[i, :] = True


@compiled
def _take_apart(world: World, view: View, learner: Learners, order: NDArray[np.int64], i: int) -> None:
    """Take an action, or the three choices of ppo-paper."""
    if order[1] < 0:
        take(world, view, learner, int(order[0]), i)
        return
    count, considered = int(world.state[sim.ROW_COUNT]), int(learner.considered[i])
    row, items, until_s, ends_at = do_choices(
        order, learner.widths[i], world.rows, count, view.chosen, considered, world.head.query, view.base
    )
    _do(world, view, learner, row, items, until_s, ends_at)


@compiled_apart
def take(world: World, view: View, learner: Learners, action: int, i: int) -> None:
    """Take an action; one that is not allowed holds."""
    if action >= ACTIONS or view.mask[action] == 0:
        action = HOLD_ACTION
    query, considered = world.head.query, int(learner.considered[i])
    row, items, until_s = do_action(action, world.rows, view.chosen, considered, query, view.base)
    _do(world, view, learner, row, items, until_s, 0.0)


@compiled
def _do(world: World, view: View, learner: Learners, row: int, items: float, until_s: float, ends_at: float) -> None:
    """Apply a decision; a hold stands, and ends when so many items wait, if that is above 0."""
    if learner.holds_on:
        count, first = int(world.state[sim.ROW_COUNT]), memory_place(world)
        memory = world.memory[first : first + MEMORY_FIELDS]
        note_decision(row, until_s, memory, world.rows, count, world.head.query, view.base)
        if ends_at > 0:
            end_hold_at(ends_at, memory)
    apply(world, row, items, until_s)


@compiled_apart
def run_to_choice(world: World, view: View, learner: Learners, i: int, advancing: int) -> bool:
    """Run to the next decision with a choice; return whether there is one: else all is over, or controllers are due."""
    while advance_at(advancing, world, math.inf):
        count = int(world.state[sim.ROW_COUNT])
        rows, query, first = world.rows, world.head.query, memory_place(world)
        memory = world.memory[first : first + MEMORY_FIELDS]
        choose_base(world.rule, memory, rows, count, query, learner.preference[i], view)
        if learner.holds_on:
            row, items, until_s = standing_hold(memory, rows, count, query, view.base)
            if row == HOLD:
                apply(world, row, items, until_s)
                continue
        number, allowed = look(memory, rows, count, query, learner.preference[i], view)
        learner.considered[i] = number
        if rows[col.ROW_HAS_ROOM][:count].any() if learner.is_apart else allowed > 1:
            return True
        row, items, until_s = do_action(first_allowed(view.mask), rows, view.chosen, number, query, view.base)
        _do(world, view, learner, row, items, until_s, 0.0)
    return False


@compiled
def write_observation(view: View, considered: int, observation: Any, mask: Any) -> None:
    """Write a view as numbers: as many lines of candidates as there is room for, then the context."""
    lines = (observation.shape[0] - feat.CONTEXT) // feat.FEATURES
    for line in range(lines):
        for feature in range(feat.FEATURES):
            value = view.lines[line][feature] if line < considered else 0.0
            observation[line * feat.FEATURES + feature] = value
    for at in range(feat.CONTEXT):
        observation[lines * feat.FEATURES + at] = view.context[at]
    for action in range(mask.shape[0]):
        mask[action] = view.mask[action] != 0


def lines_of(task: Task) -> int:
    """Return how many candidates of a task's fleet are considered at the most."""
    return min(feat.ROWS, len(task.servers) * len({m.width for s in task.servers for m in s.models}))
