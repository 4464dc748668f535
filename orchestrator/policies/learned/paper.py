"""How ppo-paper decides: one plain network over a fleet of a fixed size, three choices taken apart.

arXiv 2510.09018 says of its router only that PPO "jointly selects device, width, and batching" from telemetry; its
state, reward and network are not public to us. Ours, and so labelled: the state is the observation of
``orchestrator.policies.learned.features``, the network two tanh layers of 64, and the action three choices out of
(servers, widths, batches 1, 2, 4, …), each taken by itself out of what can be sent somewhere: no server without room,
and no width that nobody has room for. What the three say together may be impossible all the same, because a choice
can't know of the others: then nothing is sent and it is asked again, or where there is no time for that the base policy
decides. That is the known weakness of such an action space (sb3-contrib's issue 16), left in on purpose.

Servers are taken by the order of their names and widths ascending, so the network knows them by their places, and
serves only as many as it was trained for.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from orchestrator.policies.learned import features as feat
from orchestrator.policies.tables import columns as col
from orchestrator.policies.tables.compiled import Column, Table, compiled

LAYER: Final = 64


def paper_shapes(servers: int, widths: int, batches: int) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the weights, float32 [inputs, outputs]."""
    return {
        "first.weight": (feat.observation_size(servers * widths), LAYER),
        "first.bias": (LAYER,),
        "second.weight": (LAYER, LAYER),
        "second.bias": (LAYER,),
        "out.weight": (LAYER, servers + widths + batches),
        "out.bias": (servers + widths + batches,),
    }


def allowed_choices(
    rows: Table, counts: NDArray[np.int64], fleet: tuple[int, ...], widths: NDArray[np.float64]
) -> NDArray[np.bool_]:
    """Return which servers, widths and batches may be chosen, bool [worlds, servers + widths + batches].

    ``rows`` are the candidates of each world, [worlds, fields, rows], of which ``counts`` [worlds] are used; ``widths``
    [worlds, widths] are those of each, in percent, ascending.
    """
    servers, batches = fleet[0], fleet[2]
    has_room = (np.arange(rows.shape[2]) < counts[:, None]) & (rows[:, col.ROW_HAS_ROOM] != 0)
    of_server = rows[:, col.ROW_SERVER, :, None] == np.arange(servers)
    of_width = rows[:, col.ROW_WIDTH, :, None] == widths[:, None, : fleet[1]]
    return np.concatenate(
        [
            (of_server & has_room[..., None]).any(axis=1),
            (of_width & has_room[..., None]).any(axis=1),
            np.ones((len(rows), batches), np.bool_),
        ],
        axis=1,
    )


def paper_choices(
    weights: Mapping[str, Any],
    observation: NDArray[np.float32],
    fleet: tuple[int, ...],
    allowed: NDArray[np.bool_],
) -> tuple[int, int, int]:
    """Return the likeliest server, width and batch by index, of those that are ``allowed`` [choices]."""
    hidden = np.tanh(observation @ weights["first.weight"] + weights["first.bias"])
    hidden = np.tanh(hidden @ weights["second.weight"] + weights["second.bias"])
    logits = np.where(allowed, hidden @ weights["out.weight"] + weights["out.bias"], -np.inf)
    servers, widths = fleet[0], fleet[1]
    return (
        int(np.argmax(logits[:servers])),
        int(np.argmax(logits[servers : servers + widths])),
        int(np.argmax(logits[servers + widths :])),
    )


@compiled
def row_of_choices(
    rows: Table, count: int, query: Column, server: int, width: int, batch: int, widths: Column
) -> tuple[int, float]:
    """Return the row that three choices name, and its items; -1 when there is none with room.

    The server is its index among all of the fleet, the width that in ``widths`` (percent, ascending), the batch its
    power of 2.
    """
    for row in range(count):
        if rows[col.ROW_SERVER][row] == server and rows[col.ROW_WIDTH][row] == widths[width]:
            if rows[col.ROW_HAS_ROOM][row] == 0:
                return -1, 0.0
            return row, max(query[col.HEAD_ITEMS], min(rows[col.ROW_ITEMS][row], float(1 << batch)))
    return -1, 0.0
