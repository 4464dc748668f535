"""The range of every feature that was seen in training: what a policy file says it can be trusted with."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from orchestrator.policies.learned import features as feat


class Ranges:
    """The least and the most of every feature, those of candidates first; infinite before anything was seen."""

    def __init__(self) -> None:
        self.low = np.full(feat.FEATURES + feat.CONTEXT, np.inf, np.float32)
        self.high = np.full(feat.FEATURES + feat.CONTEXT, -np.inf, np.float32)

    def note(self, observations: NDArray[np.float32]) -> None:
        """Take observations in, [n, lines · FEATURES + CONTEXT]."""
        lines = observations[:, : -feat.CONTEXT].reshape(-1, feat.FEATURES)
        for part, seen in (
            (slice(0, feat.FEATURES), lines[lines[:, feat.PRESENT] > 0]),
            (slice(feat.FEATURES, None), observations[:, -feat.CONTEXT :]),
        ):
            if len(seen):
                self.low[part] = np.minimum(self.low[part], seen.min(axis=0))
                self.high[part] = np.maximum(self.high[part], seen.max(axis=0))

    def known(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return both, 0 where nothing was seen."""
        is_seen = np.isfinite(self.low)
        return np.where(is_seen, self.low, 0).astype(np.float32), np.where(is_seen, self.high, 0).astype(np.float32)
