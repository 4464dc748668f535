"""The networks as torch trains them, with the same weights by the same names as they are served with.

``ScoringNet`` is orchestrator.policies.learned.network once more, because torch needs its own graph; a test holds the
two against each other. ``ValueNet`` is the critic, with one output an objective, so that accuracy, timeliness and
energy are valued apart (one for their sum would forget which is which; D3PO, arXiv 2602.07764). It is not exported:
serving needs no values.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from sb3_contrib.common.maskable.policies import MaskableActorCriticPolicy
from torch import nn

from orchestrator.policies.learned import features as feat
from orchestrator.policies.learned.actions import BATCHES, FIRST_SEND, HOLD_ACTION, REJECT_ACTION
from orchestrator.policies.learned.network import HIDDEN, POOLED, SHAPES, Floats32
from orchestrator.simulation.rewards import OBJECTIVES


def split(observations: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the lines of the candidates, [n, lines, FEATURES], and the context of observations."""
    lines = observations[:, : -feat.CONTEXT].reshape(len(observations), -1, feat.FEATURES)
    return lines, observations[:, -feat.CONTEXT :]


class Encoder(nn.Module):
    """Candidates to hidden features each, and one summary of all with the context."""

    def __init__(self) -> None:
        super().__init__()
        self.row_in = nn.Linear(feat.FEATURES, HIDDEN)
        self.row_mid = nn.Linear(HIDDEN, HIDDEN)
        self.pool = nn.Linear(POOLED, HIDDEN)
        for layer in (self.row_in, self.row_mid, self.pool):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            nn.init.zeros_(layer.bias)

    def forward(self, observations: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return lines, context, hidden features [n, lines, HIDDEN] and summary [n, HIDDEN]."""
        lines, context = split(observations)
        present = lines[:, :, feat.PRESENT : feat.PRESENT + 1]
        hidden = torch.relu(self.row_mid(torch.relu(self.row_in(lines)))) * present
        mean = hidden.sum(dim=1) / present.sum(dim=1).clamp(min=1)
        most = hidden.amax(dim=1)  # behind a relu, so absent lines, which are 0, change no maximum
        return lines, context, hidden, torch.relu(self.pool(torch.cat([mean, most, context], dim=1)))


class ScoringNet(nn.Module):
    """Observations to a score for each action, to which ``strength`` is added where it is the base policy's choice."""

    def __init__(self, strength: float) -> None:
        super().__init__()
        self.strength = strength
        self.encoder = Encoder()
        self.score_row = nn.Linear(HIDDEN, HIDDEN, bias=False)
        self.score_pool = nn.Linear(HIDDEN, HIDDEN)  # its bias is "score.bias"
        self.out = nn.Linear(HIDDEN, BATCHES)
        self.unsent = nn.Linear(HIDDEN, FIRST_SEND)
        for layer in (self.out, self.unsent):  # so that it begins as its base
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, observations: torch.Tensor) -> torch.Tensor:
        """Return scores, float32 [n, actions]; 0 for lines that are not used."""
        lines, context, hidden, summary = self.encoder(observations)
        shared = self.score_pool(summary).unsqueeze(1)
        found = self.out(torch.relu(self.score_row(hidden) + shared))
        base = torch.zeros_like(found)
        base[:, :, 0] = lines[:, :, feat.BASE_CHOICE]
        rows = (self.strength * base + found) * lines[:, :, feat.PRESENT, None]
        unsent = torch.zeros_like(context[:, :FIRST_SEND])
        unsent[:, HOLD_ACTION] = context[:, feat.CONTEXT_BASE_HOLDS]
        unsent[:, REJECT_ACTION] = context[:, feat.CONTEXT_BASE_REJECTS]
        return torch.cat([self.strength * unsent + self.unsent(summary), rows.flatten(1)], dim=1)

    def layers(self) -> dict[str, torch.Tensor]:
        """Return each tensor by its name in a policy file; matrices are [outputs, inputs] here."""
        named: dict[str, torch.Tensor] = {name.removeprefix("encoder."): own for name, own in self.named_parameters()}
        named["score.bias"] = named.pop("score_pool.bias")
        return named

    def export_weights(self) -> dict[str, Floats32]:
        """Return copies of the weights as a policy file holds them; later updates don't reach them."""
        layers = self.layers()
        return {
            name: np.array(layers[name].detach().cpu().numpy().T.reshape(shape), np.float32, order="C")
            for name, shape in SHAPES.items()
        }

    def import_weights(self, weights: Mapping[str, Floats32]) -> None:
        """Take over weights as a policy file holds them."""
        with torch.no_grad():
            for name, layer in self.layers().items():
                layer.copy_(torch.as_tensor(weights[name].T.reshape(layer.shape)))


class ValueNet(nn.Module):
    """Observations to the value of each objective, float32 [n, objectives].

    It sees mean and maximum of the candidates' features: an encoder of its own for each candidate took half of the time
    of an update, and what it could tell more of the state arrivals drown.
    """

    def __init__(self) -> None:
        super().__init__()
        last = nn.Linear(2 * HIDDEN, len(OBJECTIVES))
        for parameter in last.parameters():  # to expect nothing is better than to expect anything
            nn.init.zeros_(parameter)
        first, second = nn.Linear(2 * feat.FEATURES + feat.CONTEXT, 2 * HIDDEN), nn.Linear(2 * HIDDEN, 2 * HIDDEN)
        self.layers = nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), last)

    def forward(self, observations: torch.Tensor) -> torch.Tensor:
        """Return the values of each objective."""
        lines, context = split(observations)
        with torch.no_grad():
            present = lines[:, :, feat.PRESENT].sum(dim=1, keepdim=True).clamp(min=1)
            seen = torch.cat([lines.sum(dim=1) / present, lines.amax(dim=1), context], dim=1)
        found: torch.Tensor = self.layers(seen)
        return found


class _Through(nn.Module):
    """Stands where stable-baselines3 has layers that actor and critic share; ours share none."""

    def forward(self, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return features, features

    def forward_actor(self, features: torch.Tensor) -> torch.Tensor:
        return features

    def forward_critic(self, features: torch.Tensor) -> torch.Tensor:
        return features


class CandidatePolicy(MaskableActorCriticPolicy):  # type: ignore[misc, unused-ignore]
    """Actor and critic of ppo-slim, for MaskablePPO.

    Beside the actor that explores there is one of its averaged weights, which is validated and exported: updates that
    rest on noise cancel in it, those in one direction add up (iterate averaging, Polyak and Juditsky 1992).
    """

    def __init__(self, *args: Any, strength: float = 5.0, **kwargs: Any) -> None:
        self._strength = strength
        super().__init__(*args, **kwargs)

    def _build(self, lr_schedule: Any) -> None:
        self.mlp_extractor = _Through()  # type: ignore[assignment]
        self.action_net = ScoringNet(self._strength)
        self.average_net = ScoringNet(self._strength).requires_grad_(False)
        self.average(0.0)
        self.value_net = ValueNet()  # type: ignore[assignment]
        self.optimizer = self.optimizer_class(self.parameters(), lr=lr_schedule(1), **self.optimizer_kwargs)  # type: ignore[call-arg]

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return {**super()._get_constructor_parameters(), "strength": self._strength}

    def average(self, kept_ratio: float) -> None:
        """Bring the averaged weights nearer to those of the actor; ``kept_ratio`` of what they were is kept."""
        with torch.no_grad():
            for own, other in zip(self.average_net.parameters(), self.scoring.parameters(), strict=True):
                own.lerp_(other, 1 - kept_ratio)

    def evaluate_actions(
        self, obs: torch.Tensor, actions: torch.Tensor, action_masks: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return values [n, objectives], log probabilities and entropies [n] of choices with their masks [n, actions].

        A distribution of sb3-contrib is made twice and checks itself each time: a third of the way forward.
        """
        assert action_masks is not None
        log_probs = torch.log_softmax(self.scoring(obs).masked_fill(~action_masks.bool(), -1e8), dim=1)
        entropy = -(log_probs.exp() * log_probs).sum(dim=1)
        return self.value_net(obs), log_probs.gather(1, actions[:, None])[:, 0], entropy

    @property
    def scoring(self) -> ScoringNet:
        """The network of the actor, which explores."""
        found = self.action_net
        assert isinstance(found, ScoringNet)
        return found
