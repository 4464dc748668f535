"""The dashboards' files are what the tool writes, and what Grafana takes."""

from __future__ import annotations

import json

import pytest

from tests.deploy.charts import find, render
from tools.grafana import DASHBOARDS, FOLDER, render_dashboard


@pytest.mark.parametrize("name", DASHBOARDS)
def test_the_file_is_what_the_tool_writes(name: str) -> None:
    assert (FOLDER / f"{name}.json").read_text() == render_dashboard(name), "run: python -m tools.grafana"


@pytest.mark.parametrize("name", DASHBOARDS)
def test_panels_have_a_place_of_their_own(name: str) -> None:
    places = [panel["gridPos"] for panel in json.loads(render_dashboard(name))["panels"]]
    taken = {(x, y) for p in places for x in range(p["x"], p["x"] + p["w"]) for y in range(p["y"], p["y"] + p["h"])}
    assert len(taken) == sum(place["w"] * place["h"] for place in places)
    assert max(x for x, _ in taken) < 24


def test_the_chart_brings_them_to_grafanas_sidecar() -> None:
    found = find(render("scaled"), "ConfigMap", "-dashboards")
    assert found["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert {name: json.loads(text)["title"] for name, text in found["data"].items()} == {
        f"{name}.json": title for name, (title, _) in DASHBOARDS.items()
    }
