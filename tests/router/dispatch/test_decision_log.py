"""What is written of decisions, that it stays bounded, and that it never costs an answer."""

from __future__ import annotations

import asyncio
import json
import logging
import resource
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from orchestrator.cli import main
from orchestrator.config import DecisionLogSettings
from orchestrator.decision import Dispatch, Hold
from orchestrator.errors import ConfigError, TransientError
from orchestrator.policies.parsing import parse_policy
from orchestrator.router.dispatch import decision_log
from orchestrator.router.dispatch.decision_log import DecisionLog, find_decision, read_all
from tests.closed import closed
from tests.fakes.servers import FakeServer, item
from tests.router.dispatch.test_guarded_policy import Scripted, install
from tests.router.test_router import right, routed

pytestmark = pytest.mark.virtual_time


def written(directory: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for path in sorted(directory.glob("*.jsonl")) for line in path.read_text().splitlines()]


def test_where_nothing_more_can_be_written_it_says_so_once_and_writes_no_more(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    decisions = DecisionLog(DecisionLogSettings(directory=tmp_path, sample_ratio=1.0), "run")
    most = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, most[1]))  # as a disk that is full
        for number in range(100):
            decisions.write({"policy": "p" * 100}, f"d-{number}", {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, most)
    assert [record.getMessage().partition(" to ")[0] for record in caplog.records] == ["decisions are written no more"]
    assert not decisions.is_sampled()
    decisions.close()


@pytest.mark.parametrize("binding", ["late", "early"])
async def test_a_decision_is_found_by_the_id_in_the_answer(tmp_path: Path, binding: str) -> None:
    settings = {"directory": tmp_path, "sample_ratio": 1.0}
    servers = {"a": FakeServer(), "b": FakeServer(per_item_s=0.1)}
    async with routed(servers, policy="lert:slack", binding=binding, decision_log=settings) as router:
        answers = await asyncio.gather(*(router.infer(item(n), deadline_ms=60, priority=1) for n in range(3)))
    record = find_decision(tmp_path, answers[0].decision_id)
    assert (record["policy"], record["fault"], record["reason"]) == ("lert:slack", None, "least expected completion")
    assert record["choice"]["server"] == answers[0].server
    assert record["choice"]["width"] == answers[0].width
    assert record["queue"]["head_slack_s"] == pytest.approx(0.06)
    assert record["queue"]["priority"] == 1
    pairs = {(c["server"], c["width"]) for c in record["candidates"]}
    assert pairs == {(server, width) for server in "ab" for width in (25, 50, 75, 100)}
    chosen = next(c for c in record["candidates"] if c["server"] == "a" and c["width"] == answers[0].width)
    assert chosen["in_time"]
    outcome = record["outcome"]
    assert outcome["error"] is None
    assert outcome["items"] == answers[0].batch
    assert outcome["requests"][0]["latency_s"] == pytest.approx(answers[0].latency_s)
    assert outcome["requests"][0]["in_time"] == answers[0].deadline_met


async def test_a_failure_is_an_outcome(tmp_path: Path) -> None:
    server = FakeServer()
    settings = {"directory": tmp_path, "sample_ratio": 1.0}
    async with routed({"a": server}, decision_log=settings, max_attempts=1) as router:
        server.failures = [TransientError("socket closed")]
        with pytest.raises(TransientError):
            await router.infer(item(0))
    (record,) = written(tmp_path)
    assert record["outcome"]["error"] == "socket closed"
    assert not record["outcome"]["requests"][0]["in_time"]


@pytest.mark.parametrize("binding", ["late", "early"])
async def test_what_has_arrived_is_counted_once_whatever_becomes_of_it(tmp_path: Path, binding: str) -> None:
    servers = {"a": FakeServer(), "b": FakeServer()}
    settings = {"directory": tmp_path, "sample_ratio": 1.0}
    async with routed(servers, binding=binding, decision_log=settings) as router:
        answer = await router.infer(item(0))
        servers[answer.server].failures = [TransientError("socket closed")]
        for number, floor in enumerate((0.0, 0.5, 0.0), 1):  # a floor waits in a queue of its own
            await router.infer(item(number), min_accuracy=floor)
    records = written(tmp_path)
    assert [record["outcome"]["error"] for record in records].count("socket closed") == 1
    counted = [record["queue"]["arrived_items"] for record in records]
    assert sorted(counted) == [1, 2, 2, 3, 4]


async def test_only_a_sample_is_written_and_nothing_unless_asked(tmp_path: Path) -> None:
    async with routed({"a": FakeServer()}, decision_log={"directory": tmp_path, "sample_ratio": 0.1}) as router:
        for n in range(300):
            await router.infer(item(n))
    assert 10 < len(written(tmp_path)) < 60
    async with routed({"a": FakeServer()}) as router:
        await router.infer(item(0))
    assert len(list(tmp_path.iterdir())) == 1


async def test_files_are_bounded_in_size_and_number(tmp_path: Path) -> None:
    settings = {"directory": tmp_path, "sample_ratio": 1.0, "max_mib": 0.02, "files": 4}
    for _ in range(4):
        async with routed({"a": FakeServer()}, decision_log=settings) as router:
            for n in range(30):
                last = await router.infer(item(n))
        assert find_decision(tmp_path, last.decision_id)["id"] == last.decision_id
    files = list(tmp_path.iterdir())
    assert len(files) <= 5
    assert all(path.stat().st_size <= 0.02 * 2**20 for path in files)


async def test_a_file_that_another_router_has_just_removed_keeps_none_from_starting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = tmp_path / "decisions-gone.jsonl"
    monkeypatch.setattr(decision_log, "files_in", lambda directory: [gone, gone])
    settings = {"directory": tmp_path, "sample_ratio": 1.0, "files": 2}
    async with routed({"a": FakeServer()}, decision_log=settings) as router:
        assert (await router.infer(item(0))).decision_id


async def test_a_log_that_cannot_be_written_costs_no_answer(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    directory = tmp_path / "log"
    async with routed({"a": FakeServer()}, decision_log={"directory": directory, "sample_ratio": 1.0}) as router:
        directory.rmdir()
        assert right(await router.infer(item(1)), 1)
        assert right(await router.infer(item(2)), 2)
    assert caplog.text.count("decisions are written no more") == 1


@pytest.mark.parametrize("decision", [Dispatch("x", object()), Hold(object()), object()])  # type: ignore[arg-type]
async def test_whatever_a_policy_says_its_decisions_are_written_and_those_after_it_too(
    tmp_path: Path, decision: object, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    settings = {"directory": tmp_path, "sample_ratio": 1.0}
    async with routed({"a": FakeServer()}, shadow_policy="lert", decision_log=settings) as router:
        install(router, lambda candidates, situation: decision)
        shadow = router._dispatcher.deciders.shadow
        assert shadow is not None
        shadow.policy = Scripted(lambda candidates, situation: decision)
        assert right(await router.infer(item(1)), 1)
        install(router, parse_policy("lert").choose)
        assert right(await router.infer(item(2)), 2)
    first, second = written(tmp_path)
    assert (first["policy"], first["fault"]) == ("lert:slack", "not_offered")
    assert (second["policy"], second["fault"]) == ("scripted", None)
    assert {key: first["shadow"][key] for key in ("outcome", "reason", "choice")} == {
        "outcome": "fault",
        "reason": None,
        "choice": None,
    }
    assert "written" not in caplog.text


def test_a_record_that_is_no_json_is_left_out_and_the_log_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    log = DecisionLog(DecisionLogSettings(directory=tmp_path, sample_ratio=1.0), "abc")
    log.write({"reason": object()}, "abc-1", {})
    log.write({"reason": "x"}, "abc-2", {})
    log.close()
    assert [record["id"] for record in written(tmp_path)] == ["abc-2"]
    assert "decision abc-1 is not written: object is no JSON value" in caplog.text


@pytest.mark.parametrize("folder", ["", "log"])
def test_decisions_that_this_user_may_not_look_into_are_not_told_as_none(folder: str, tmp_path: Path) -> None:
    (tmp_path / "log").mkdir()
    with (
        closed(tmp_path / folder),
        pytest.raises(ConfigError, match=r"can't read .*log \(Permission denied\); let this"),
    ):
        list(read_all(tmp_path / "log"))


async def test_a_directory_that_cannot_be_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"router\.decision_log\.directory"):
        DecisionLog(DecisionLogSettings(directory=tmp_path / "file"), "abc")


@pytest.mark.parametrize(
    ("decision_id", "problem"),
    [
        ("x", "is no decision's id"),
        ("../../x-1", "is no decision's id"),
        ("abc-1", "no decision abc-1 in .*not sampled"),
    ],
)
async def test_what_was_not_written_is_not_found(tmp_path: Path, decision_id: str, problem: str) -> None:
    (tmp_path / "decisions-abc.jsonl").write_text('{"id":"abc-11"}\n{"id":"abc-1","cut o')
    with pytest.raises(ConfigError, match=problem):
        find_decision(tmp_path, decision_id)


async def test_why_shows_candidates_choice_and_outcome(tmp_path: Path) -> None:
    settings = {"directory": tmp_path, "sample_ratio": 1.0}
    async with routed({"a": FakeServer()}, policy="lert:slack", decision_log=settings) as router:
        answer = await router.infer(item(0), deadline_ms=6)
    fleet = tmp_path / "fleet.yaml"
    fleet.write_text(
        "servers: [{name: a, grpc: '127.0.0.1:1'}]\n"
        f"router: {{decision_log: {{directory: {tmp_path}, sample_ratio: 1.0}}}}\n"
    )
    run = CliRunner().invoke(main, ["why", answer.decision_id, "--fleet", str(fleet)], env={"COLUMNS": "120"})
    assert run.exit_code == 0, run.output
    assert "decided by lert:slack: least expected completion" in run.output
    assert "→ a" in run.output
    assert "1 items of 1 requests" in run.output
    as_json = CliRunner().invoke(main, ["why", answer.decision_id, "--fleet", str(fleet), "--json"])
    assert json.loads(as_json.output)["id"] == answer.decision_id
    fleet.write_text("servers: [{name: a, grpc: '127.0.0.1:1'}]\n")
    refused = CliRunner().invoke(main, ["why", answer.decision_id, "--fleet", str(fleet)])
    assert refused.exit_code == 1
    assert "has no router.decision_log" in refused.output
