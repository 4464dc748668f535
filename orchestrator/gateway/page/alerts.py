"""What somebody should look at now, in words: the top of the status page.

Each says what is wrong and names the section of the page that shows more of it. They rest on half a minute, so they
come and go with what they tell of; rules for Prometheus, which wait and wake people, are another matter.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final, Literal

from orchestrator.gateway.page.observed import Controller, Observed
from orchestrator.gateway.page.traffic import End, Traffic
from orchestrator.router import FleetOverview, ServerOverview

Level = Literal["bad", "warn"]
_MANY: Final = 0.01
"""Part of the requests that is worth a word when it ends otherwise than answered."""
_UNWANTED: Final[Mapping[End, tuple[Level, float]]] = {
    "failed": ("bad", 0.0),
    "late": ("bad", _MANY),
    "refused": ("warn", _MANY),
}
"""Of each end that nobody wants: how bad it is, and the part of the requests above which it is told."""


@dataclass(frozen=True, slots=True)
class Alert:
    """One line.

    Attributes:
        section: The id of the section that says more.
        key: What it is about, which stays while the text changes; no two have the same.
    """

    level: Level
    text: str
    section: str
    key: str


def find_alerts(traffic: Traffic, observed: Observed) -> list[Alert]:
    """Return what is wrong now, the worst first."""
    found = [
        *([] if observed.unready is None else [Alert("bad", f"Not ready: {observed.unready}", "servers", "ready")]),
        *_of_traffic(traffic),
        *_of_processes(traffic),
        *_of_controllers(observed.controllers),
    ]
    if observed.overview is not None:
        found += [*_of_policy(traffic, observed.overview), *_of_servers(observed.overview.servers)]
    return sorted(found, key=lambda alert: alert.level)  # "bad" comes before "warn"


def _of_traffic(traffic: Traffic) -> Iterator[Alert]:
    rates = traffic.total
    sent_per_s = sum(rates.values())
    for end, (level, most) in _UNWANTED.items():
        if sent_per_s and (part := rates[end] / sent_per_s) > most:
            yield Alert(level, f"{part * 100:.1f} % of the requests end {end}", "traffic", end)


def _of_processes(traffic: Traffic) -> Iterator[Alert]:
    if traffic.counted["slim_gateway_worker_restarts"]:
        yield Alert("bad", "A worker process died and was started again", "traffic", "worker")
    for (task,) in traffic.counted["slim_background_failures"]:
        text = f"{task.capitalize()} failed unexpectedly and began again; the log says why"
        yield Alert("bad", text, "traffic", f"task {task}")


def _of_policy(traffic: Traffic, overview: FleetOverview) -> Iterator[Alert]:
    fallbacks = traffic.counted["slim_router_fallbacks"]
    if overview.is_paused:
        text = f"Policy {overview.policy} failed too often; {overview.fallback} decides for now"
        yield Alert("bad", text, "policy", "policy")
    elif fallbacks:
        count, (reason,) = sum(fallbacks.values()), max(fallbacks, key=fallbacks.__getitem__)
        often = f"{count:,.0f} times in {traffic.seconds:.0f} s"
        text = f"{overview.fallback} decided in place of {overview.policy}, {often}: {reason}"
        yield Alert("warn", text, "policy", "policy")


def _of_servers(servers: Sequence[ServerOverview]) -> Iterator[Alert]:
    for server in servers:
        told = partial(Alert, section="servers", key=f"server {server.name}")
        if server.condition != "up":
            level: Level = "warn" if server.condition == "suspect" else "bad"
            yield told(level, f"Server {server.name} is {server.condition}: {server.reason}")
        elif server.driver == "":
            yield told("bad", f"No gateway sends anything to server {server.name}")
        elif server.left_out:
            yield told("warn", f"Server {server.name} gets nothing for {name_some(server.left_out)}")


def _of_controllers(controllers: Mapping[str, Controller]) -> Iterator[Alert]:
    for name, controller in sorted(controllers.items()):
        trouble = controller.reason if controller.status is None else controller.status.get("trouble")
        if trouble:
            yield Alert("warn", f"Controller of {name}: {trouble}", "servers", f"controller {name}")


def name_some(names: Sequence[str]) -> str:
    """Return the first of some names, and how many more there are."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
