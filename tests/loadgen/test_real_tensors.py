"""An imported family of several inputs and outputs, whose items vary in shape, under load and in a profile."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import yaml
from click.testing import CliRunner

from orchestrator.cli import main
from orchestrator.config import FleetSettings, ServerSettings, render_fleet
from orchestrator.embedded.server import EmbeddedOptions
from orchestrator.profile.document import read_profile
from tests.export.importing.networks import pair, slimsched_import
from tests.tritons import Tritons

pytestmark = pytest.mark.integration

IDS = np.arange(12).reshape(4, 3)
ITEMS = {"ids": IDS, "hidden": np.zeros((4, 3), bool)}


@pytest.fixture(scope="module")
def fleet_path(tmp_path_factory: pytest.TempPathFactory, tritons: Tritons) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("pairs")
    (folder / "pair.onnx").write_bytes(pair().SerializeToString())
    result = slimsched_import(
        "--family", "pairs", "--variant", f"50={folder / 'pair.onnx'}", "--variant", f"100={folder / 'pair.onnx'}",
        "--quality", "50=37.4,100=50.2", "--shape", "ids=7", "--shape", "hidden=7", "--max-batch-size", "2",
        "--repository", folder / "models",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    # Three of four numbers are right, and one is off by as much as the labels are on average.
    labels = IDS + 1.0
    labels[0, 0] += 3 * np.abs(labels - labels.mean(axis=0)).mean()
    np.savez(folder / "labelled.npz", **ITEMS, labels=labels)  # type: ignore[arg-type]
    np.savez(folder / "items.npz", **ITEMS)  # type: ignore[arg-type]
    with tritons.running(folder / "models", EmbeddedOptions()) as server:
        settings = ServerSettings(name="here", grpc=server.grpc_address, metrics=server.metrics_url)
        (folder / "http").write_text(server.http_address)
        (folder / "fleet.yaml").write_text(render_fleet(FleetSettings(servers=(settings,))))
        yield folder / "fleet.yaml"


def slimsched(*arguments: object) -> str:
    result = CliRunner().invoke(main, list(map(str, arguments)))
    assert result.exit_code == 0, result.output
    return result.stdout


def bench(*arguments: object) -> dict[str, object]:
    options = ("--workload", "burst:8", "--seconds", 1, "--deadline-ms", 60_000, "--json")
    found: dict[str, object] = json.loads(slimsched("bench", *arguments, *options))
    return found


@pytest.mark.parametrize("kind", ["grpc", "http", "fleet"])
def test_items_of_any_kind_are_sent_and_judged_by_a_metric_that_is_named(fleet_path: Path, kind: str) -> None:
    places = {
        "grpc": yaml.safe_load(fleet_path.read_text())["servers"][0]["grpc"],
        "http": (fleet_path.parent / "http").read_text(),
        "fleet": fleet_path,
    }
    model = "pairs" if kind == "fleet" else "pairs_w050"
    asked = (f"--{kind}", places[kind], "--model", model)
    judged = bench(
        *asked, "--sample", fleet_path.parent / "labelled.npz", "--metric", "mean-absolute-error", "--output", "total"
    )
    assert judged["statuses"] == {"OK": 8}
    labels = np.load(fleet_path.parent / "labelled.npz")["labels"]
    wrong = np.abs(labels - (IDS + 1)).mean() / np.abs(labels - labels.mean(axis=0)).mean()
    assert judged["accuracy"] == judged["right_in_time"] == pytest.approx(1 - wrong)
    plain = bench(*asked, "--sample", fleet_path.parent / "items.npz")
    assert (plain["statuses"], plain["accuracy"], plain["right_in_time"]) == ({"OK": 8}, None, None)


def test_a_router_that_is_compared_gets_its_own_family_and_parameters(fleet_path: Path) -> None:
    found = json.loads(
        slimsched(
            "bench", "compare", "--set-up", f"wide=router:{fleet_path}:pairs,slim_width=100",
            "--set-up", f"narrow=router:{fleet_path}:pairs,slim_width=50", "--rate", 20, "--rounds", 1,
            "--seconds", 2, "--warm-up-s", 0, "--deadline-ms", 60_000, "--json",
            "--sample", fleet_path.parent / "items.npz",
        )
    )  # fmt: skip
    widths = {result["set_up"]: result["summary"]["widths"] for result in found}
    assert widths == {"wide": {"100": 1.0}, "narrow": {"50": 1.0}}


def test_a_family_of_free_shapes_and_points_is_profiled_and_simulated(fleet_path: Path) -> None:
    out = fleet_path.parent / "profile.json"
    slimsched("profile", "--fleet", fleet_path, "--out", out, "--requests", 2, "--precision", 1)
    models = read_profile(out).servers[0].models
    assert [(model.name, model.accuracy) for model in models] == [("pairs_w050", 37.4), ("pairs_w100", 50.2)]
    server = {"name": "a", "profile": "profile.json"}
    scenario = {"name": "pairs", "servers": [server], "objectives": {"min_accuracy": 50}, "workload": {"requests": 200}}
    (fleet_path.parent / "scenario.yaml").write_text(yaml.safe_dump(scenario))
    figures = fleet_path.parent / "figures.json"
    options = ("--policy", "lert", "--seeds", 1, "--out", figures)
    slimsched("simulate", "--scenario", fleet_path.parent / "scenario.yaml", *options)
    (result,) = json.loads(figures.read_text())["results"]
    assert result["accuracy"] == 1, "only the best was allowed"
