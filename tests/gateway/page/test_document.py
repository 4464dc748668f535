"""The page's document as a function of what was observed, and what it says needs attention."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from orchestrator.gateway.page.document import FAMILIES_SHOWN, JOULES_SHOWN, describe
from orchestrator.gateway.page.observed import Controller, Decision, Observed
from orchestrator.gateway.page.traffic import Traffic, compare, read_snapshot
from orchestrator.router import FleetOverview, merge_overviews
from orchestrator.snapshot import ServerName
from tests.gateway.page.fleets import (
    Gateway,
    controller_status,
    family_overview,
    fleet_overview,
    server_overview,
)


async def traffic_of(gateway: Gateway, seconds: float = 10.0) -> Traffic:
    empty = await Gateway().read_metrics()
    metrics = await gateway.read_metrics()
    return compare(read_snapshot(empty, 100.0, 100.0), read_snapshot(metrics, 100.0 + seconds, 100.0 + seconds))


def observed(**changes: Any) -> Observed:
    values: dict[str, Any] = {
        "version": "1.2.3",
        "unready": None,
        "overview": fleet_overview(),
        "controllers": {},
        "decisions": None,
    }
    return Observed(**{**values, **changes})


async def document_of(gateway: Gateway | None = None, *, find: str = "", **changes: Any) -> dict[str, Any]:
    found = describe(await traffic_of(gateway or Gateway()), observed(**changes), find=find)
    decoded: dict[str, Any] = orjson.loads(orjson.dumps(found))  # as a browser has it
    return decoded


async def alerts_of(gateway: Gateway | None = None, **changes: Any) -> list[tuple[str, str]]:
    found = await document_of(gateway, **changes)
    return [(alert["level"], alert["text"]) for alert in found["alerts"]]


async def test_servers_and_families_have_what_was_answered_by_them() -> None:
    gateway = Gateway()
    gateway.end("ok", 30, width=50, server="edge-0")
    gateway.end("ok", 10, width=100, server="edge-1")
    gateway.end("shed", 5)
    gateway.metrics.router.on_sent(ServerName("edge-1"), 100, 8)  # type: ignore[arg-type]
    found = await document_of(gateway)
    assert {s["name"]: (s["answered_per_s"], s["batches_in_flight"]) for s in found["servers"]} == {
        "edge-0": (3.0, 0.0),
        "edge-1": (1.0, 1.0),
    }
    [family] = found["families"]
    assert (family["name"], family["sent_per_s"], family["refused_per_s"]) == ("fashion", 4.5, 0.5)
    assert [(w["width"], w["answered_per_s"], w["quality"]) for w in family["widths"]] == [
        (25, 0.0, 0.905),
        (50, 3.0, 0.917),
        (75, 0.0, 0.924),
        (100, 1.0, 0.928),
    ]


async def test_what_was_late_is_told_of_the_width_that_had_it() -> None:
    gateway = Gateway()
    gateway.end("ok", 30, width=50, server="edge-0")
    gateway.end("deadline", 10, width=50, server="edge-0")
    gateway.end("deadline", 20)  # never sent
    [family] = (await document_of(gateway))["families"]
    assert family["late_per_s"] == 3.0
    assert {w["width"]: (w["answered_per_s"], w["late_per_s"]) for w in family["widths"]} == {
        **dict.fromkeys((25, 75, 100), (0.0, 0.0)),
        50: (3.0, 1.0),
    }


async def test_before_anything_is_known_there_is_a_document_all_the_same() -> None:
    found = await document_of(overview=None, unready="no server has a model ready")
    assert (found["policy"], found["servers"], found["families"]) == (None, [], [])
    assert found["traffic"]["latency_p95_s"] is None
    assert found["alerts"][0]["text"] == "Not ready: no server has a model ready"


async def test_of_a_thousand_families_the_busiest_are_shown_and_each_can_be_found() -> None:
    gateway = Gateway()
    gateway.end("ok", 3, family="family-0977", width=25)
    overview = fleet_overview(families=tuple(family_overview(f"family-{n:04}") for n in range(1000)))
    found = await document_of(gateway, overview=overview)
    assert (len(found["families"]), found["families_found"], found["families_total"]) == (FAMILIES_SHOWN, 1000, 1000)
    assert found["families"][0]["name"] == "family-0977"
    assert len(orjson.dumps(found)) < 64_000
    narrowed = await document_of(gateway, overview=overview, find="LY-0123")
    assert [family["name"] for family in narrowed["families"]] == ["family-0123"]


async def test_models_that_are_passed_through_are_shown_without_widths() -> None:
    gateway = Gateway()
    gateway.end("ok", 20, family="plus")
    gateway.end("not_found", 3, family="")  # nobody knows that one
    names = {family["name"]: len(family["widths"]) for family in (await document_of(gateway))["families"]}
    assert names == {"plus": 0, "fashion": 4}


async def test_power_is_that_of_all_servers_or_unknown_with_the_reason() -> None:
    gateway = Gateway()
    gateway.end("ok", 100, width=50, server="edge-0")
    known = {name: Controller(controller_status(name)) for name in ("edge-0", "edge-1")}
    energy = (await document_of(gateway, controllers=known))["energy"]
    assert (energy["power_w"], energy["j_per_answer"]) == (82.6, 8.26)
    del known["edge-1"]
    energy = (await document_of(gateway, controllers=known))["energy"]
    assert energy == {"power_w": None, "j_per_answer": None, "reason": "no reading of edge-1"}


async def test_a_servers_idle_power_and_joules_a_request_are_those_of_its_controller() -> None:
    models = [{"label": f"w{n}", "request_j": n or None} for n in range(99)]
    known = controller_status("edge-0", idle_w=20.5, idle_j=900.0, models=[*models, 7, {"request_j": "x"}])
    controllers = {"edge-0": Controller(known), "edge-1": Controller(controller_status("edge-1"))}
    first, second = [s["controller"] for s in (await document_of(controllers=controllers))["servers"]]
    assert (first["idle_w"], first["idle_j"]) == (20.5, 900.0)
    assert first["request_j"] == {f"w{n}": n for n in range(1, 1 + JOULES_SHOWN)}
    assert (second["idle_w"], second["request_j"]) == (None, {})


async def test_actions_of_all_controllers_are_told_newest_first_with_reason_and_numbers() -> None:
    controllers = {name: Controller(controller_status(name)) for name in ("edge-0", "edge-1")}
    actions = (await document_of(controllers=controllers))["actions"]
    assert [(a["server"], a["model"], a["reason"], a["error"]) for a in actions[:3]] == [
        ("edge-0", "fashion_w075", "busy", "out of memory"),
        ("edge-1", "fashion_w075", "busy", "out of memory"),
        ("edge-0", "fashion_w050", "busy", None),
    ]
    assert actions[0]["numbers"]["busy_ratio"] == 0.93


@pytest.mark.parametrize("ahead_s", [-300.0, 300.0])
async def test_what_a_controller_did_is_as_old_as_its_own_clock_says(ahead_s: float) -> None:
    now_unix_s = 110.0  # of the document
    clocks_s = {"edge-0": now_unix_s, "edge-1": now_unix_s + ahead_s}
    controllers = {
        name: Controller(controller_status(name, at_s, unix_s=at_s - 0.5, age_s=0.5)) for name, at_s in clocks_s.items()
    }
    actions = (await document_of(controllers=controllers))["actions"]
    assert [(a["server"], a["ago_s"]) for a in actions[:3]] == [("edge-0", 31.0), ("edge-1", 31.0), ("edge-0", 95.0)]
    earlier = {"edge-1": Controller(controller_status("edge-1", now_unix_s + ahead_s))}
    [newest, *_] = (await document_of(controllers=earlier))["actions"]
    assert newest["ago_s"] == 31.0 - ahead_s


@pytest.mark.parametrize(
    "status",
    [{}, {"memory": None, "actions": None}, {"actions": [7, {"action": None}], "power_w": 3, "notices": "none"}],
)
async def test_a_controller_of_another_version_is_shown_as_far_as_it_is_understood(status: dict[str, Any]) -> None:
    found = await document_of(controllers={"edge-0": Controller(status)})
    assert found["servers"][0]["controller"]["power_w"] is None
    assert found["actions"] == []


async def test_decisions_are_told_apart_from_there_being_no_log() -> None:
    decision = Decision("a93a3a-1", 5.0, "fashion", "4 to edge-0 at 50 %: drawn by lot", ("one", "two"))
    found = (await document_of(decisions=[decision]))["decisions"]
    assert (found["is_written"], found["entries"][0]["lines"]) == (True, ["one", "two"])
    assert (await document_of())["decisions"]["is_written"] is False


async def test_a_fleet_in_which_all_is_well_needs_no_attention() -> None:
    gateway = Gateway()
    gateway.end("ok", 1000, width=50, server="edge-0")
    gateway.end("invalid", 50)  # mistakes of callers are theirs
    assert await alerts_of(gateway) == []


async def test_what_is_bad_is_told_before_what_is_worth_a_look() -> None:
    gateway = Gateway()
    gateway.end("ok", 90, width=50, server="edge-0")
    gateway.end("unavailable", 1)
    gateway.end("shed", 9)
    overview = fleet_overview(
        is_paused=True,
        servers=(
            server_overview("a", condition="down", reason="failed to connect"),
            server_overview("b", left_out=("fashion_w025", "fashion_w050", "fashion_w075", "fashion_w100")),
            server_overview("c", condition="suspect", reason="a batch is overdue"),
        ),
    )
    controllers = {"b": Controller(None, "no answer"), "c": Controller({"trouble": "Triton is away"})}
    assert await alerts_of(gateway, overview=overview, controllers=controllers) == [
        ("bad", "1.0 % of the requests end failed"),
        ("bad", "Policy lert:brownout failed too often; lert:reserve decides for now"),
        ("bad", "Server a is down: failed to connect"),
        ("warn", "9.0 % of the requests end refused"),
        ("warn", "Controller of b: no answer"),
        ("warn", "Controller of c: Triton is away"),
        ("warn", "Server b gets nothing for fashion_w025, fashion_w050, fashion_w075 and 1 more"),
        ("warn", "Server c is suspect: a batch is overdue"),
    ]


async def test_what_needs_attention_keeps_its_key_while_its_numbers_change() -> None:
    def keys_of(found: dict[str, Any]) -> list[str]:
        return [alert["key"] for alert in found["alerts"]]

    found, texts = [], []
    for failed in (1, 2):
        gateway = Gateway()
        gateway.end("ok", 90, width=50, server="edge-0")
        gateway.end("unavailable", failed)
        servers = tuple(server_overview(name, condition="down", reason=f"for {failed} s") for name in ("a-1", "a-2"))
        controllers = {"a-1": Controller(None, f"no answer for {failed} s")}
        document = await document_of(gateway, overview=fleet_overview(servers=servers), controllers=controllers)
        found.append(keys_of(document))
        texts.append({alert["text"] for alert in document["alerts"]})
    assert not texts[0] & texts[1]
    assert found[0] == found[1] == ["failed", "server a-1", "server a-2", "controller a-1"]


async def test_of_a_shared_fleet_it_is_told_who_drives_each_server_and_which_nobody_does() -> None:
    servers = (server_overview("a", driver="gateway-0"), server_overview("b", driver=""))
    overview = fleet_overview(servers=servers, gateways=("gateway-0", "gateway-1"))
    found = await document_of(overview=overview)
    assert [server["driver"] for server in found["servers"]] == ["gateway-0", ""]
    assert found["gateways"] == ["gateway-0", "gateway-1"]
    assert await alerts_of(overview=overview) == [("bad", "No gateway sends anything to server b")]
    other = fleet_overview(servers=(server_overview("a", driver=""), server_overview("b", driver="gateway-1")))
    merged = merge_overviews([overview, other])
    assert merged is not None
    assert [server.driver for server in merged.servers] == ["gateway-0", "gateway-1"]


async def test_fallbacks_are_told_with_their_commonest_reason() -> None:
    gateway = Gateway()
    for reason in ("slow", "raised", "raised"):
        gateway.metrics.router.on_fallback(reason)
    assert await alerts_of(gateway) == [
        ("warn", "lert:reserve decided in place of lert:brownout, 3 times in 10 s: raised")
    ]
    policy = (await document_of(gateway))["policy"]
    assert policy["fallbacks"] == [{"reason": "raised", "per_s": 0.2}, {"reason": "slow", "per_s": 0.1}]


def test_overviews_of_processes_are_one_with_the_worst_of_each_server() -> None:
    down = fleet_overview(servers=(server_overview("a", condition="down", reason="away"), server_overview("b")))
    merged = merge_overviews([fleet_overview(servers=(server_overview("a"), server_overview("b"))), down])
    assert isinstance(merged, FleetOverview)
    assert [(s.name, s.condition) for s in merged.servers] == [("a", "down"), ("b", "up")]
    assert merge_overviews([]) is None
