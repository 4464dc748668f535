"""What each of several gateways may give away of a tenant's quota, so that all together keep to it; pure.

Each gateway tells what of a tenant came there lately, and takes its part by what all of them told: max-min fair
(Bertsekas and Gallager, Data Networks, 6.5.2), and what is left over in equal parts, for what comes next. Nobody is
asked before a request is let in. Parts add up to the quota but for the tenth of a second by which views differ.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from orchestrator.ownership import GatewayName

Amounts = tuple[float, float, float]
"""Of a tenant: requests a second, items a second, and requests under way."""


def divide(limit: float, demands: Sequence[float]) -> list[float]:
    """Return the part of a limit, above 0, for each demand, 0 or more; together they are the limit."""
    parts, left, order = [0.0] * len(demands), limit, sorted(range(len(demands)), key=demands.__getitem__)
    for rank, index in enumerate(order):
        parts[index] = min(demands[index], left / (len(order) - rank))
        left -= parts[index]
    return [part + left / len(parts) for part in parts]


def parts_of(
    gateway: GatewayName,
    demands: Mapping[GatewayName, Mapping[str, Amounts]],
    quotas: Mapping[str, tuple[float | None, float | None, float | None]],
) -> dict[str, Amounts]:
    """Return the parts of all quotas, 0..1, that a gateway may give away, by tenant.

    Args:
        gateway: The gateway, one of those with demands.
        demands: What came at each gateway, by tenant; of a tenant that is not named nothing.
        quotas: The whole quotas, above 0; None for an unbounded one, of which everybody has all.
    """
    names = sorted(demands)

    def part(tenant: str, which: int, limit: float | None) -> float:
        if limit is None:
            return 1.0
        wanted = [demands[name].get(tenant, (0.0, 0.0, 0.0))[which] for name in names]
        return divide(limit, wanted)[names.index(gateway)] / limit

    return {
        tenant: (part(tenant, 0, limits[0]), part(tenant, 1, limits[1]), part(tenant, 2, limits[2]))
        for tenant, limits in quotas.items()
    }
