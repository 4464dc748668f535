"""What torch trains is what is served."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest
import torch

from orchestrator.learning.ppo.networks import CandidatePolicy, ScoringNet
from orchestrator.policies.learned import features as feat
from orchestrator.policies.learned.actions import ACTIONS, BATCHES, FIRST_SEND, HOLD_ACTION, REJECT_ACTION
from orchestrator.policies.learned.network import new_hidden, pack, score
from orchestrator.policies.tables.compiled import new_column
from tests.policies.learned.test_policy import trained

SIZE = feat.observation_size(feat.ROWS)


def observations(count: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    rng = np.random.default_rng(0)
    found = rng.uniform(-1, 1, (count, SIZE)).astype(np.float32)
    for number, observation in enumerate(found):
        lines = observation[: feat.ROWS * feat.FEATURES].reshape(feat.ROWS, feat.FEATURES)
        lines[number % (feat.ROWS + 1) :] = 0
        lines[: number % (feat.ROWS + 1), feat.PRESENT] = 1
        observation[-feat.CONTEXT + feat.CONTEXT_BASE_HOLDS] = number % 2
        observation[-feat.CONTEXT + feat.CONTEXT_BASE_REJECTS] = number % 3 == 0
    return found


@pytest.mark.parametrize("seed", [1, 2])
def test_the_served_network_computes_what_torch_does(seed: int) -> None:
    net, seen = ScoringNet(3.0), observations(2 * feat.ROWS + 2)
    net.import_weights(trained(seed))
    with torch.no_grad():
        expected = net(torch.as_tensor(seen)).numpy()
    params, hidden = pack(net.export_weights()), new_hidden()
    for observation, wanted in zip(seen, expected, strict=True):
        lines = observation[: feat.ROWS * feat.FEATURES].reshape(feat.ROWS, feat.FEATURES).astype(float)
        context = new_column(feat.CONTEXT)
        for place in range(feat.CONTEXT):
            context[place] = float(observation[feat.ROWS * feat.FEATURES + place])
        scores = new_column(ACTIONS)
        score(lines, int(lines[:, feat.PRESENT].sum()), context, params, 3.0, hidden, scores)
        np.testing.assert_allclose(np.array(scores), wanted, atol=3e-5, rtol=1e-5)
    assert expected.shape == (len(seen), ACTIONS)
    assert np.abs(expected).max() > 1


def test_weights_go_out_as_they_came_in() -> None:
    net, weights = ScoringNet(5.0), trained(3)
    net.import_weights(weights)
    for name, weight in net.export_weights().items():
        np.testing.assert_array_equal(weight, weights[name])


def test_weights_that_went_out_are_not_changed_by_what_is_learned_later() -> None:
    net = ScoringNet(5.0)
    net.import_weights(trained(3))
    kept = net.export_weights()
    net.import_weights(trained(4))
    for name, weight in kept.items():
        np.testing.assert_array_equal(weight, trained(3)[name])


def test_an_untrained_network_scores_nothing_but_its_base() -> None:
    seen = observations(feat.ROWS)
    with torch.no_grad():
        scores = ScoringNet(5.0)(torch.as_tensor(seen)).numpy()
    lines = seen[:, : feat.ROWS * feat.FEATURES].reshape(-1, feat.ROWS, feat.FEATURES)
    sent = scores[:, FIRST_SEND:].reshape(-1, feat.ROWS, BATCHES)
    np.testing.assert_allclose(sent[:, :, 0], 5 * lines[:, :, feat.BASE_CHOICE] * lines[:, :, feat.PRESENT], atol=1e-6)
    assert not sent[:, :, 1].any()
    context = seen[:, -feat.CONTEXT :]
    np.testing.assert_allclose(scores[:, HOLD_ACTION], 5 * context[:, feat.CONTEXT_BASE_HOLDS], atol=1e-6)
    np.testing.assert_allclose(scores[:, REJECT_ACTION], 5 * context[:, feat.CONTEXT_BASE_REJECTS], atol=1e-6)


def test_averaged_weights_follow_those_that_explore_and_are_never_trained() -> None:
    space = gymnasium.spaces.Box(-1.0, 1.0, (SIZE,), np.float32)
    policy = CandidatePolicy(space, gymnasium.spaces.Discrete(ACTIONS), lambda part: 1e-3)
    first, then = trained(1), trained(2)
    policy.scoring.import_weights(first)
    policy.average(0.0)
    policy.scoring.import_weights(then)
    policy.average(0.75)
    for name, weight in policy.average_net.export_weights().items():
        np.testing.assert_allclose(weight, 0.75 * first[name] + 0.25 * then[name], atol=1e-6)
    assert not any(weight.requires_grad for weight in policy.average_net.parameters())
