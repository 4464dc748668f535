"""In words, what is wrong with servers: for whoever is told why nobody answers, and for the log of decisions."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from orchestrator.policies.fleet.candidate_set import CandidateSet
from orchestrator.router.queue.request import BatchKey
from orchestrator.router.servers.connection import ServerConnection
from orchestrator.snapshot import ServerName

Servers = Mapping[ServerName, ServerConnection]

_MOST_REASONS = 4  # that a caller is told
_FOREIGN = "driven by another gateway"
_UNREACHED = "can't be reached"


def describe_servers(servers: Servers) -> tuple[str, bool]:
    """Return in a line how each server is, and whether any of them answers."""
    states = (
        (s.name, s.health.problem or (f"{len(s.models)} models" if s.is_driven else _FOREIGN)) for s in servers.values()
    )
    told = "; ".join(f"{name}: {state.removeprefix(f'server {name}: ')}" for name, state in states)
    return told, any(server.takes_batches for server in servers.values())


def describe_outage(servers: Servers, key: BatchKey, by_s: float) -> str | None:
    """Return why nobody is expected to answer by then what a key asks for; None when somebody is."""
    now_s = asyncio.get_running_loop().time()
    reasons: dict[str, None] = {}
    for server in servers.values():
        health = server.health
        for model in server.served:
            if model.family != key.family or not key.allows(model):
                continue
            if not server.is_driven:  # nobody drives one that is down
                reasons[f"{server.name} {f'is {_FOREIGN}' if health.is_healthy else _UNREACHED}"] = None
                continue
            back_s = health.back_s(model.name, now_s=now_s)
            if back_s is None or back_s <= by_s:
                return None
            what = server.name if health.is_suspect or not health.is_healthy else f"{model.name} on {server.name}"
            state = "is out" if health.is_healthy else _UNREACHED
            if (since_s := health.silent_since_s(model.name)) is not None:
                state = f"has answered nothing for {now_s - since_s:.1f} s"
            reasons[f"{what} {state}"] = None
    told = list(reasons)[:_MOST_REASONS]
    if len(reasons) > len(told):
        told.append(f"and {len(reasons) - len(told)} more")
    return ", ".join(told) or None


def describe_stale(servers: Servers, candidate_set: CandidateSet, stale_after_s: float) -> str | None:
    """Return which candidates too little is known of to be chosen by just any policy; None when there are none."""
    since_s = candidate_set.situation.now_s - stale_after_s
    old = {server.name for server in servers.values() if server.health.heard_s < since_s}  # hardly ever any
    if not old or not (old := old & {candidate.server for candidate in candidate_set.candidates}):
        return None
    return f"nothing heard of {', '.join(sorted(old))} for more than {stale_after_s:g} s"
