"""``infer``, ``bench`` and ``demo`` as a stranger runs them, on real tritonservers."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from orchestrator.cli import main
from orchestrator.config import FleetSettings, ServerSettings, render_fleet
from orchestrator.embedded.server import EmbeddedOptions
from tests.plugged import install
from tests.tritons import Tritons

pytestmark = [pytest.mark.integration, pytest.mark.long]

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples" / "fashion-mnist"
MARK = "SLIM_TEST_MARK"
GONE_S = 30.0
PLAIN = "plain Triton"


@pytest.fixture(scope="module")
def fleet_path(tmp_path_factory: pytest.TempPathFactory, tritons: Tritons) -> Iterator[Path]:
    path = tmp_path_factory.mktemp("fleet") / "fleet.yaml"
    with tritons.running(ROOT / "model_repository", EmbeddedOptions()) as server:
        settings = FleetSettings(servers=(ServerSettings(name="here", grpc=server.grpc_address),))
        path.write_text(render_fleet(settings))
        yield path


def infer(fleet_path: Path, *arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(main, ["infer", "--fleet", str(fleet_path), *map(str, arguments)])
    return result.exit_code, result.output


def test_images_are_named_with_what_was_decided(fleet_path: Path) -> None:
    code, output = infer(fleet_path, "--json", EXAMPLES / "images" / "trouser.png", EXAMPLES / "images" / "bag.png")
    rows = [json.loads(line) for line in output.splitlines()]
    assert code == 0
    assert [row["label"] for row in rows] == ["Trouser", "Bag"]
    assert all(row["server"] == "here" and row["width"] in (25, 50, 75, 100) for row in rows)
    assert all(0.5 < row["confidence"] <= 1 and row["latency_ms"] > 0 for row in rows)


def test_infer_shows_an_answer_that_is_late(fleet_path: Path) -> None:
    code, output = infer(fleet_path, "--json", "--deadline-ms", 0.001, EXAMPLES / "images" / "bag.png")
    assert code == 0, output
    assert json.loads(output)["deadline_met"] is False


def test_the_table_shows_label_confidence_width_server_and_latency(fleet_path: Path) -> None:
    code, output = infer(fleet_path, "--width", 50, EXAMPLES / "images" / "ankle-boot.png")
    assert code == 0
    assert re.search(r"ankle-boot\.png +Ankle boot +\d+\.\d% +50 % +here +1 +\d+\.\d ms", output.replace("\n", " "))


def bench(*arguments: object) -> str:
    options = ("--rate", 50, "--seconds", 0.5, "--warm-up-s", 0, "--sample", EXAMPLES / "test_1000.npz", "--json")
    result = CliRunner().invoke(main, ["bench", *map(str, (*arguments, *options))])
    assert result.exit_code == 0, result.output
    return result.stdout


def test_bench_and_its_comparison_send_the_load_that_their_options_describe(fleet_path: Path, tmp_path: Path) -> None:
    out = tmp_path / "bench.json"
    summary = json.loads(bench("--fleet", fleet_path, "--workload", "steady", "--seed", 3, "--out", out))
    kept = json.loads(out.read_text())
    assert summary == {**kept["summary"], "senders_cores": kept["senders_cores"]}
    assert (kept["load"]["rate_rps"], kept["load"]["seed"], kept["load"]["workload"]) == (50.0, 3, "steady")
    found = json.loads(bench("compare", "--set-up", f"here=router:{fleet_path}", "--rounds", 2))
    assert [(result["set_up"], result["round"]) for result in found] == [("here", 0), ("here", 1)]
    assert all(result["load"]["rate_rps"] == 50.0 and result["summary"]["statuses"] for result in found)


WIDTHS = """
from orchestrator.decision import Dispatch, Hold, Reason
from orchestrator.policies.knobs import Knob
from orchestrator.policies.protocol import Binding

class Widths:
    knobs = (Knob("width", at=0, default=25, least=25, most=100),)
    binding = Binding.LATE

    def __init__(self, name, width=25):
        self.name, self.width = name, width

    def choose(self, candidates, situation):
        free = [c for c in candidates if c.has_room and c.width == self.width]
        return Dispatch(free[0], Reason.CHEAPEST) if free else Hold(Reason.BETTER_SERVER_BUSY)
"""


def test_bench_lets_a_policy_of_another_package_decide_by_its_name(
    fleet_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, "widths", WIDTHS, {"only": "Widths"})
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), str(ROOT)]))
    summary = json.loads(bench("--fleet", fleet_path, "--policy", "only", "--deadline-ms", 60_000))
    assert set(summary["widths"]) == {"25"}, summary
    policies = {"narrow": "only", "wide": "only,width=100"}
    set_ups = [f"--set-up={name}=router:{fleet_path},policy={p}" for name, p in policies.items()]
    found = json.loads(bench("compare", *set_ups, "--rounds", 1, "--deadline-ms", 60_000))
    assert {result["set_up"]: set(result["summary"]["widths"]) for result in found} == {
        "narrow": {"25"},
        "wide": {"100"},
    }
    refused = CliRunner().invoke(main, ["bench", "--grpc", "127.0.0.1:1", "--policy", "only"])
    assert (refused.exit_code, "--policy goes with --fleet" in refused.output) == (1, True)
    unknown = CliRunner().invoke(main, ["bench", "--fleet", str(fleet_path), "--policy", "nobodys", "--seconds", "2"])
    assert unknown.exit_code == 1
    assert "unknown policy 'nobodys'" in unknown.output


def test_bad_input_is_one_line(fleet_path: Path, tmp_path: Path) -> None:
    text = tmp_path / "notes.png"
    text.write_text("no image")
    for arguments, problem in [
        ([text], "is no image that can be read"),
        ([tmp_path / "absent.png"], "no image at"),
        ([ROOT / "docs" / "nothing.png"], "no image at"),
        (["--width", 33, EXAMPLES / "images" / "bag.png"], "no width has width=33"),
        (["--min-accuracy", 0.999, EXAMPLES / "images" / "bag.png"], "served are 25 % (0.9"),
        (["--family", "cats", EXAMPLES / "images" / "bag.png"], "unknown family 'cats'; the fleet serves fashion"),
    ]:
        code, output = infer(fleet_path, *arguments)
        assert code == 1
        assert output.startswith("Error: ")
        assert problem in output
        assert output.count("\n") == 1


def test_an_unreachable_server_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "fleet.yaml"
    path.write_text("servers: [{name: a, grpc: '127.0.0.1:9'}]")
    code, output = infer(path, EXAMPLES / "images" / "bag.png")
    assert code == 1
    assert re.fullmatch(r"Error: no server serves a slimmable family \(a: .*\); check the addresses.*\n", output)


def test_the_demo_compares_gateways_and_plain_tritons_also_when_a_server_fails(tmp_path: Path) -> None:
    mark = uuid.uuid4().hex
    arguments = ["demo", "--policy", "default", "--policy", "triton", "--out", str(tmp_path)]
    said = ""
    with demo(mark, *arguments, "--rounds", "1", "--seconds", "2") as process:
        assert process.stdout is not None
        for line in process.stdout:
            said += line
            if f"round 1 of 1: {PLAIN}" in line and "started anew" not in said:
                servers = [pid for pid in marked_processes(mark) if is_tritonserver(pid)]
                assert len(servers) == 2
                os.kill(servers[0], signal.SIGKILL)
    assert process.returncode == 0, said
    assert said.count("starting two tritonservers") == 2
    assert said.count("round 1 of 1: default") == 1, "what was measured before is kept"
    assert said.count(f"round 1 of 1: {PLAIN}") == 2
    for name in ("default", PLAIN):
        row = re.search(rf"│ {name} +│ +[\d.]+% │ +[\d.]+% │ +[\d.]+% │ +(\d+\.\d)% │", said)
        assert row is not None, said
        assert float(row.group(1)) > 88, "accuracy is measured from the answers"
    page = (tmp_path / "demo.html").read_text()
    assert "emulated 8× slower" in page
    assert "asks both Tritons for <code>fashion_w100</code> in turn" in page
    assert "a server failed in turn 2, which was taken again on new ones" in page
    assert (tmp_path / "demo.png").read_bytes().startswith(b"\x89PNG")


def demo(mark: str, *arguments: str) -> subprocess.Popen[str]:
    """Begin a command whose processes are known by a mark; what it says is read a line at a time."""
    return subprocess.Popen(
        [sys.executable, "-c", "from orchestrator.cli import main; main()", *arguments],
        cwd=ROOT,
        env={**os.environ, MARK: mark, "PYTHONUNBUFFERED": "1", "COLUMNS": "200"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def is_tritonserver(pid: int) -> bool:
    return Path(f"/proc/{pid}/comm").read_text().strip() == "tritonserver"


def marked_processes(mark: str) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            if f"{MARK}={mark}".encode() in path.read_bytes():
                found.append(int(path.parent.name))
        except OSError:
            continue  # gone meanwhile, or not ours
    return found


@pytest.mark.parametrize(
    ("moment", "number"),
    [
        *((moment, signal.SIGINT) for moment in ("tritonservers", "gateways", "measuring", "round 1", "round 2")),
        ("round 2", signal.SIGTERM),
    ],
)
def test_an_interrupted_demo_leaves_nothing_but_a_report_of_what_there_was(
    moment: str, number: signal.Signals, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mark, temporary = uuid.uuid4().hex, tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    lines = []
    with demo(mark, "demo", "--policy", "lert:slack", "--seconds", "1", "--out", str(tmp_path)) as process:
        assert process.stdout is not None
        for line in process.stdout:
            lines.append(line)
            if moment in line:
                break
        else:
            pytest.fail(f"the demo never said {moment!r}: {''.join(lines)}")
        process.send_signal(number)
        said, _ = process.communicate(timeout=GONE_S)
    assert process.returncode != 0
    assert ("interrupted after 1 of 2 turns" in said) == (moment == "round 2")
    assert (tmp_path / "demo.html").exists() == (moment == "round 2")
    deadline_s = time.monotonic() + GONE_S
    while marked_processes(mark):
        assert time.monotonic() < deadline_s, f"still there: {marked_processes(mark)}"
        time.sleep(0.1)
    assert {left.name for left in temporary.iterdir()} <= {f"slimsched-{os.getuid()}"}  # for sockets, of this user
