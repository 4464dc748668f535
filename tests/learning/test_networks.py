"""What torch trains is what is served."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest
import torch

from orchestrator.learning.networks import CandidatePolicy, ScoringNet
from orchestrator.policies.learned.actions import ACTIONS
from orchestrator.policies.learned.decide import new_scores
from orchestrator.policies.learned.features import CONTEXT, FEATURES, OBSERVATION, PRESENT, ROWS
from orchestrator.policies.learned.network import BASE_HOLDS, pack, score
from orchestrator.policies.tables.compiled import new_column
from tests.policies.learned.test_policy import trained


def observations(count: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    rng = np.random.default_rng(0)
    found = rng.uniform(-1, 1, (count, OBSERVATION)).astype(np.float32)
    for number, observation in enumerate(found):
        lines = observation[: ROWS * FEATURES].reshape(ROWS, FEATURES)
        lines[number % (ROWS + 1) :] = 0
        lines[: number % (ROWS + 1), PRESENT] = 1
        observation[-CONTEXT + BASE_HOLDS] = number % 2
    return found


@pytest.mark.parametrize("seed", [1, 2])
def test_the_served_network_computes_what_torch_does(seed: int) -> None:
    net, seen = ScoringNet(3.0), observations(2 * ROWS + 2)
    net.load_weights(trained(seed))
    with torch.no_grad():
        expected = net(torch.as_tensor(seen)).numpy()
    params, (hidden, scores) = pack(net.export_weights()), new_scores()
    for observation, wanted in zip(seen, expected, strict=True):
        lines = observation[: ROWS * FEATURES].reshape(ROWS, FEATURES).astype(float)
        context = new_column(CONTEXT)
        for place in range(CONTEXT):
            context[place] = float(observation[ROWS * FEATURES + place])
        score(lines, int(lines[:, PRESENT].sum()), context, params, 3.0, hidden, scores)
        np.testing.assert_allclose(np.array(scores), wanted, atol=3e-5, rtol=1e-5)
    assert expected.shape == (len(seen), ACTIONS)
    assert np.abs(expected).max() > 1


def test_weights_go_out_as_they_came_in() -> None:
    net, weights = ScoringNet(5.0), trained(3)
    net.load_weights(weights)
    for name, weight in net.export_weights().items():
        np.testing.assert_array_equal(weight, weights[name])


def test_an_untrained_network_scores_nothing_but_its_base() -> None:
    seen = observations(ROWS)
    with torch.no_grad():
        scores = ScoringNet(5.0)(torch.as_tensor(seen)).numpy()
    lines = seen[:, : ROWS * FEATURES].reshape(-1, ROWS, FEATURES)
    np.testing.assert_allclose(scores[:, :ROWS], 5 * lines[:, :, 20] * lines[:, :, PRESENT], atol=1e-6)


def test_averaged_weights_follow_those_that_explore_and_are_never_trained() -> None:
    space = gymnasium.spaces.Box(-1.0, 1.0, (OBSERVATION,), np.float32)
    policy = CandidatePolicy(space, gymnasium.spaces.Discrete(ACTIONS), lambda part: 1e-3)
    first, then = trained(1), trained(2)
    policy.scoring.load_weights(first)
    policy.average(0.0)
    policy.scoring.load_weights(then)
    policy.average(0.75)
    for name, weight in policy.average_net.export_weights().items():
        np.testing.assert_allclose(weight, 0.75 * first[name] + 0.25 * then[name], atol=1e-6)
    assert not any(weight.requires_grad for weight in policy.average_net.parameters())
