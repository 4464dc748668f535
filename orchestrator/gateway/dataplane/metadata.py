"""Metadata and configs: the gateway's own, those of families, and those of other models as their servers give them.

A family's are those of its narrowest width that a server has, without what differs from width to width.
"""

from __future__ import annotations

import logging
import time

from orchestrator.errors import ServerUnavailableError, SlimError
from orchestrator.gateway.auth.callers import ANYONE, Caller
from orchestrator.gateway.dataplane.model_index import ModelIndex
from orchestrator.gateway.dataplane.passthrough import Passthrough
from orchestrator.gateway.protocol.family import VERSION, FamilyModel, check_version, merge_config, require_version
from orchestrator.gateway.protocol.messages import Message, build_answer, parse, parse_request, pb, serialise
from orchestrator.installed.version import read_version

log = logging.getLogger(__name__)

_EXTENSIONS = (
    "classification", "sequence", "model_configuration", "binary_tensor_data", "parameters", "statistics",
)  # fmt: skip
"""Triton's extensions that the gateway offers; the others are closed."""
_KEPT_S = 2.0
"""As long as a model that is loaded or unloaded may take to be noticed anyway."""


class MetadataAnswers:
    """Answers to ServerMetadata, ModelMetadata and ModelConfig."""

    def __init__(self, model_index: ModelIndex, passthrough: Passthrough) -> None:
        self._model_index = model_index
        self._passthrough = passthrough
        self._kept: dict[tuple[str, str], tuple[float, Message, Message]] = {}

    async def answer_server(self, message: bytes, caller: Caller) -> bytes:
        """Return the answer to ServerMetadata."""
        return build_answer("ServerMetadata", name="slim-scheduler", version=read_version(), extensions=_EXTENSIONS)

    async def answer(self, method: str, message: bytes, caller: Caller) -> bytes:
        """Return the answer to ModelMetadata or ModelConfig.

        Raises:
            ConfigError: The version is no number.
            SlimError: No server that answers has the model.
        """
        request = parse_request(method, message)
        check_version(request.version)
        family = self._model_index.families.get(request.name)
        if family is None:
            return (await self._passthrough.ask(method, message, caller.metadata))[0]
        require_version(family, request.version)
        answer = await self._query_width(family, method)
        if method == "ModelConfig":
            merge_config(answer.config, family, self._model_index.widths(family.name))
        else:
            answer.name = family.name
            answer.versions[:] = [VERSION]
        return serialise(answer)

    async def describe(self, model: str, of_version: str) -> tuple[Message, Message]:
        """Return a model's ModelConfig and its metadata, kept for a moment; raises as ``answer``.

        A raw tensor and the generate extension leave out names, types and shapes. Asking a server for each such request
        would put a second call, answered by the one thread that Triton has for everything but inference, before every
        inference.
        """
        kept = self._kept.pop((model, of_version), None)
        if kept is None or time.monotonic() - kept[0] >= _KEPT_S:
            asked_s = time.monotonic()
            query = serialise(pb.ModelConfigRequest(name=model, version=of_version))
            config = pb.ModelConfigResponse.FromString(await self.answer("ModelConfig", query, ANYONE)).config
            query = serialise(pb.ModelMetadataRequest(name=model, version=of_version))
            metadata = pb.ModelMetadataResponse.FromString(await self.answer("ModelMetadata", query, ANYONE))
            kept = asked_s, config, metadata
        self._kept[model, of_version] = kept
        return kept[1:]

    async def _query_width(self, family: FamilyModel, method: str) -> Message:
        """Return what a server says of one width of a family, the narrowest that it has."""
        for model in self._model_index.widths(family.name).values():
            request = serialise(getattr(pb, f"{method}Request")(name=model.name))
            try:
                answer, _ = await self._passthrough.ask(method, request, ())
                return parse(getattr(pb, f"{method}Response"), answer)
            except SlimError as exc:
                log.debug("%s of %s: %s", method, model.name, exc)
        raise ServerUnavailableError(f"no server that answers has a width of family '{family.name}'", executed=False)
