"""What one gateway tells another of itself, as a value and as JSON.

Servers go by the addresses of their gRPC endpoints: those are the same for all, while a server behind a host name may
have another name where a gateway met it alone, or has not heard yet what the DNS calls it.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from orchestrator.errors import PermanentError
from orchestrator.ownership import GatewayLoad, GatewayName
from orchestrator.snapshot import ServerName

_Amount = Annotated[float, Field(ge=0, allow_inf_nan=False)]
_Rate = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class NoReportError(PermanentError):
    """What a peer says is no report, or one of a version that this one does not understand."""


class GatewayReport(BaseModel):
    """How one gateway is now. Keys of a later version are passed over.

    Attributes:
        name: The gateway's name.
        instance: A number drawn at its start, by which two gateways of one name are told apart.
        version: The version of what it runs; empty: an earlier one, which does not say.
        is_ending: Whether it is to get no more servers, because it ends.
        has_drained: Whether it has no callers of its own any more, and only waits for others to take its servers.
        backlog_items: The items that wait there or run on its servers. Here and in the next, what insists on slower
            widths counts as many items as take as long at the quickest.
        demand_rps: The items a second that its own callers have sent lately, refused or passed on as well.
        drives: The servers that it sends batches to.
        leaves: Those that it sends nothing to any more, and has not had the last answers of.
        capacities_rps: The items a second of all servers that it knows, above 0.
        plan: The driver of each server by the plan that it has made, or follows.
        demands: The requests a second that came lately of each tenant, those refused included, then the items a second
            and the most requests under way.
    """

    model_config = ConfigDict(extra="ignore", frozen=True)

    name: GatewayName
    instance: int
    version: str = ""
    is_ending: bool = False
    has_drained: bool = False
    backlog_items: _Amount = 0.0
    demand_rps: _Amount = 0.0
    drives: frozenset[ServerName] = frozenset()
    leaves: frozenset[ServerName] = frozenset()
    capacities_rps: Mapping[ServerName, _Rate] = {}
    plan: Mapping[ServerName, GatewayName] = {}
    demands: Mapping[str, tuple[_Amount, _Amount, _Amount]] = {}

    @property
    def news(self) -> Hashable:
        """What others wait for: peers are told at once when it changes."""
        return self.is_ending, self.has_drained, self.drives, self.leaves, frozenset(self.plan.items())

    @property
    def load(self) -> GatewayLoad:
        """What it has to do, and with what."""
        known = sorted(self.drives & self.capacities_rps.keys())
        capacities_rps = {server: self.capacities_rps[server] for server in known}
        return GatewayLoad(self.backlog_items, self.demand_rps, capacities_rps)

    def encode(self) -> bytes:
        """Return it as JSON."""
        return self.model_dump_json().encode()

    @classmethod
    def decode(cls, body: bytes) -> Self:
        """Return what ``encode`` made JSON of; raises NoReportError, which names the key, when it is none."""
        try:
            return cls.model_validate_json(body)
        except ValidationError as exc:
            problem = exc.errors(include_url=False, include_input=False)[0]
            where = ".".join(map(str, problem["loc"])) or "all of it"
            raise NoReportError(f"no report of a gateway ({where}: {problem['msg']})") from exc
