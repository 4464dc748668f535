"""How ppo-paper decides: one plain network over a fleet of a fixed size, three choices taken apart.

arXiv 2510.09018 says of its router only that PPO "jointly selects device, width, and batching" from telemetry; its
state, reward and network are not public to us. Ours, and so labelled: the state is the observation of
``orchestrator.policies.learned.features``, the network two tanh layers of 64, and the action three choices out of
(servers, widths, batches 1, 2, 4, …), each taken by itself out of what can be sent somewhere: no server without room,
and no width that nobody has room for. The batch is how many are waited for: 1 sends at once, with all else that waits;
8 while 3 wait holds until 8 do, as Triton does with a preferred batch size, for half of the time that the head had when
it came, at the longest. In a choice of how many of those that wait are sent, as it was before, nobody could be waited
for, and rules that do were out of reach. What the three say together may be impossible, because a choice can't know of
the others: then nothing is sent and it is asked again when something has changed, or where there is no time for that
the base policy decides. That is the known weakness of such an action space (sb3-contrib's issue 16), left in on
purpose.

Servers are taken by the order of their names and widths ascending, so the network knows them by their places, and
serves only as many as it was trained for. What is not there, a server or a width that is not loaded, leaves its place
empty.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from orchestrator.policies.learned import features as feat
from orchestrator.policies.learned.actions import HOLD_ACTION, HOLD_PARTS, LEAST_HOLD, do_action, hold_until_s
from orchestrator.policies.tables import columns as col
from orchestrator.policies.tables.compiled import Column, Table, compiled
from orchestrator.policies.tables.layout import HOLD

LAYER: Final = 64


def paper_shapes(servers: int, widths: int, batches: int) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the weights, float32 [inputs, outputs]."""
    return {
        "first.weight": (feat.observation_size(servers * widths), LAYER),
        "first.bias": (LAYER,),
        "second.weight": (LAYER, LAYER),
        "second.bias": (LAYER,),
        "choices.weight": (LAYER, servers + widths + batches),
        "choices.bias": (servers + widths + batches,),
    }


def allowed_choices(
    rows: Table, counts: NDArray[np.int64], fleet: tuple[int, ...], widths: NDArray[np.float64]
) -> NDArray[np.bool_]:
    """Return which servers, widths and batches may be chosen, bool [worlds, servers + widths + batches].

    ``rows`` are the candidates of each world, [worlds, fields, rows], of which ``counts`` [worlds] are used; ``widths``
    [worlds, widths] are those of each, in percent, ascending.
    """
    servers, width_count, batches = fleet
    has_room = (np.arange(rows.shape[2]) < counts[:, None]) & (rows[:, col.ROW_HAS_ROOM] != 0)
    of_server = rows[:, col.ROW_SERVER, :, None] == np.arange(servers)
    of_width = rows[:, col.ROW_WIDTH, :, None] == widths[:, None, :width_count]
    return np.concatenate(
        [
            (of_server & has_room[..., None]).any(axis=1),
            (of_width & has_room[..., None]).any(axis=1),
            np.ones((len(rows), batches), np.bool_),
        ],
        axis=1,
    )


def choices_of(
    rows: Table, chosen: NDArray[np.int64], fleet: tuple[int, ...], widths: NDArray[np.float64]
) -> NDArray[np.int64]:
    """Return the choices that send a row of each world as it is, int64 [worlds, 3].

    ``rows`` and ``widths`` are as for ``allowed_choices``. Where ``chosen`` [worlds] is no row, below 0, server and
    width are -1 and the batch is the largest: it waits.
    """
    _, width_count, batches = fleet
    worlds, sent = np.arange(len(rows)), np.maximum(chosen, 0)
    servers, of_width = rows[worlds, col.ROW_SERVER, sent], rows[worlds, col.ROW_WIDTH, sent]
    width = (widths[:, :width_count] == of_width[:, None]).argmax(axis=1)
    found = np.stack([servers.astype(np.int64), width, np.zeros(len(rows), np.int64)], axis=1)
    found[chosen < 0] = -1, -1, batches - 1
    return found


def place_lines(
    lines: NDArray[Any], rows: Table, counts: NDArray[np.int64], fleet: tuple[int, ...], widths: NDArray[np.float64]
) -> NDArray[np.float32]:
    """Return the features of candidates at their places, float32 [worlds, servers · widths · FEATURES]; 0 at others.

    ``lines`` [worlds, rows, FEATURES] has those of each row; ``rows``, ``counts`` and ``widths`` are as for
    ``allowed_choices``.
    """
    server_count, width_count, _ = fleet
    worlds, used = np.nonzero(np.arange(rows.shape[2]) < counts[:, None])
    servers = rows[worlds, col.ROW_SERVER, used].astype(np.int64)
    at = (widths[worlds, :width_count] == rows[worlds, col.ROW_WIDTH, used][:, None]).argmax(axis=1)
    placed = np.zeros((len(rows), server_count * width_count, feat.FEATURES), np.float32)
    placed[worlds, servers * width_count + at] = lines[worlds, used]
    return placed.reshape(len(rows), -1)


def paper_choices(
    weights: Mapping[str, Any],
    observation: NDArray[np.float32],
    fleet: tuple[int, ...],
    allowed: NDArray[np.bool_],
) -> NDArray[np.int64]:
    """Return the likeliest server, width and batch by index, int64 [3], of those that are ``allowed`` [choices]."""
    hidden = np.tanh(observation @ weights["first.weight"] + weights["first.bias"])
    hidden = np.tanh(hidden @ weights["second.weight"] + weights["second.bias"])
    logits = np.where(allowed, hidden @ weights["choices.weight"] + weights["choices.bias"], -np.inf)
    servers, widths, _ = fleet
    heads = logits[:servers], logits[servers : servers + widths], logits[servers + widths :]
    return np.array([np.argmax(head) for head in heads])


@compiled
def do_choices(
    order: NDArray[np.int64],
    widths: Column,
    rows: Table,
    count: int,
    chosen: Column,
    considered: int,
    query: Column,
    base: Column,
) -> tuple[int, float, float, float]:
    """Return what three choices are: the row or HOLD, the items, until when to hold, and the items that end a hold.

    ``order`` has the server by its index among all of the fleet, the width by that in ``widths`` (percent, ascending),
    and the batch by its power of 2. No head waits for longer than half of the time that it had when it came; 0 items
    end no hold.
    """
    row = _row_of(rows, count, order[0], widths[order[1]])
    if row < 0:
        row, items, until_s = do_action(HOLD_ACTION, rows, chosen, considered, query, base)
        return row, items, until_s, 0.0
    items, wanted = rows[col.ROW_ITEMS][row], min(float(1 << order[2]), rows[col.ROW_MAX_BATCH][row])
    arrived_s, latest_s = query[col.HEAD_ARRIVED_S], hold_until_s(rows, chosen, considered, query, 1.0)
    until_s = arrived_s + (latest_s - arrived_s) * HOLD_PARTS[0]
    has_time = until_s - query[col.NOW_S] > LEAST_HOLD * (query[col.HEAD_DEADLINE_S] - query[col.NOW_S])
    if items < wanted and items >= query[col.QUEUE_ITEMS] and has_time:
        return HOLD, 0.0, until_s, wanted
    return row, items, math.inf, 0.0


@compiled
def _row_of(rows: Table, count: int, server: int, width: float) -> int:
    """Return the row of a server and a width, -1 where it is none with room."""
    for row in range(count):
        if rows[col.ROW_SERVER][row] == server and rows[col.ROW_WIDTH][row] == width:
            return row if rows[col.ROW_HAS_ROOM][row] != 0 else -1
    return -1
