"""Everything that decides, compiled before the first decision.

Numba compiles a function at its first call, some thirty seconds for all that decides, and a tenth as long is already
too long for a request to wait. So decisions about a made-up fleet are made first. They are made by a rule, which is
one compiled function for all rules, and by both learned policies with weights that mean nothing, because what is
compiled does not depend on a policy's file. So nothing is left to be compiled whatever policy a router goes by, at its
start or later.

One process at a time does that and says when all of it is kept on disk; the others wait and then load it, in a tenth of
a second.
"""

from __future__ import annotations

import fcntl
import functools
import math
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import numpy as np

from orchestrator.policies.fleet.candidate_set import CandidateSet
from orchestrator.policies.fleet.fleet_tables import FleetTables
from orchestrator.policies.learned import features as feat
from orchestrator.policies.learned.network import untrained
from orchestrator.policies.learned.paper import paper_shapes
from orchestrator.policies.learned.policy import LearnedPolicy
from orchestrator.policies.learned.policy_file import PAPER, SLIM, PolicyFile
from orchestrator.policies.preferred import PreferredPolicy
from orchestrator.policies.protocol import Binding, Outcome, Situation
from orchestrator.policies.registry import parse_policy
from orchestrator.policies.tables.code_cache import COMPLETE
from orchestrator.policies.tables.compiled import CACHE_DIR
from orchestrator.snapshot import Family, ModelName, QueueState, ServedModel, ServerName, ServerState, TensorSpec, Width

_BASE = "alert"  # a rule that observes what becomes of batches as well
_WIDTHS = (Width(50), Width(100))
_SERVERS = (ServerName("a"), ServerName("b"))
_LOCK = "lock"


def is_prepared() -> bool:
    """Return whether ``prepare`` has nothing to compile, or only what another process has compiled before."""
    return CACHE_DIR is not None and (CACHE_DIR / COMPLETE).exists()


@functools.cache
def prepare() -> None:
    """Compile, or load what was compiled before, all that decisions need; else the first one waits for it.

    Half a minute on a machine where it has never run, a tenth of a second afterwards.
    """
    with _alone():
        _decide()


@contextmanager
def _alone() -> Iterator[None]:
    """Let one process at a time compile; note in the end that all of it is kept."""
    if CACHE_DIR is None or is_prepared():
        yield
        return
    try:
        lock = (CACHE_DIR / _LOCK).open("w")
    except OSError:  # the folder is gone or full: each for itself, then
        yield
        return
    with lock:
        with suppress(OSError):  # a file system without locks
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield
        with suppress(OSError):
            (CACHE_DIR / COMPLETE).touch()


def _decide() -> None:
    spec = TensorSpec("x", "FP32", (1,))
    models = tuple(
        ServedModel(ModelName(f"x_w{w:03d}"), Family("x"), w, w / 100, w, 4, 1, None, (spec,), (spec,)) for w in _WIDTHS
    )
    fleets = FleetTables(), FleetTables([ServerState(name, models) for name in _SERVERS])
    situation = Situation(QueueState(2, 1, 1.0, 1.0, _WIDTHS), 0.0, 0, (0.0, 0.0), 1.0)
    rule = parse_policy(_BASE)
    for policy in (rule, PreferredPolicy(), LearnedPolicy(_file(SLIM)), LearnedPolicy(_file(PAPER))):
        for tables in fleets:
            candidate_set = CandidateSet(tables, situation)
            candidate_set.least_answer_s(1, 1.0, True)
            candidate_set.decide(policy, is_idle=True, binding=Binding.LATE)
    rule.observe_miss(fleets[-1].memory, 0.0)
    rule.observe(fleets[-1].memory, Outcome(_SERVERS[0], _WIDTHS[0], 1, 1.0, 1.0, 0.0, True, 0.0))


def _file(kind: str) -> PolicyFile:
    """Return a policy that trusts itself everywhere, of weights that mean nothing."""
    everywhere = np.full(feat.FEATURES + feat.CONTEXT, math.inf, np.float32)
    if kind == SLIM:
        return PolicyFile(SLIM, _BASE, untrained(), -everywhere, everywhere)
    size = (len(_SERVERS), len(_WIDTHS), 1)
    weights = {name: np.zeros(shape, np.float32) for name, shape in paper_shapes(*size).items()}
    return PolicyFile(PAPER, _BASE, weights, -everywhere, everywhere, fleet=size)
