"""How ppo-paper decides: one plain network over a fleet of a fixed size, three choices taken apart.

arXiv 2510.09018 says of its router only that PPO "jointly selects device, width, and batching" from telemetry; its
state, reward and network are not public to us. Ours, and so labelled: the state is the observation of
``orchestrator.policies.learned.features``, the network two tanh layers of 64, and the action three choices out of
(servers, widths, batches 1, 2, 4, …), each taken by itself. What the three say together may be impossible, because a
choice can't know of the others: then nothing is sent and it is asked again, or where there is no time for that the base
policy decides. That is the known weakness of such an action space (sb3-contrib's issue 16), left in on purpose.

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
        "first.weight": (feat.OBSERVATION, LAYER),
        "first.bias": (LAYER,),
        "second.weight": (LAYER, LAYER),
        "second.bias": (LAYER,),
        "out.weight": (LAYER, servers + widths + batches),
        "out.bias": (servers + widths + batches,),
    }


def paper_choices(
    weights: Mapping[str, Any], observation: NDArray[np.float32], fleet: tuple[int, ...]
) -> tuple[int, int, int]:
    """Return the likeliest server, width and batch by index."""
    hidden = np.tanh(observation @ weights["first.weight"] + weights["first.bias"])
    hidden = np.tanh(hidden @ weights["second.weight"] + weights["second.bias"])
    logits = hidden @ weights["out.weight"] + weights["out.bias"]
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
