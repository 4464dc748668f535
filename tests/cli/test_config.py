"""``slimsched config``: all that is wrong, what is in force, and the schema."""

from __future__ import annotations

import json
from pathlib import Path

from click.testing import CliRunner, Result

from orchestrator.cli import main
from orchestrator.config.schema import SHIPPED

FILE = """\
servers:
  - {name: a, grpc: "h:1", metrics: "http://me:secret@h:2/metrics"}
router:
  deadline_ms: 50
"""


def run(command: str, path: Path, text: str, *more: str, **environment: str) -> Result:
    file = path / "fleet.yaml"
    file.write_text(text)
    return CliRunner().invoke(main, ["config", command, "--fleet", str(file), *more], env=environment)


def test_check_says_that_nothing_is_wrong(tmp_path: Path) -> None:
    result = run("check", tmp_path, FILE)
    assert (result.exit_code, result.output) == (0, f"{tmp_path}/fleet.yaml: nothing is wrong\n")


def test_check_prints_all_problems_a_line_each_and_fails(tmp_path: Path) -> None:
    result = run("check", tmp_path, FILE + "  seed: x\n  policy_fle: y\ngateway: {drain_s: -1}\n")
    assert result.exit_code == 1
    problems = [line.removeprefix(f"{tmp_path}/fleet.yaml: ") for line in result.output.splitlines()]
    assert [problem.partition(":")[0] for problem in problems] == ["line 5", "line 6", "line 7"]
    assert problems[0] == "line 5: router.seed: must be a whole number, got 'x'"


def test_check_notes_variants_of_described_families_that_gain_nothing(tmp_path: Path) -> None:
    variants = ", ".join(f"{{width: {w}, model: m{w}, quality: {q}}}" for w, q in ((30, 61), (60, 60.5), (100, 78)))
    result = run("check", tmp_path, f"{FILE}families:\n- {{name: plates, variants: [{variants}]}}\n")
    assert (result.exit_code, result.output.splitlines()) == (
        0,
        [
            f"{tmp_path}/fleet.yaml: note: model m60 is left out of family plates: its quality 60.5 is no better than "
            "that of a narrower variant",
            f"{tmp_path}/fleet.yaml: nothing is wrong",
        ],
    )


def test_check_notes_telemetry_that_no_package_here_brings(tmp_path: Path) -> None:
    result = run("check", tmp_path, 'servers: [{name: a, grpc: "h:1", telemetry: battery}]\n')
    assert (result.exit_code, result.output.splitlines()) == (
        0,
        [
            f"{tmp_path}/fleet.yaml: note: telemetry 'battery' of server a is of no package here",
            f"{tmp_path}/fleet.yaml: nothing is wrong",
        ],
    )


def test_check_tells_of_keys_types_ranges_duplicates_and_contradictions_in_one_go(tmp_path: Path) -> None:
    text = """\
servers:
  - {name: a, grpc: "h:0"}
  - {name: a, grpc: "h:1", device: tpu}
  - {name: b, grpc: "h:1", limit: {}, limits: {gpu_index: x}}
families:
  - {name: f, variants: [{width: 5, model: m, quality: 1}, {width: 5, model: n, quality: x}]}
  - {name: f, variants: [{width: 6, model: m}]}
controller: {idle_s: 900, quarantine_s: 900, families: {f: {minimum_widths: [5, 5, 101]}}}
gateway: {grpc: "h:1", http: "h:1", drain_s: -1, pass_on_models: [{name: m}, {name: m, max_calls: 0}]}
router: {overload: {priority_levels: 1}}
"""
    lines = run("check", tmp_path, text).output.splitlines()
    problems = [line.removeprefix(f"{tmp_path}/fleet.yaml: line ") for line in lines]
    twice = {problem.partition(": is there twice")[0] for problem in problems if "is there twice" in problem}
    assert twice == {
        "3: servers[1].name", "4: servers[2].grpc", "6: families[0].variants[1].width", "7: families[1].name",
        "7: families[1].variants[0].model", "8: controller.families.f.minimum_widths[1]",
        "9: gateway.pass_on_models[1].name",
    }  # fmt: skip
    others = [problem for problem in problems if "is there twice" not in problem]
    assert {problem[: problem.index(": ", 4)] if ": " in problem[4:] else problem for problem in others} == {
        "2: servers[0].grpc", "3: servers[1].device", "4: servers[2].limits.gpu_index",
        "4: unknown key servers[2].limit; allowed here", "6: families[0].variants[1].quality",
        "7: key families[1].variants[0].quality is missing", "8: controller.families.f.minimum_widths[2]",
        "9: gateway.http", "9: gateway.drain_s", "9: gateway.pass_on_models[1].max_calls", "10: router.overload",
    }  # fmt: skip
    contradicting = f"{FILE}controller: {{idle_s: 900, quarantine_s: 900}}\n"
    assert [line.split()[4] for line in run("check", tmp_path, contradicting).output.splitlines()] == [
        "quarantine_max_s",
        "idle_s",
    ]


def test_check_knows_every_policy_that_a_router_would_be_given(tmp_path: Path) -> None:
    text = FILE + "  policy: fastest\n  seed: x\n  shadow_policy: lert:thin\n  guard: {fallback: 'ppo-slim,x=1'}\n"
    result = run("check", tmp_path, text)
    assert result.exit_code == 1
    keys = {": ".join(line.split(": ")[1:3]) for line in result.output.splitlines()}
    policies = {"line 5: router.policy", "line 7: router.shadow_policy", "line 8: router.guard.fallback"}
    assert keys == {*policies, "line 6: router.seed"}
    known = "ppo-slim, ppo-paper, which are learned; fitted, which is what a file holds; the rules"
    assert f"unknown policy 'fastest'; known are {known}" in result.output
    early = run("check", tmp_path, FILE + "  policy: ppo-slim\n  binding: early\n")
    assert (early.exit_code, "was trained to bind late" in early.output) == (1, True)


def test_check_tells_of_policies_beside_contradictions_between_sections(tmp_path: Path) -> None:
    text = FILE + "  policy: fitted\ncontroller: {deadline_budget_ms: 60}\n"
    result = run("check", tmp_path, text)
    assert result.exit_code == 1
    first, second = (line.removeprefix(f"{tmp_path}/fleet.yaml: ") for line in result.output.splitlines())
    assert first.startswith("controller.deadline_budget_ms 60 is above router.deadline_ms 50")
    assert second.startswith("router: ")
    assert "router.policy_file" in second


def test_another_version_of_the_file_is_refused_before_its_keys(tmp_path: Path) -> None:
    result = run("check", tmp_path, "apiVersion: slimsched/v2\nfleets: []\n")
    assert result.exit_code == 1
    (line,) = result.output.splitlines()
    assert "apiVersion is 'slimsched/v2', and this release reads 'slimsched/v1'" in line
    assert run("check", tmp_path, f"apiVersion: slimsched/v1\n{FILE}").exit_code == 0


def test_show_tells_each_setting_its_origin_and_hides_passwords(tmp_path: Path) -> None:
    result = run("show", tmp_path, FILE, SLIM_GATEWAY__HTTP="0.0.0.0:80")
    assert result.exit_code == 0
    shown = {line.partition(":")[0]: " ".join(line.partition(": ")[2].split()) for line in result.output.splitlines()}
    assert shown["router.deadline_ms"] == "50.0 # line 4"
    assert shown["gateway.http"] == '"0.0.0.0:80" # SLIM_GATEWAY__HTTP'
    assert shown["gateway.drain_s"] == "20.0 # default"
    assert shown["router.hedge"] == "null # default"
    assert shown["servers[0].metrics"] == '"http://***@h:2/metrics" # line 2'
    assert shown["apiVersion"] == '"slimsched/v1" # default'


def test_show_as_json_says_the_same(tmp_path: Path) -> None:
    settings = json.loads(run("show", tmp_path, FILE, "--json").output)
    assert {"key": "router.deadline_ms", "value": 50.0, "origin": "line 4"} in settings


def test_show_of_a_wrong_file_is_one_line(tmp_path: Path) -> None:
    result = run("show", tmp_path, FILE + "  seed: x\n  policy_fle: y\n")
    assert result.exit_code == 1
    assert result.output.startswith("Error: ")
    assert result.output.count("\n") == 1


def test_schema_prints_the_one_that_is_shipped() -> None:
    printed = CliRunner().invoke(main, ["config", "schema"])
    assert json.loads(printed.output) == json.loads(SHIPPED.read_text())
    path = CliRunner().invoke(main, ["config", "schema", "--path"])
    assert Path(path.output.strip()) == SHIPPED
    tokens = json.loads(CliRunner().invoke(main, ["config", "schema", "--tokens"]).output)
    assert "tenants" in tokens["properties"]
