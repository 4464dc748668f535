"""A family of each kind on one host: an own network, networks of others, and models that nobody may touch.

One of the networks of others has a fixed batch of one, so it is served unbatched. All go through ``up``,
``tritonclient``, ``profile``, ``simulate`` with that profile, and ``bench``.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as grpcclient

from orchestrator.config import load_fleet
from orchestrator.profile.document import ServerProfile, read_profile
from tests.export.importing.foreign import foreign_network
from tests.export.importing.test_real_networks import alone, text_detectors
from tests.gateway.test_real_described import times
from tests.ports import choose_free_ports
from tests.triton.calls import infer
from tests.triton.onnx_models import write_model
from tests.tutorials.document import File, execute, parse

pytestmark = [pytest.mark.integration, pytest.mark.long]

OWN_NETWORK = Path(__file__).parents[2] / "docs" / "tutorials" / "own-network.md"
FAMILIES = {"shapes": (50, 100), "text": (50, 100), "plates": (30, 100), "voice": (100,)}
FLEET = """
servers: [{{name: one, grpc: "127.0.0.1:{}", limits: {{memory_budget_mib: 3000}}}}]
gateway: {{grpc: "127.0.0.1:{}", http: "127.0.0.1:{}", metrics: "127.0.0.1:{}"}}
router: {{deadline_ms: 2000}}
controller: {{minimum_widths: [100], families: {{shapes: {{}}, text: {{}}, plates: {{}}, voice: {{}}}}}}
families:
- name: plates
  variants: [{{width: 30, model: plates_s, quality: 0.61}}, {{width: 100, model: plates_l, quality: 0.78}}]
"""
PATIENCE = 20
"""Deadlines of the simulation, in times that the slowest width of a family takes for an item: as fast or slow as the
machine is, a router that serves one family has time enough, unless it goes by other times than were measured."""


def do(folder: Path, *commands: str) -> str:
    """Run commands in a folder, all of which must succeed, and return what the last one said."""
    said = ""
    for command in commands:
        done = execute(command, folder)
        assert done.returncode == 0, f"{command}\n{done.stdout}"
        said = done.stdout
    return said


def write_families(folder: Path) -> None:
    for step in parse(OWN_NETWORK.read_text()):
        if isinstance(step, File):
            (folder / step.name).write_text(step.text)
    small, large = text_detectors().values()
    voice = voice_detector()
    do(
        folder,
        "python draw_shapes.py",
        "slimsched train --network mynet:make --data imagefolder --data-dir shapes --image-size 28 "
        "--widths 0.5,1.0 --epochs 1 --batch-size 16 --out runs",
        "slimsched export runs/model.pt --network mynet:make --data-dir shapes --family shapes --widths 0.5,1.0 "
        "--repository models",
        f"slimsched import --family text --variant 50={small} --variant 100={large} --quality 50=1,100=2 "
        "--shape x=3,64,96 --max-batch-size 4 --rename sigmoid_0.tmp_0=text --rename fetch_name_0=text "
        "--repository models",
        f"slimsched import --family voice --variant 100={voice} --quality 100=1 --shape input=1,576 "
        "--shape state=2,1,128 --repository models",
    )
    for name, factor in (("plates_s", 2.0), ("plates_l", 3.0)):
        write_model(folder / "models", name, times(factor, ["batch", 3]))


def voice_detector() -> Path:
    """A network with a fixed batch of one."""
    return foreign_network("silero_vad", "data/silero_vad_16k_op15.onnx")


def items_of(family: str, count: int) -> dict[str, Any]:
    random = np.random.default_rng(0)
    match family:
        case "shapes":
            return {"pixels": random.random((count, 3, 28, 28), np.float32)}
        case "text":
            return {"x": random.standard_normal((count, 3, 64, 96), np.float32)}
        case "voice":
            return {
                "input": random.standard_normal((count, 1, 576), np.float32),
                "state": np.zeros((count, 2, 1, 128), np.float32),
                "sr": np.full((count, 1), 16_000),
            }
        case _:
            texts = np.array([[f"B-AB {n}"] for n in range(count)])
            return {"numbers": random.random((count, 3), np.float32), "text": texts}


def test_a_family_of_each_kind_goes_all_the_way(tmp_path: Path) -> None:
    write_families(tmp_path)
    ports = choose_free_ports(4)
    (tmp_path / "fleet.yaml").write_text(FLEET.format(*ports))
    gateway = load_fleet(tmp_path / "fleet.yaml").gateway
    up = "slimsched up --fleet fleet.yaml --repository models --state-dir state > up.log 2>&1 & echo $! > up.pid"
    try:
        do(tmp_path, up)
        for family in FAMILIES:
            ready = f"http://{gateway.http}/v2/models/{family}/ready"
            do(tmp_path, f"timeout 400 sh -c 'until curl -sf {ready}; do sleep 1; done' || {{ cat up.log; false; }}")
        ask_and_measure(tmp_path, str(gateway.grpc))
    finally:
        execute("kill $(cat up.pid) 2>/dev/null && timeout 60 tail --pid=$(cat up.pid) -f /dev/null", tmp_path)


def scenario_of(profiled: ServerProfile) -> str:
    """Return a scenario of what was profiled, with deadlines by the times that were measured."""
    item_s = {family: 0.0 for family in FAMILIES}
    for model in profiled.models:
        item_s[model.family] = max(item_s[model.family], model.batches[0].mean_s)
    families = {name: {"deadline_ms": PATIENCE * 1e3 * item_s[name]} for name in FAMILIES}
    families["text"]["share"] = 0.2
    workload = {"requests": 3000, "load_ratio": 0.1, "drift_amplitude": 1.5}
    servers = [{"name": "one", "profile": "profile.json"}]
    return json.dumps({"name": "every-kind", "families": families, "servers": servers, "workload": workload})


def ask_and_measure(folder: Path, address: str) -> None:
    with grpcclient.InferenceServerClient(address) as client:
        for family in FAMILIES:
            np.savez(folder / f"{family}.npz", **items_of(family, 8))
            given = items_of(family, 2)
            if family == "plates":
                given["text"] = np.char.encode(given["text"]).astype(object)
            if family == "voice":  # a request is one item, without a dimension for more
                given = {name: items[0] for name, items in given.items()}
            answer = infer(client, family, **given)
            if family == "voice":
                (wanted, _) = alone(voice_detector()).run(["output", "stateN"], given | {"sr": np.array(16_000)})
                np.testing.assert_array_equal(answer.as_numpy("output"), wanted)
                continue
            assert all(len(answer.as_numpy(output.name)) == 2 for output in answer.get_response().outputs)
            if family == "plates":
                factor = {30: 2, 100: 3}[answer.get_response().parameters["slim_width"].int64_param]
                np.testing.assert_array_equal(answer.as_numpy("scaled"), given["numbers"] * np.float32(factor))
                np.testing.assert_array_equal(answer.as_numpy("same"), given["text"])

    do(folder, "slimsched profile --fleet state/fleet.yaml --requests 3 --precision 1 --out profile.json")
    (profiled,) = read_profile(folder / "profile.json").servers
    assert {model.family for model in profiled.models} == set(FAMILIES)

    (folder / "scenario.yaml").write_text(scenario_of(profiled))
    simulate = "slimsched simulate --scenario scenario.yaml --policy lert:brownout --alone --seeds 1 --out one.json"
    do(folder, simulate)
    (simulated,) = json.loads((folder / "one.json").read_text())["results"]
    assert {family["name"] for family in simulated["families"]} == set(FAMILIES)
    assert all(family["alone_ratio"] > 0.9 for family in simulated["families"])

    asked = " ".join(f"--family {family}{':0.2' * (family == 'text')}={family}.npz" for family in FAMILIES)
    shared = "--rate 30 --seconds 8 --deadline-ms 2000 --drift 1.5 --json"
    said = json.loads(do(folder, f"slimsched bench --grpc {address} {asked} {shared} 2> bench.log"))
    for family, widths in FAMILIES.items():
        assert said[family]["in_time"] > 0.5, said[family]
        assert set(map(int, said[family]["widths"])) <= {0, *widths}
