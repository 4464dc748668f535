"""Whether the gateway, its families and single models can answer now."""

from __future__ import annotations

from collections.abc import Callable

from orchestrator.errors import ConfigError, SlimError
from orchestrator.gateway.auth.callers import Caller
from orchestrator.gateway.dataplane.model_index import ModelIndex
from orchestrator.gateway.protocol.family import VERSION, check_version
from orchestrator.gateway.protocol.messages import build_answer, parse_request
from orchestrator.gateway.protocol.wire import Address
from orchestrator.router import Router


def unready_reason(model_index: ModelIndex, is_served: Callable[[str], bool], *, is_ending: bool) -> str | None:
    """Return why no requests are to be sent to a gateway; None when they are.

    They are when some server has something ready, each family is answered, and the gateway is not about to end.
    """
    if is_ending:
        return "it ends"
    if not model_index.families and not model_index.has_any_ready:
        return "no server has a model ready"
    unserved = [family for family in model_index.families if not is_served(family)]
    return f"no server answers for {', '.join(unserved)}" if unserved else None


class GatewayHealth:
    """Health as load balancers and clients ask for it.

    Attributes:
        is_ending: Set when they are to go elsewhere.
        is_stranded: Returns whether servers have a family and no gateway that is heard of drives any of them.
    """

    def __init__(
        self,
        router: Router,
        model_index: ModelIndex,
        is_served_elsewhere: Callable[[str], bool] | None = None,
    ) -> None:
        self.is_ending = False
        self.is_stranded: Callable[[str], bool] = lambda family: False
        self._router = router
        self._model_index = model_index
        self._is_served_elsewhere = is_served_elsewhere

    def unready_reason(self) -> str | None:
        """Return why no requests are to be sent here; None when they are."""
        return unready_reason(self._model_index, self.is_family_ready, is_ending=self.is_ending)

    def is_ready(self) -> bool:
        """Return whether requests are to be sent here."""
        return self.unready_reason() is None

    def is_family_ready(self, family: str) -> bool:
        """Return whether every process of the gateway can answer a family: a client may reach any of them."""
        elsewhere = self._is_served_elsewhere
        return self.serves(family) and (elsewhere is None or elsewhere(family))

    def serves(self, family: str) -> bool:
        """Return whether some server answers a width of a family, as this process sees it."""
        try:
            return any(self._router.served_by(family).values()) and not self.is_stranded(family)
        except ConfigError:
            return False

    def is_model_ready(self, name: str, version: str = "") -> bool:
        """Return whether a model is answered by some server; raises ConfigError when the version is no number."""
        check_version(version)
        if name in self._model_index.families:
            return version in ("", VERSION) and self.is_family_ready(name)
        try:
            return any(server.problem is None for server in self._model_index.find(Address(name, version)))
        except SlimError:
            return False

    async def answer_live(self, message: bytes, caller: Caller) -> bytes:
        """Return the answer to ServerLive."""
        return build_answer("ServerLive", live=True)

    async def answer_ready(self, message: bytes, caller: Caller) -> bytes:
        """Return the answer to ServerReady."""
        return build_answer("ServerReady", ready=self.is_ready())

    async def answer_model_ready(self, message: bytes, caller: Caller) -> bytes:
        """Return the answer to ModelReady."""
        request = parse_request("ModelReady", message)
        return build_answer("ModelReady", ready=self.is_model_ready(request.name, request.version))
