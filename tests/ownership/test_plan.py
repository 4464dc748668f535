"""The plan of who drives what, as it follows gateways, servers and backlogs."""

from __future__ import annotations

from collections.abc import Mapping

from orchestrator.ownership import NOTHING, GatewayLoad, GatewayName, Plan, assign, plan_drivers
from orchestrator.snapshot import ServerName

A, B = GatewayName("a"), GatewayName("b")
SERVERS = {ServerName(f"s{n}"): 100.0 for n in range(4)}


def driving(plan: Plan, backlogs: Mapping[GatewayName, float]) -> dict[GatewayName, GatewayLoad]:
    """Return the loads of gateways that drive what they are to drive."""
    return {
        gateway: GatewayLoad(items, items, {s: SERVERS[s] for s, driver in plan.drivers.items() if driver == gateway})
        for gateway, items in backlogs.items()
    }


def test_a_plan_is_the_hashs_when_gateways_or_servers_come_and_go() -> None:
    idle = {name: GatewayLoad(0.0, 0.0, {}) for name in (A, B)}
    plan = plan_drivers(NOTHING, idle, SERVERS, now_s=0.0)
    assert plan.drivers == assign(SERVERS, [A, B])
    alone = plan_drivers(plan, {B: GatewayLoad(0.0, 0.0, {})}, SERVERS, now_s=1.0)
    assert set(alone.drivers.values()) == {B}
    fewer = dict(list(SERVERS.items())[:1])
    assert plan_drivers(plan, idle, fewer, now_s=1.0).drivers == assign(fewer, [A, B])


def test_a_server_moves_to_who_has_had_much_more_to_do_for_a_while_and_no_other_does_so_soon() -> None:
    plan = plan_drivers(NOTHING, driving(NOTHING, {A: 0.0, B: 0.0}), SERVERS, now_s=0.0)
    moved_s = []
    for step in range(30):
        before = plan.drivers
        plan = plan_drivers(plan, driving(plan, {A: 500.0, B: 0.0}), SERVERS, now_s=step * 0.1)
        if plan.drivers != before:
            moved_s.append(step * 0.1)
    assert list(plan.drivers.values()).count(A) == 3
    assert len(moved_s) == 1
    assert moved_s[0] >= 1.0


def test_nothing_moves_before_what_was_planned_has_come_about() -> None:
    plan = plan_drivers(NOTHING, driving(NOTHING, {A: 0.0, B: 0.0}), SERVERS, now_s=0.0)
    loads = driving(plan, {A: 500.0, B: 0.0})
    loads[B] = GatewayLoad(0.0, 0.0, {})
    for step in range(30):
        assert plan_drivers(plan, loads, SERVERS, now_s=step * 0.1).drivers == plan.drivers
