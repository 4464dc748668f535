"""Rows, their order and their words, from documents as the gateway makes them."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.top.tables import TABLES, cells, figures, headline, say_alerts, sort_rows
from tests.top.documents import busy_document


@given(st.lists(st.none() | st.floats(0, 1e6), max_size=12), st.booleans())
def test_rows_are_sorted_and_what_is_unknown_is_last(powers_w: list[float | None], descending: bool) -> None:
    document = {
        "servers": [{"name": f"s{n}", "controller": {"power_w": power_w}} for n, power_w in enumerate(powers_w)]
    }
    power = next(n for n, column in enumerate(TABLES["servers"].columns) if column.title == "power")
    found = [
        row["controller"]["power_w"] for row in sort_rows(TABLES["servers"], document, power, descending=descending)
    ]
    known = sorted((power_w for power_w in powers_w if power_w is not None), reverse=descending)
    assert found == known + [None] * (len(powers_w) - len(known))


@pytest.mark.parametrize("name", sorted(TABLES))
async def test_every_row_can_be_said_and_sorted_by_each_column(name: str) -> None:
    document, table = await busy_document(), TABLES[name]
    rows = list(table.rows(document))
    assert len({table.key(row) for row in rows}) == len(rows) > 0
    for row in rows:
        assert all(cells(table, row))
        assert table.detail(row)
    for by in range(len(table.columns)):
        assert len(sort_rows(table, document, by, descending=True)) == len(rows)


async def test_the_lines_above_say_what_the_page_says() -> None:
    document = await busy_document()
    assert headline(document) == f"ready · lert:brownout · 1 process · {document['version']}"
    assert f"p95 {document['traffic']['latency_p95_s'] * 1e3:.3g} ms" in figures(document)
    assert "82.6 W" in figures(document)


async def test_failed_requests_and_who_drives_a_server_are_shown() -> None:
    document = await busy_document()
    document["families"][0] |= {"sent_per_s": 50.0, "failed_per_s": 1.0}
    document["servers"][0]["driver"], document["servers"][1]["driver"] = "gateway-1", ""

    def values(name: str, title: str) -> list[str]:
        index = [column.title for column in TABLES[name].columns].index(title)
        return [cells(TABLES[name], row)[index] for row in TABLES[name].rows(document)]

    assert values("families", "failed") == ["2.0%"]
    assert values("servers", "state") == ["ejected · gateway-1", "up · nobody"]


async def test_gateways_that_share_the_fleet_are_counted_and_a_servers_joules_told() -> None:
    document = await busy_document()
    document["gateways"] = ["one", "two"]
    server = document["servers"][1]
    server["controller"] |= {"idle_w": 21.5, "idle_j": 9300.0, "request_j": {"w025": 0.0021, "w100": 0.015}}
    assert " · 1 process · 2 gateways · " in headline(document)
    assert TABLES["servers"].detail(server) == "idle 21.5 W, 9,300 J so far\nw025 0.0021, w100 0.015 J a request"


async def test_of_what_a_width_has_run_the_part_in_time_is_told() -> None:
    [family] = (await busy_document())["families"]
    family["widths"] = [w | {"answered_per_s": 3.0 * n, "late_per_s": 1.0 * n} for n, w in enumerate(family["widths"])]
    idle, *busy = TABLES["families"].detail(family).splitlines()
    assert "in time" not in idle
    assert busy
    assert all(line.endswith(", 75% in time") for line in busy)


def test_alerts_beyond_those_that_fit_are_counted() -> None:
    alerts = [{"text": f"alert {n}"} for n in range(5)]
    assert say_alerts({"alerts": alerts[:3]}, 3) == "alert 0\nalert 1\nalert 2"
    assert say_alerts({"alerts": alerts}, 3) == "alert 0\nalert 1\nand 3 more"


async def test_a_gateway_that_is_not_ready_says_why() -> None:
    document: dict[str, Any] = await busy_document() | {"unready": "no server answers"}
    assert headline(document).startswith("NOT READY: no server answers")
    assert "no router yet" in headline(document | {"policy": None})
