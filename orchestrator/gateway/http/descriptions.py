"""Configs and metadata of models for the HTTP forms that need them to be understood, kept for a moment.

A raw tensor and the generate extension leave out names, types and shapes. Asking a server for each such request would
put a second call, answered by the one thread that Triton has for everything but inference, before every inference.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from orchestrator.gateway.auth.callers import ANYONE
from orchestrator.gateway.dataplane import DataPlane
from orchestrator.gateway.protocol.messages import Message, pb

KEPT_S = 2.0
"""As long as a model that is loaded or unloaded may take to be noticed anyway."""


@dataclass(frozen=True, slots=True)
class Description:
    """What a model takes and gives; the messages are KServe's."""

    config: Message
    metadata: Message
    read_s: float


class Descriptions:
    """Reads descriptions through a data plane; holds one a model and version that exists.

    Args:
        data_plane: The data plane to query.
        clock: Returns seconds on a clock that never goes back.
    """

    def __init__(self, data_plane: DataPlane, clock: Callable[[], float] = time.monotonic) -> None:
        self._data_plane = data_plane
        self._clock = clock
        self._kept: dict[tuple[str, str], Description] = {}

    async def of(self, model: str, version: str) -> Description:
        """Return the description of a model; raises as the data plane's ``call``."""
        kept = self._kept.get((model, version))
        if kept is not None and self._clock() - kept.read_s < KEPT_S:
            return kept
        self._kept.pop((model, version), None)
        asked_s = self._clock()
        config = await self._data_plane.query(
            "ModelConfig", pb.ModelConfigRequest(name=model, version=version), pb.ModelConfigResponse, ANYONE
        )
        metadata = await self._data_plane.query(
            "ModelMetadata", pb.ModelMetadataRequest(name=model, version=version), pb.ModelMetadataResponse, ANYONE
        )
        found = self._kept[model, version] = Description(config.config, metadata, asked_s)
        return found
