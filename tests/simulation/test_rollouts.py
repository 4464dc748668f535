"""Rollouts by the compiled kernel are what one step after another makes of the same network and draws."""

from __future__ import annotations

import math
import threading

import numpy as np
import pytest

from orchestrator.policies.learned import features as feat
from orchestrator.policies.learned.actions import HOLD_ACTION, action_count
from orchestrator.policies.learned.network import pack
from orchestrator.simulation.rollouts import Rollout, RolloutBatch, draw_action, new_rollout
from orchestrator.simulation.world_batch import Step
from tests.policies.learned.test_policy import trained
from tests.policies.learned.views import numpy_scores
from tests.simulation.test_world_batch import of_two_families, on_a_host, task, with_a_controller, with_callers

WORLDS, ROOM, LINES, STRENGTH = 5, 600, 9, 2.0
PARAMS = pack(trained())


def loaded(seed: int = 0, base: str = "lert:slack") -> RolloutBatch:
    batch = RolloutBatch(WORLDS, base=base, holds_on=True, lines=LINES)
    busy, hosted = task(3, load=0.9), on_a_host(task(3, load=0.7))
    small = with_callers(task(1, requests=40, joules=False, load=2.0))
    controlled = with_a_controller(task(3, requests=500, load=1.2))
    for world, made in enumerate((busy, hosted, small, controlled, of_two_families())):
        batch.load(world, made, seed + world)
    return batch


def draws(seed: int = 1) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    return np.random.default_rng(seed).random((WORLDS, ROOM), np.float32)


def collected(batch: RolloutBatch, until: float, uniforms: np.ndarray | None = None) -> Rollout:  # type: ignore[type-arg]
    rollout = new_rollout(WORLDS, ROOM, lines=LINES)
    batch.collect(PARAMS, STRENGTH, np.full(WORLDS, until), draws() if uniforms is None else uniforms, rollout)
    return rollout


def drawn(step: Step, world: int, uniform: float) -> tuple[int, float]:
    """The action of a plain reading: softmax of the allowed scores, and the first at which its sum exceeds the draw."""
    lines = step.observations[world, : -feat.CONTEXT].reshape(LINES, feat.FEATURES)
    scores = numpy_scores(
        trained(), lines[lines[:, feat.PRESENT] > 0], step.observations[world, -feat.CONTEXT :].astype(float), STRENGTH
    )[: action_count(LINES)]
    scores = np.where(step.masks[world], scores, -np.inf)
    odds = np.exp(scores - scores.max())
    sums = np.cumsum(odds / odds.sum())
    action = int(np.argmax(sums > uniform))
    return action, math.log(odds[action] / odds.sum())


@pytest.mark.parametrize("base", ["lert:slack", "lert:brownout", "thrift"])
def test_a_compiled_rollout_is_the_reference_choice_by_choice(base: str) -> None:
    batch, uniforms = loaded(base=base), draws()
    found = collected(batch, math.inf)
    assert found.ended.all()
    reference = loaded(base=base)
    step = reference.settle()
    for number in range(int(found.counts.max())):
        orders = np.full(WORLDS, HOLD_ACTION)
        for world in np.flatnonzero(number < found.counts):
            action, log_prob = drawn(step, int(world), float(uniforms[world, number]))
            assert found.actions[world, number] == action
            assert found.log_probs[world, number] == pytest.approx(log_prob, abs=1e-4)
            np.testing.assert_array_equal(found.observations[world, number], step.observations[world])
            np.testing.assert_array_equal(found.masks[world, number], step.masks[world])
            orders[world] = action
        step = reference.step(orders)
        for world in np.flatnonzero(number < found.counts):
            np.testing.assert_allclose(found.rewards[world, number], step.rewards[world], rtol=1e-5, atol=1e-6)
            passed = found.times[world, number + 1] - found.times[world, number]
            assert passed == pytest.approx(step.elapsed[world], abs=1e-9)
    assert step.ended.all()
    for world in range(WORLDS):
        assert reference.totals(world) == pytest.approx(batch.totals(world), nan_ok=True)


def test_a_rollout_in_parts_is_the_whole() -> None:
    whole, uniforms = collected(loaded(), math.inf), draws()
    batch, at = loaded(), np.zeros(WORLDS, int)
    for until in (2.0, 5.0, math.inf):
        own = np.stack([np.roll(uniforms[world], -at[world]) for world in range(WORLDS)])
        part = collected(batch, until, own)
        for world in range(WORLDS):
            count = int(part.counts[world])
            span = slice(at[world], at[world] + count)
            np.testing.assert_array_equal(part.actions[world, :count], whole.actions[world, span])
            np.testing.assert_array_equal(part.observations[world, :count], whole.observations[world, span])
            np.testing.assert_array_equal(part.rewards[world, :count], whole.rewards[world, span])
            if not part.ended[world]:
                assert part.times[world, count] >= until
                assert (part.times[world, :count] < until).all()
        at += part.counts
    assert (at == whole.counts).all()


def test_what_is_made_to_resemble_goes_on_as_its_source() -> None:
    batch = RolloutBatch(WORLDS, holds_on=True, lines=LINES)
    made = with_a_controller(task(3, load=0.9))
    for world in range(WORLDS):
        batch.load(world, made, 7)
    collected(batch, 3.0)
    batch.resemble(1, 0, WORLDS)
    found = collected(batch, math.inf, np.tile(draws()[:1], (WORLDS, 1)))
    assert found.counts[0] > 10
    for array in (found.actions, found.log_probs, found.rewards, found.times, found.observations):
        np.testing.assert_array_equal(array[0], array[1])
        np.testing.assert_array_equal(array[0], array[2])


def test_threads_beside_each_other_change_nothing() -> None:
    alone, batches, rollouts = collected(loaded(), math.inf), [loaded(), loaded()], []

    def run(batch: RolloutBatch) -> None:
        rollouts.append(collected(batch, math.inf))

    threads = [threading.Thread(target=run, args=(batch,)) for batch in batches]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for rollout in rollouts:
        for one, other in zip(alone, rollout, strict=True):
            np.testing.assert_array_equal(one, other)


def test_actions_are_drawn_as_often_as_the_softmax_says() -> None:
    scores, mask = np.zeros(10), np.zeros(10, np.bool_)
    mask[[0, 5, 9]] = True
    scores[[0, 5, 9, 7]] = math.log(1), math.log(2), math.log(5), 100.0  # the last is not allowed
    found = [draw_action(scores, mask, draw) for draw in np.linspace(0, 1, 8000, endpoint=False)]
    actions = [action for action, _ in found]
    assert [actions.count(action) for action in (0, 5, 9)] == [1000, 2000, 5000]
    assert dict(found)[5] == pytest.approx(math.log(2 / 8))
    assert draw_action(scores, mask, 1.0)[0] == 9
