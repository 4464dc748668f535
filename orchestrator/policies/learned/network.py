"""How ppo-slim scores candidates: one small network for all of them, pooled, beside the base policy's choice.

    h_r   = relu(W2ᵀ relu(W1ᵀ x_r + b1) + b2)              for each candidate's features x_r
    g     = relu(Wgᵀ [mean_r h_r, max_r h_r, context] + bg)
    s_rb  = k · base_rb + w_obᵀ relu(Whᵀ h_r + Wqᵀ g + bs) + b_ob       for its whole batch and half of it
    s_u   = k · base_u + w_uᵀ g + b_u                      for each action that sends nothing

with base = 1 for what the base policy would do, else 0. The weights are shared by all candidates and the pools have no
order, so one network serves any number of servers, and the order of their names says nothing. w_o, b_o, w_u and b_u
begin as zeros: an untrained policy *is* its base policy, and training learns where to depart from it (a residual
policy). Scaling the strength k down would explore more. A max over no candidates is 0.

The loops run along contiguous weights in float32, which LLVM vectorises, and skip inputs that are 0, as half of them
are behind a relu.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from orchestrator.policies.learned import features as feat
from orchestrator.policies.learned.actions import (
    BATCHES,
    FIRST_SEND,
    HOLD_ACTION,
    REJECT_ACTION,
)
from orchestrator.policies.tables.compiled import Column, Table, compiled

HIDDEN: Final = 32
POOLED: Final = 2 * HIDDEN + feat.CONTEXT
SHAPES: Final[dict[str, tuple[int, ...]]] = {
    "row_in.weight": (feat.FEATURES, HIDDEN),
    "row_in.bias": (HIDDEN,),
    "row_mid.weight": (HIDDEN, HIDDEN),
    "row_mid.bias": (HIDDEN,),
    "pool.weight": (POOLED, HIDDEN),
    "pool.bias": (HIDDEN,),
    "score_row.weight": (HIDDEN, HIDDEN),
    "score_pool.weight": (HIDDEN, HIDDEN),
    "score.bias": (HIDDEN,),
    "out.weight": (HIDDEN, BATCHES),
    "out.bias": (BATCHES,),
    "unsent.weight": (HIDDEN, FIRST_SEND),
    "unsent.bias": (FIRST_SEND,),
}
"""Shapes of the weights, float32 [inputs, outputs]; in the order in which they are packed."""

# Where each of them begins, in that order, and how many numbers there are.
_STARTS = (0, *itertools.accumulate(math.prod(shape) for shape in SHAPES.values()))
_ROW_IN, _ROW_IN_BIAS, _ROW_MID, _ROW_MID_BIAS, _POOL, _POOL_BIAS = _STARTS[:6]
_SCORE_ROW, _SCORE_POOL, _SCORE_BIAS, _OUT, _OUT_BIAS, _UNSENT, _UNSENT_BIAS, PARAMETERS = _STARTS[6:]

_MID: Final = feat.ROWS  # lines of ``hidden`` behind those of the rows
_GLOBAL: Final = feat.ROWS + 1
_SHARED: Final = feat.ROWS + 2
_MEAN: Final = feat.ROWS + 3
_MAX: Final = feat.ROWS + 4
HIDDEN_LINES: Final = feat.ROWS + 5

Floats32 = NDArray[np.float32]


def pack(weights: Mapping[str, Floats32]) -> Floats32:
    """Return all weights in one vector, as ``score`` takes them."""
    return np.concatenate([np.asarray(weights[name], np.float32).reshape(-1) for name in SHAPES])


def new_hidden() -> Floats32:
    """Return room for the hidden layers."""
    return np.zeros((HIDDEN_LINES, HIDDEN), np.float32)


def untrained(seed: int = 0) -> dict[str, Floats32]:
    """Return the weights of a network that decides as its base policy does."""
    rng = np.random.default_rng(seed)
    weights = {}
    for name, shape in SHAPES.items():
        is_zero = name.endswith("bias") or name.startswith(("out", "unsent"))
        drawn = np.zeros(shape) if is_zero else rng.standard_normal(shape) * np.sqrt(2 / shape[0])
        weights[name] = drawn.astype(np.float32)
    return weights


@compiled
def _add_product(inputs: Any, line: int, count: int, params: Any, weights: int, out: Any, at: int) -> None:
    """Add a line of inputs times a matrix of ``params`` to a line of ``out``."""
    for i in range(count):
        x = np.float32(inputs[line][i])
        if x != 0:
            first = weights + i * HIDDEN
            for j in range(HIDDEN):
                out[at, j] += x * params[first + j]


@compiled
def _set_line(out: Any, at: int, params: Any, first: int) -> None:
    for j in range(HIDDEN):
        out[at, j] = params[first + j]


@compiled
def _relu(out: Any, at: int) -> None:
    for j in range(HIDDEN):
        out[at, j] = max(out[at, j], np.float32(0))


@compiled
def score(
    lines: Table, considered: int, context: Column, params: Floats32, strength: float, hidden: Floats32, scores: Column
) -> None:
    """Write the scores of the actions that there are with so many lines, from the features of candidates and decision.

    ``params`` are float32 [PARAMETERS] as of ``pack``, ``strength`` is that of the base policy's choice, and ``hidden``
    is room, float32 [HIDDEN_LINES, HIDDEN].
    """
    for j in range(HIDDEN):
        hidden[_MEAN, j] = hidden[_MAX, j] = np.float32(0)
    for r in range(considered):
        _set_line(hidden, _MID, params, _ROW_IN_BIAS)
        _add_product(lines, r, feat.FEATURES, params, _ROW_IN, hidden, _MID)
        _relu(hidden, _MID)
        _set_line(hidden, r, params, _ROW_MID_BIAS)
        _add_product(hidden, _MID, HIDDEN, params, _ROW_MID, hidden, r)
        _relu(hidden, r)
        for j in range(HIDDEN):
            hidden[_MEAN, j] += hidden[r, j]
            hidden[_MAX, j] = max(hidden[_MAX, j], hidden[r, j])
    share = np.float32(1.0 / max(1, considered))
    for j in range(HIDDEN):
        hidden[_MEAN, j] *= share
    _set_line(hidden, _GLOBAL, params, _POOL_BIAS)
    _add_product(hidden, _MEAN, HIDDEN, params, _POOL, hidden, _GLOBAL)
    _add_product(hidden, _MAX, HIDDEN, params, _POOL + HIDDEN * HIDDEN, hidden, _GLOBAL)
    for i in range(feat.CONTEXT):
        x = np.float32(context[i])
        for j in range(HIDDEN):
            hidden[_GLOBAL, j] += x * params[_POOL + (2 * HIDDEN + i) * HIDDEN + j]
    _relu(hidden, _GLOBAL)
    _set_line(hidden, _SHARED, params, _SCORE_BIAS)
    _add_product(hidden, _GLOBAL, HIDDEN, params, _SCORE_POOL, hidden, _SHARED)
    _score_lines(lines, considered, params, strength, hidden, scores)
    for action in range(FIRST_SEND):
        total = params[_UNSENT_BIAS + action]
        for j in range(HIDDEN):
            total += hidden[_GLOBAL, j] * params[_UNSENT + j * FIRST_SEND + action]
        scores[action] = total
    scores[HOLD_ACTION] += strength * context[feat.CONTEXT_BASE_HOLDS]
    scores[REJECT_ACTION] += strength * context[feat.CONTEXT_BASE_REJECTS]


@compiled
def _score_lines(
    lines: Table, considered: int, params: Floats32, strength: float, hidden: Floats32, scores: Column
) -> None:
    """Write the scores of what sends something, from the hidden features of each line and what all share."""
    for r in range(considered):
        for j in range(HIDDEN):
            hidden[_MID, j] = hidden[_SHARED, j]
        _add_product(hidden, r, HIDDEN, params, _SCORE_ROW, hidden, _MID)
        _relu(hidden, _MID)
        for batch in range(BATCHES):
            total = params[_OUT_BIAS + batch]
            for j in range(HIDDEN):
                total += hidden[_MID, j] * params[_OUT + j * BATCHES + batch]
            scores[FIRST_SEND + BATCHES * r + batch] = total
        scores[FIRST_SEND + BATCHES * r] += strength * lines[r][feat.BASE_CHOICE]


@compiled
def best_action(scores: Column, mask: Column, considered: int) -> int:
    """Return the allowed action with the highest score, the first of equals; HOLD_ACTION when none is allowed."""
    best = -1
    for action in range(FIRST_SEND + BATCHES * considered):
        if mask[action] != 0 and (best < 0 or scores[action] > scores[best]):
            best = action
    return best if best >= 0 else HOLD_ACTION
