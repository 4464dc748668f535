"""``slimsched bench`` finds out before it sends whether its figures count and can be saved, and loses none."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from orchestrator.cli import main
from orchestrator.cli.client import bench
from orchestrator.errors import ServerUnavailableError
from orchestrator.loadgen.plan import Load
from orchestrator.loadgen.records import Summary
from orchestrator.loadgen.run import Measured, Part
from orchestrator.loadgen.sample import Sample
from orchestrator.loadgen.target import SetUp, Target
from orchestrator.snapshot import TensorSpec

NOBODY = "127.0.0.1:1"
FASHION = Path("examples/fashion-mnist/test_1000.npz")
SUMMARY = Summary(1, 1.0, 1.0, 0.0, 0.0, 1.0, 0.01, 0.01, 0.01, {25: 1.0}, {"s0": 1.0}, {"OK": 1}, 0.0)


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["bench", *map(str, arguments)])


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("--rate", 5, "compare", "--set-up", "a=grpc:x", "--rate", 1), "--rate counts for nothing with 'compare'"),
        (("--seconds", 5, "compare", "--set-up", "a=grpc:x", "--rate", 1), "--seconds counts for nothing"),
        (("--grpc", NOBODY, "--drift", 2), "--drift counts for nothing with fewer than two --family"),
        (("--grpc", NOBODY, "--family", "a", "--drift-periods", 2), "--drift-periods counts for nothing"),
        (("--grpc", NOBODY, "--family", "a", "--model", "b"), "--model counts for nothing with --family"),
    ],
)
def test_an_option_that_would_count_for_nothing_is_refused(arguments: tuple[object, ...], problem: str) -> None:
    found = run(*arguments)
    assert (found.exit_code, problem in found.output) == (2, True), found.output


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("--warm-up-s", 5, "--seconds", 5), "requests of 5 s come within the warm-up of 5 s"),
        (("--sample", "{sample}", "--out", "{sample}"), "would replace what the command reads"),
        (("--workload", "replay:{times}", "--out", "{times}"), "would replace what the command reads"),
        (("--family", "a={sample}", "--out", "{sample}"), "would replace what the command reads"),
        (("--out", "{sample}/out.json"), "can't write"),
    ],
)
def test_what_can_not_come_to_figures_is_refused_before_anybody_is_asked(
    tmp_path: Path, arguments: tuple[object, ...], problem: str
) -> None:
    sample, times = tmp_path / "sample.npz", tmp_path / "times.txt"
    sample.write_bytes(FASHION.read_bytes())
    times.write_text("0\n1\n2\n")
    found = run("--grpc", NOBODY, *(str(each).format(sample=sample, times=times) for each in arguments))
    assert (found.exit_code, problem in found.output) == (1, True), found.output
    assert sample.read_bytes() == FASHION.read_bytes()


def test_set_ups_of_one_name_are_refused_before_anybody_is_asked() -> None:
    found = run("compare", "--rate", 1, "--set-up", f"a=grpc:{NOBODY}", "--set-up", f"a=http:{NOBODY}")
    assert (found.exit_code, "2 set-ups are named 'a'; give each" in found.output) == (1, True), found.output


def test_a_comparison_that_fails_late_keeps_what_it_had(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def parse(text: str) -> SetUp:
        return SetUp(text.partition("=")[0], Target("grpc", NOBODY, "fashion", (), ("logits",), True, True))

    async def measure(target: Target, load: Load, sample: Sample, **options: object) -> Measured:
        if load.seed == 1:
            raise ServerUnavailableError("nobody answers any more")
        return Measured(SUMMARY, 0.1, is_cut=False)

    monkeypatch.setattr(bench, "parse_set_up", parse)
    monkeypatch.setattr(bench, "measure", measure)
    monkeypatch.setattr(bench, "read_sample", lambda *_, **__: Sample((), None, None, None))
    out = tmp_path / "out.json"
    found = run("compare", "--rate", 9, "--set-up", "a=grpc:x:1", "--set-up", "b=grpc:x:1", "--out", out)
    assert (found.exit_code, "nobody answers any more" in found.output) == (1, True), found.output
    kept: list[Mapping[str, object]] = json.loads(out.read_text())
    assert [(each["set_up"], each["round"]) for each in kept] == [("a", 0), ("b", 0)]


def test_the_sample_that_ships_is_found_away_from_a_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def find(kind: str, address: str, model: str) -> Target:
        pixels = TensorSpec("pixels", "FP32", (1, 28, 28))
        return Target(kind, address, model, (pixels,), ("logits",), True, True)

    async def measure(parts: Sequence[Part], load: Load, **options: object) -> list[Measured]:
        assert [len(part.sample.inputs[0]) for part in parts] == [1000]
        return [Measured(SUMMARY, 0.1, is_cut=False)]

    monkeypatch.setattr(bench, "find_target", find)
    monkeypatch.setattr(bench, "measure_parts", measure)
    monkeypatch.chdir(tmp_path)
    found = run("--grpc", NOBODY)
    assert found.exit_code == 0, found.output
