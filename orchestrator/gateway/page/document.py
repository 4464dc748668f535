"""The status page's document: one JSON object of all that the page shows, as a pure function of what was observed.

Lists are bounded, because a fleet may serve a thousand families and a browser should show them as soon as three: of
families the busiest, of servers those in trouble first, with how many were left out. ``find`` narrows families down by
a part of their name, so that each can be seen. Keys end in their units; what is unknown is null, never 0. A controller
may be of another version, so that of its document only what is there is taken. Its clock may be minutes from this one:
ages of what it did are reckoned on its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from orchestrator.gateway.page.alerts import find_alerts, name_some
from orchestrator.gateway.page.observed import Controller, Observed, number_of
from orchestrator.gateway.page.traffic import ENDS, End, Rates, Traffic
from orchestrator.router import FamilyOverview, FleetOverview, ServerOverview

FAMILIES_SHOWN = 50
SERVERS_SHOWN = 100
ACTIONS_SHOWN = 30
JOULES_SHOWN = 8
_RAN: Sequence[End] = ("answered", "late")
"""Ends of requests that a width has run."""

Document = dict[str, Any]


def describe(traffic: Traffic, observed: Observed, *, find: str = "") -> Document:
    """Return the document; of families only those whose name contains ``find``, in any case."""
    servers = observed.overview.servers if observed.overview is not None else ()
    return {
        "unix_s": traffic.now.at_unix_s,
        "version": observed.version,
        "window_s": traffic.seconds,
        "workers": traffic.now.gauges["slim_gateway_workers"],
        "gateways": list(observed.overview.gateways) if observed.overview is not None else [],
        "unready": observed.unready,
        "alerts": [asdict(alert) for alert in find_alerts(traffic, observed)],
        "traffic": _traffic(traffic),
        "energy": _energy(traffic, observed, servers),
        "policy": _policy(traffic, observed.overview),
        **_servers(traffic, observed, servers),
        **_families(traffic, observed.overview, find.casefold()),
        "actions": _actions(observed.controllers, traffic.now.at_unix_s),
        "decisions": _decisions(observed),
    }


def _ends(rates: Rates) -> Document:
    return {"sent_per_s": sum(rates.values()), **{f"{end}_per_s": rates[end] for end in ENDS}}


def _traffic(traffic: Traffic) -> Document:
    gauges = traffic.now.gauges
    return {
        **_ends(traffic.total),
        **{f"latency_p{percent}_s": traffic.quantile_s(percent / 100) for percent in (50, 95, 99)},
        "queue_p95_s": traffic.queue_quantile_s(0.95),
        "in_flight": gauges["slim_gateway_in_flight"],
        "queue_requests": gauges["slim_router_queue_requests"],
        "queue_items": gauges["slim_router_queue_items"],
        "per_s_by_width": traffic.widths,
        "sheds": _by_reason(traffic, "slim_router_sheds"),
    }


def _by_reason(traffic: Traffic, name: str) -> list[Document]:
    found = sorted(traffic.counted[name].items(), key=lambda item: (-item[1], item[0]))
    return [{"reason": labels[0], "per_s": count / traffic.seconds} for labels, count in found]


def _policy(traffic: Traffic, overview: FleetOverview | None) -> Document | None:
    if overview is None:
        return None
    return {
        "name": overview.policy,
        "fallback": overview.fallback,
        "shadow": overview.shadow,
        "is_paused": overview.is_paused,
        "standing": None if overview.standing is None else asdict(overview.standing),
        "decisions_per_s": sum(traffic.policy) / traffic.seconds,
        "p50_s": traffic.policy_quantile_s(0.5),
        "p99_s": traffic.policy_quantile_s(0.99),
        "fallbacks": _by_reason(traffic, "slim_router_fallbacks"),
        "shadow_outcomes": _by_reason(traffic, "slim_router_shadow_decisions"),
    }


def _energy(traffic: Traffic, observed: Observed, servers: Sequence[ServerOverview]) -> Document:
    """Return what the servers draw together, and that over answers; null with a reason unless it is known of all."""
    statuses = {name: controller.status for name, controller in observed.controllers.items()}
    powers_w = {server.name: number_of(statuses.get(server.name), "power_w", "value") for server in servers}
    unknown = [name for name, power_w in powers_w.items() if power_w is None]
    if unknown or not powers_w:
        reason = f"no reading of {name_some(unknown) or 'any server'}"
        return {"power_w": None, "j_per_answer": None, "reason": reason}
    power_w, answered_per_s = sum(filter(None, powers_w.values())), traffic.total["answered"]
    return {"power_w": power_w, "j_per_answer": power_w / answered_per_s if answered_per_s else None, "reason": ""}


def _servers(traffic: Traffic, observed: Observed, servers: Sequence[ServerOverview]) -> Document:
    rates = traffic.rates(lambda cell: cell.server)
    shown = sorted(servers, key=lambda server: (server.condition == "up", server.name))[:SERVERS_SHOWN]
    in_flight = traffic.now.batches_in_flight
    return {
        "servers": [
            {
                **asdict(server),
                "answered_per_s": rates[server.name]["answered"] if server.name in rates else 0.0,
                "batches_in_flight": in_flight.get(server.name, 0.0),
                "controller": _controller(observed.controllers.get(server.name)),
            }
            for server in shown
        ],
        "servers_total": len(servers),
    }


def _controller(controller: Controller | None) -> Document | None:
    if controller is None:
        return None
    status = controller.status or {}
    return {
        "reason": controller.reason,
        "trouble": status.get("trouble"),
        "utilisation_ratio": number_of(status, "utilisation_ratio", "value"),
        "power_w": number_of(status, "power_w", "value"),
        "used_bytes": number_of(status, "memory", "used_bytes", "value"),
        "budget_bytes": number_of(status, "memory", "budget_bytes"),
        **_pick(status, "idle_w", "idle_j"),
        "request_j": _request_j(status),
        "notices": [_pick(notice, "kind", "model", "numbers", "detail") for notice in _rows(status, "notices")],
        "refusals": [
            _pick(refusal, "kind", "model", "reason", "numbers", "detail") for refusal in _rows(status, "refusals")
        ],
    }


def _request_j(status: Mapping[str, Any]) -> dict[str, float]:
    """Return what a request draws above idle by model, of some models for which it is known."""
    joules = {str(row.get("label")): row.get("request_j") for row in _rows(status, "models")}
    known = {label: value for label, value in joules.items() if isinstance(value, int | float)}
    return dict(list(known.items())[:JOULES_SHOWN])


def _rows(status: Mapping[str, Any], key: str) -> list[Mapping[str, Any]]:
    rows = status.get(key)
    return [row for row in rows if isinstance(row, Mapping)] if isinstance(rows, list) else []


def _pick(row: Mapping[str, Any], *keys: str) -> Document:
    return {key: row.get(key) for key in keys}


def _actions(controllers: Mapping[str, Controller], now_unix_s: float) -> list[Document]:
    """Return what all controllers did last, newest first."""
    found = []
    for server, controller in controllers.items():
        asked_unix_s = _asked_unix_s(controller.status or {}, now_unix_s)
        for done in _rows(controller.status or {}, "actions"):
            action = done.get("action")
            if isinstance(action, Mapping) and isinstance(done.get("ended_unix_s"), int | float):
                told = _pick(action, "kind", "model", "reason", "instances", "numbers")
                found.append({"server": server, **told, **_pick(done, "ended_unix_s", "took_s", "error")})
                found[-1]["is_under_way"] = bool(done.get("is_under_way"))
                found[-1]["ago_s"] = asked_unix_s - done["ended_unix_s"]
    return sorted(found, key=lambda done: (done["ago_s"], done["server"]))[:ACTIONS_SHOWN]


def _asked_unix_s(status: Mapping[str, Any], now_unix_s: float) -> float:
    """Return when a controller was asked, by its own clock; by this one where its version does not say."""
    unix_s, age_s = number_of(status, "unix_s"), number_of(status, "age_s")
    return now_unix_s if unix_s is None or age_s is None else unix_s + age_s


def _families(traffic: Traffic, overview: FleetOverview | None, find: str) -> Document:
    rates = traffic.rates(lambda cell: cell.family)
    by_width = traffic.rates(lambda cell: (cell.family, cell.width))
    known: dict[str, FamilyOverview | None] = dict.fromkeys(filter(None, rates))  # also models that are passed through
    known |= {family.name: family for family in (overview.families if overview is not None else ())}
    found = {name: sum(rates.get(name, {}).values()) for name in known if find in name.casefold()}
    shown = sorted(found, key=lambda name: (-found[name], name))[:FAMILIES_SHOWN]
    nothing: Rates = dict.fromkeys(ENDS, 0.0)
    return {
        "families": [
            {
                "name": name,
                **_ends(rates.get(name, nothing)),
                "latency_p95_s": traffic.quantile_s(0.95, name),
                "widths": [
                    {
                        **asdict(width),
                        **{f"{end}_per_s": by_width.get((name, str(width.width)), nothing)[end] for end in _RAN},
                    }
                    for width in (family.widths if family is not None else ())
                ],
            }
            for name, family in ((name, known[name]) for name in shown)
        ],
        "families_found": len(found),
        "families_total": len(known),
    }


def _decisions(observed: Observed) -> Document:
    overview = observed.overview
    return {
        "is_written": observed.decisions is not None,
        "sample_ratio": None if overview is None else overview.sample_ratio,
        "entries": [asdict(decision) for decision in observed.decisions or ()],
    }
