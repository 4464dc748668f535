"""Metadata and configs: the gateway's own, those of families, and those of other models as their servers give them.

A family's are those of its narrowest width that a server has, without what differs from width to width.
"""

from __future__ import annotations

import logging
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from orchestrator.errors import ServerUnavailableError, SlimError
from orchestrator.gateway.auth.callers import Caller
from orchestrator.gateway.model_index import ModelIndex
from orchestrator.gateway.passthrough import Passthrough
from orchestrator.gateway.protocol.family import VERSION, FamilyModel, check_version, merge_config, require_version
from orchestrator.gateway.protocol.messages import Message, parse, pb, serialise
from orchestrator.gateway.protocol.wire import MalformedMessageError

log = logging.getLogger(__name__)

SERVER_NAME = "slim-scheduler"
EXTENSIONS = (
    "classification",
    "sequence",
    "model_configuration",
    "binary_tensor_data",
    "parameters",
    "statistics",
)
"""Triton's extensions that the gateway offers; the others are closed."""


class MetadataAnswers:
    """Answers to ServerMetadata, ModelMetadata and ModelConfig.

    Args:
        model_index: What the servers serve.
        passthrough: What calls a server that has a model.
    """

    def __init__(self, model_index: ModelIndex, passthrough: Passthrough) -> None:
        self._model_index = model_index
        self._passthrough = passthrough

    async def answer_server(self, message: bytes, caller: Caller) -> bytes:
        """Return the answer to ServerMetadata."""
        return serialise(pb.ServerMetadataResponse(name=SERVER_NAME, version=_package_version(), extensions=EXTENSIONS))

    async def answer_metadata(self, message: bytes, caller: Caller) -> bytes:
        """Return the answer to ModelMetadata; raises as ``answer_config``."""
        family = self._family(parse(pb.ModelMetadataRequest, message))
        if family is None:
            return (await self._passthrough.ask("ModelMetadata", message, caller.metadata))[0]
        answer = await self._query_width(family, "ModelMetadata", pb.ModelMetadataRequest, pb.ModelMetadataResponse)
        answer.name = family.name
        answer.versions[:] = [VERSION]
        return serialise(answer)

    async def answer_config(self, message: bytes, caller: Caller) -> bytes:
        """Return the answer to ModelConfig.

        Raises:
            ConfigError: The version is no number.
            SlimError: No server that answers has the model.
        """
        family = self._family(parse(pb.ModelConfigRequest, message))
        if family is None:
            return (await self._passthrough.ask("ModelConfig", message, caller.metadata))[0]
        answer = await self._query_width(family, "ModelConfig", pb.ModelConfigRequest, pb.ModelConfigResponse)
        widths = self._model_index.widths(family.name)
        merge_config(answer.config, family, {width: model.accuracy for width, model in widths.items()})
        return serialise(answer)

    def _family(self, request: Message) -> FamilyModel | None:
        """Return the family that a request names, None when it names another model."""
        check_version(request.version)
        family = self._model_index.families.get(request.name)
        if family is not None:
            require_version(family, request.version)
        return family

    async def _query_width(self, family: FamilyModel, method: str, request_kind: Any, answer_kind: Any) -> Message:
        """Return what a server says of one width of a family, the narrowest that it has."""
        for model in self._model_index.widths(family.name).values():
            request = serialise(request_kind(name=model.name))
            try:
                return parse(answer_kind, (await self._passthrough.ask(method, request, ()))[0])
            except (SlimError, MalformedMessageError) as exc:
                log.debug("%s of %s: %s", method, model.name, exc)
        raise ServerUnavailableError(f"no server that answers has a width of family '{family.name}'", executed=False)


def _package_version() -> str:
    try:
        return version("slim-scheduler")
    except PackageNotFoundError:  # run from a checkout that was never installed
        return "unknown"
