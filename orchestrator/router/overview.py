"""What a router knows of its fleet and of who decides, as plain values: for whoever looks at a gateway.

Widths are summed over servers for each family, and over families for each server: both grow with what there is to see,
where their product would be tens of thousands of rows for a thousand families. Several processes with a router each
see the same fleet, so what they say is merged by taking the worst of each server.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from orchestrator.config import RouterSettings
from orchestrator.profile.fit import EnergyTable, LatencyTable
from orchestrator.router.dispatch.dispatcher import Dispatcher
from orchestrator.router.dispatch.live_policy import LivePolicy
from orchestrator.router.queue.request_queue import Backlog, RequestQueues
from orchestrator.router.rollout.standing import Standing
from orchestrator.router.servers.connection import ServerConnection
from orchestrator.router.servers.fleet import Fleet
from orchestrator.snapshot import ServedModel, ServerName

_FAMILIES_A_TURN = 20  # of the event loop: a thousandth of a second where each has 4 widths on 8 servers

ServerCondition = Literal["up", "suspect", "ejected", "down"]
_WORST_FIRST: tuple[ServerCondition, ...] = ("down", "ejected", "suspect", "up")


@dataclass(frozen=True, slots=True)
class ServerOverview:
    """One server as routers see it.

    Attributes:
        condition: ``down`` does not answer, ``ejected`` is left out for a while after failures, ``suspect`` is silent
            about an overdue batch.
        reason: Why it is not up, in words; empty while it is.
        models: The number of models of families that it serves.
        left_out: Of these, those that get nothing now, ascending.
        instances: Instances by width in percent, ascending, of all families together.
        driver: The gateway that sends it batches, of several that share the fleet; empty when none is known to, None
            where there is one gateway.
        device_class: The kind of machine, as the fleet file says; None where it says none.
    """

    name: str
    condition: ServerCondition
    reason: str
    models: int
    left_out: tuple[str, ...]
    instances: tuple[tuple[int, int], ...]
    driver: str | None = None
    device_class: str | None = None


@dataclass(frozen=True, slots=True)
class WidthOverview:
    """One width of a family on all servers that answer.

    Attributes:
        width: The width in percent.
        quality: On the family's own scale, larger is better.
        item_s: The expected time of one item alone on the quickest server; None before anything is known.
        item_j: The expected joules of one item alone on the server where it costs least; None while unknown.
    """

    width: int
    quality: float
    servers: int
    instances: int
    item_s: float | None
    item_j: float | None


@dataclass(frozen=True, slots=True)
class FamilyOverview:
    """One family, with its widths, ascending."""

    name: str
    widths: tuple[WidthOverview, ...]


@dataclass(frozen=True, slots=True)
class FleetOverview:
    """A fleet and who decides.

    Attributes:
        shadow: The policy that is asked beside; None: there is none.
        is_paused: Whether the fallback decides everything for now, because the policy has failed too often.
        decision_log: The directory that decisions are written to; None: they are not.
        sample_ratio: The part of the decisions that is written, 0..1.
        servers: All servers, by name, ascending.
        families: All families that some server serves, by name, ascending.
        gateways: Gateways, or workers of one, that share the fleet and live, by name, ascending; none where there is
            one.
        standing: What is in force since when and why, and what is to follow it; None where that is not known.
    """

    policy: str
    fallback: str
    shadow: str | None
    is_paused: bool
    decision_log: str | None
    sample_ratio: float
    servers: tuple[ServerOverview, ...]
    families: tuple[FamilyOverview, ...]
    gateways: tuple[str, ...] = ()
    standing: Standing | None = None


def merge_overviews(overviews: Sequence[FleetOverview]) -> FleetOverview | None:
    """Return what several processes see of one fleet, the worst of each server; None when there is none."""
    if not overviews:
        return None
    servers: dict[str, ServerOverview] = {}
    for server in (server for overview in overviews for server in overview.servers):
        known = servers.setdefault(server.name, server)
        driver = known.driver or server.driver
        if _WORST_FIRST.index(server.condition) < _WORST_FIRST.index(known.condition):
            known = server
        servers[server.name] = replace(known, driver=driver)
    most = max(overviews, key=lambda overview: len(overview.families))
    return replace(
        most,
        is_paused=any(overview.is_paused for overview in overviews),
        servers=tuple(servers[name] for name in sorted(servers)),
    )


async def describe_fleet(
    settings: RouterSettings, fleet: Fleet, live: LivePolicy, device_classes: Mapping[str, str | None]
) -> FleetOverview:
    """Return what is known of a fleet now; other work goes on meanwhile where there are many families."""
    guarded, shadow, log = live.deciders.policies[False], live.deciders.shadow, settings.decision_log
    served: dict[str, dict[int, list[tuple[ServerConnection, ServedModel]]]] = {}
    for server in fleet.servers.values():
        if server.health.is_healthy:
            for model in server.served:
                served.setdefault(model.family, {}).setdefault(model.width, []).append((server, model))
    families = []
    for number, (name, widths) in enumerate(sorted(served.items()), 1):
        found = tuple(_describe_width(fleet, width, widths[width]) for width in sorted(widths))
        families.append(FamilyOverview(name, found))
        if number % _FAMILIES_A_TURN == 0:
            await asyncio.sleep(0)
    now_s = asyncio.get_running_loop().time()
    return FleetOverview(
        policy=guarded.policy.name,
        fallback=guarded.fallback.name,
        shadow=None if shadow is None else shadow.policy.name,
        is_paused=guarded.is_paused(now_s),
        decision_log=None if log is None else str(log.directory),
        sample_ratio=0.0 if log is None else log.sample_ratio,
        servers=tuple(
            _describe_server(server, now_s, device_classes.get(server.name)) for server in fleet.servers.values()
        ),
        families=tuple(families),
        standing=live.standing,
    )


def _describe_server(server: ServerConnection, now_s: float, device_class: str | None) -> ServerOverview:
    health = server.health
    condition: ServerCondition
    if health.problem is not None:
        condition, reason = "down", health.problem.removeprefix(f"server {server.name}: ")
    elif health.ejected_until_s is not None:
        left_s = max(0.0, health.ejected_until_s - now_s)
        condition, reason = "ejected", f"it failed or was far too slow; left out for {left_s:.0f} s more"
    elif health.is_suspect:
        condition, reason = "suspect", "a batch is overdue and nothing else was answered since it was sent"
    else:
        condition, reason = "up", ""
    served = () if health.problem is not None else server.served
    instances: dict[int, int] = {}
    for model in served:
        instances[model.width] = instances.get(model.width, 0) + model.instances
    left_out = {*health.suspended, *health.suspects} & {model.name for model in served}
    return ServerOverview(
        server.name,
        condition,
        reason,
        len(served),
        tuple(sorted(left_out)),
        tuple(sorted(instances.items())),
        device_class=device_class,
    )


def _describe_width(fleet: Fleet, width: int, served: list[tuple[ServerConnection, ServedModel]]) -> WidthOverview:
    times_s, joules = [], []
    for server, model in served:
        per_item_s, fixed_s = fleet.times.latency.line(server.name, model, server.models_of(model.family))
        if per_item_s + fixed_s > 0:  # 0 is a guess about what has never run
            times_s.append(per_item_s + fixed_s)
        if (line := fleet.times.energy.line(server.name, model.name)) is not None:
            joules.append(line.of_batch(1))
    return WidthOverview(
        width=width,
        quality=served[0][1].accuracy,
        servers=len(served),
        instances=sum(model.instances for _, model in served),
        item_s=min(times_s, default=None),
        item_j=min(joules, default=None),
    )


@dataclass(frozen=True, slots=True)
class ServerInspection:
    """One server as a router sees it.

    Attributes:
        is_healthy: Whether it answered when it was last asked, and is not ejected.
        is_suspect: Whether it has an overdue batch, and has answered nothing since that was sent.
        awaited_batches: The number of batches sent to it whose answers are awaited.
        calls: The number of calls under way to it, those that nobody waits for any more included.
    """

    is_healthy: bool
    is_suspect: bool
    awaited_batches: int
    calls: int


@dataclass(frozen=True, slots=True)
class RouterInspection:
    """What a router holds at one moment: for tests, and for whoever looks for what is stuck.

    Attributes:
        batches_under_way: The number of batches that were sent and have not ended, those given up included.
        batches_given_up: The number of batches under way that nobody waits for any more.
        policies: The names of the policy, of its fallback and of the shadow policy, which is empty where there is none.
        standing: What is in force since when and why, and what is to follow it.
        latency: What batches are expected to take, from all that was observed so far.
        energy: What batches cost in joules, as far as the profile knows.
    """

    backlog: Backlog
    batches_under_way: int
    batches_given_up: int
    servers: Mapping[ServerName, ServerInspection]
    suspects: frozenset[ServerName]
    policies: tuple[str, str, str]
    standing: Standing
    latency: LatencyTable
    energy: EnergyTable


def inspect_router(queues: RequestQueues, dispatcher: Dispatcher, fleet: Fleet) -> RouterInspection:
    """Return what a router of these parts holds now."""
    guarded, shadow = dispatcher.deciders.policies[False], dispatcher.deciders.shadow
    return RouterInspection(
        backlog=replace(queues.backlog),
        batches_under_way=dispatcher.sender.under_way,
        batches_given_up=dispatcher.sender.given_up,
        servers={
            name: ServerInspection(
                server.health.is_healthy, server.health.is_suspect, len(server.in_flight), server.calls
            )
            for name, server in fleet.servers.items()
        },
        suspects=fleet.suspects,
        policies=(guarded.policy.name, guarded.fallback.name, "" if shadow is None else shadow.policy.name),
        standing=dispatcher.live.standing,
        latency=fleet.times.latency,
        energy=fleet.times.energy,
    )
