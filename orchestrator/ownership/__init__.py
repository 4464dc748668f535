"""Which of several gateways drives which server, pure: at any time a server gets batches of one of them.

Two gateways that send to one server each see only their own batches there, and both expect it to be freer than it is.
A server has one driver, therefore. ``rendezvous`` says who that should be, the same for all who know the same gateways
and servers; ``balance`` lets a server go to a gateway that has much more to do than another, and ``plan`` is what comes
of both. ``record`` is what is kept beside a server, so that views that differ end in one answer.
"""

from orchestrator.ownership.balance import APART_S, GatewayLoad, Imbalance, Move, plan_move
from orchestrator.ownership.plan import NOTHING, Plan, plan_drivers
from orchestrator.ownership.record import LEASE_S, HolderRecord, Holding
from orchestrator.ownership.rendezvous import GatewayName, assign

__all__ = [
    "APART_S",
    "LEASE_S",
    "NOTHING",
    "GatewayLoad",
    "GatewayName",
    "HolderRecord",
    "Holding",
    "Imbalance",
    "Move",
    "Plan",
    "assign",
    "plan_drivers",
    "plan_move",
]
