"""The latency fits of all servers and models, and guesses where there is none.

What was never observed is guessed from the nearest width seen on the same server, scaled by FLOPs; a server never
seen at all is guessed to be instant, so that it is tried (optimism in the face of uncertainty).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from orchestrator.profile.fit import LatencyFit
from orchestrator.snapshot import ModelName, ServedModel, ServerName


@dataclass(frozen=True, slots=True)
class LatencyTable:
    """The fits of all servers and models."""

    fits: Mapping[tuple[ServerName, ModelName], LatencyFit] = field(default_factory=dict)

    def observe(self, server: ServerName, model: ModelName, items: int, service_s: float) -> LatencyTable:
        """Return the table after one more observation."""
        key = (server, model)
        fit = self.fits.get(key, LatencyFit()).observe(items, service_s)
        return replace(self, fits={**self.fits, key: fit})

    def start(self, server: ServerName, model: ModelName, fit: LatencyFit) -> LatencyTable:
        """Return the table with ``fit`` in place of what was observed of one model."""
        return replace(self, fits={**self.fits, (server, model): fit})

    def without(self, server: ServerName) -> LatencyTable:
        """Return the table after a server has left for good."""
        return replace(self, fits={key: fit for key, fit in self.fits.items() if key[0] != server})

    def line(self, server: ServerName, model: ServedModel, models: tuple[ServedModel, ...]) -> tuple[float, float]:
        """Return (seconds an item, seconds a batch) of ``model``, guessed from its siblings when never seen.

        Args:
            server: The server that serves it.
            model: The model in question.
            models: All models that the server has of its family.
        """
        fit = self.fits.get((server, model.name))
        if fit is not None:
            return fit.line()
        seen = [m for m in models if (server, m.name) in self.fits]
        if not seen:
            return (0.0, 0.0)
        nearest = min(seen, key=lambda m: (abs(m.width - model.width), m.width))
        slope_s, intercept_s = self.fits[(server, nearest.name)].line()
        return (slope_s * _work_ratio(model, nearest), intercept_s)


def _work_ratio(model: ServedModel, reference: ServedModel) -> float:
    """Return how much more work ``model`` is; without FLOPs by the square of the width, as convolutions go."""
    if model.flops and reference.flops:
        return model.flops / reference.flops
    return (model.width / reference.width) ** 2
