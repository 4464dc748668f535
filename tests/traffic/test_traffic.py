"""Decision logs as reports: figures, replay and fidelity; the logs are a router's own, or what a simulation did."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from orchestrator.cli import main
from orchestrator.config import RouterSettings
from orchestrator.errors import ConfigError
from orchestrator.learning.arrivals import read_arrivals
from orchestrator.policies.learned.policy_file import RULE, write_policy_file
from orchestrator.policies.parsing import parse_policy
from orchestrator.profile.document import read_profile
from orchestrator.router.dispatch.decision_log import is_shed, read_all, read_newest
from orchestrator.simulation.scenario.fleet import server_from_profile
from orchestrator.simulation.scenario.settings import ScenarioSettings
from orchestrator.simulation.scenario.trace import draw_trace
from orchestrator.simulation.simulation import Simulation
from orchestrator.simulation.world import columns as sim
from orchestrator.traffic.page import render_report
from orchestrator.traffic.recorded import TrafficFigures, figures_of, read_traffic
from orchestrator.traffic.replay import errors_of, replay
from tests.fakes.servers import FakeServer, item
from tests.policies.learned.test_policy import slim
from tests.router.queue.test_shedding import Sheds
from tests.router.test_router import routed

PROFILE = Path(__file__).parents[2] / "profiles" / "demo-fleet.json"
SERVERS = ("local-0", "local-1")
BEGAN_UNIX_S = 1_800_000_000.0


def simulated_log(policy: str, *, requests: int = 6000, load: float = 0.2) -> list[dict[str, Any]]:
    """Return a log of what a policy did in the simulator, a batch for each request."""
    profile = read_profile(PROFILE)
    servers = tuple(server_from_profile(server, server.name) for server in profile.servers)
    settings = ScenarioSettings.model_validate(
        {
            "name": "x",
            "servers": [{"name": name, "profile": "p.json"} for name in SERVERS],
            "workload": {"requests": requests, "load_ratio": load},
            "objectives": {"deadline_ms": 80, "in_flight_groups": RouterSettings().in_flight_groups},
        }
    )
    simulation = Simulation(settings, servers, parse_policy(policy), trace=draw_trace(settings, servers, 7))
    simulation.run()
    table = simulation.world.requests[:, :requests]
    widths = {model.accuracy: model.width for server in servers for model in server.models}
    found = []
    for arrived_s, deadline_s, status, ended_s, accuracy in table[
        [sim.ARRIVED_S, sim.DEADLINE_S, sim.STATUS, sim.ANSWERED_S, sim.ACCURACY]
    ].T.tolist():
        if status == sim.ANSWERED:
            width = min(widths.items(), key=lambda pair: abs(pair[0] - accuracy))[1]
            found.append(decision(arrived_s, ended_s - arrived_s, deadline_s - arrived_s, width, accuracy, policy))
    return found


def decision(
    arrived_s: float,
    latency_s: float,
    deadline_s: float,
    width: int,
    accuracy: float,
    policy: str = "lert",
    **more: Any,
) -> dict[str, Any]:
    request = {
        "items": 1,
        "queue_s": 0.001,
        "latency_s": latency_s,
        "deadline_s": deadline_s,
        "in_time": latency_s <= deadline_s,
    }
    return {
        "id": f"abc-{arrived_s}",
        "at": BEGAN_UNIX_S + arrived_s + 0.001,
        "family": "fashion",
        "policy": policy,
        "fault": None,
        "reason": "least expected completion",
        "choice": {"server": "local-0", "width": width, "items": 1},
        "candidates": [{"server": "local-0", "width": width, "accuracy": accuracy, "energy_j": None}],
        "queue": {"head_age_s": 0.001},
        "outcome": {"error": None, "items": 1, "service_s": 0.01, "requests": [request]},
    } | more


def test_the_policy_that_decided_gives_in_the_simulator_what_was_recorded() -> None:
    traffic = read_traffic(simulated_log("lert:slack", load=0.1))  # at 0.2 noise alone moves the mean by a third
    found = replay(
        traffic,
        ["lert:slack", "lert:narrowest"],
        read_profile(PROFILE),
        RouterSettings(),
        servers=SERVERS,
        sample_ratio=1,
    )
    recorded = figures_of(traffic)
    errors = errors_of(recorded, found["lert:slack"])
    assert errors["mean_s"] == pytest.approx(0, abs=0.1)
    assert errors["attainment_ratio"] == pytest.approx(0, abs=0.02)
    assert errors["accuracy"] == pytest.approx(0, abs=0.01)
    narrow, accuracy = found["lert:narrowest"], recorded.accuracy
    assert accuracy is not None
    assert narrow.accuracy is not None
    assert narrow.accuracy < accuracy
    page = render_report(traffic, 1.0, found, "")["traffic.md"]
    assert "differences well above these errors can be believed" in page
    assert "| as recorded |" in page
    assert "| `lert:narrowest` |" in page


def test_a_sample_is_replayed_at_the_load_that_there_was() -> None:
    whole = simulated_log("lert:slack")
    kept = np.random.default_rng(1).random(len(whole)) < 0.25
    sample = [whole[at] for at in np.flatnonzero(kept)]
    profile, router = read_profile(PROFILE), RouterSettings()
    one = replay(read_traffic(whole), ["lert:slack"], profile, router, servers=SERVERS, sample_ratio=1)["lert:slack"]
    part = replay(read_traffic(sample), ["lert:slack"], profile, router, servers=SERVERS, sample_ratio=0.25)
    stretched = replay(read_traffic(sample), ["lert:slack"], profile, router, servers=SERVERS, sample_ratio=1)
    assert part["lert:slack"].mean_batch == pytest.approx(one.mean_batch, rel=0.15)
    assert part["lert:slack"].mean_s == pytest.approx(one.mean_s, rel=0.3)
    assert (stretched["lert:slack"].mean_batch or 0) < (one.mean_batch or 0)


def test_a_simulator_that_is_far_off_says_so() -> None:
    slow = [decision(n * 0.05, 0.5, 0.08, 100, 0.942) for n in range(200)]
    traffic = read_traffic(slow)
    found = replay(traffic, ["lert"], read_profile(PROFILE), RouterSettings(), servers=SERVERS, sample_ratio=1)
    page = render_report(traffic, 1.0, found, "")["traffic.md"]
    assert "The simulator is far off in in time, mean ms, p99 ms" in page


async def log_of_a_router(directory: Path) -> None:
    settings = {"directory": directory, "sample_ratio": 1.0}
    servers = {name: FakeServer(per_item_s=0.001) for name in SERVERS}
    async with routed(servers, policy="lert:slack", decision_log=settings) as router:
        for _ in range(10):
            await asyncio.gather(*(router.infer(item(n), deadline_ms=60) for n in range(5)))
        servers["local-0"].failures = [RuntimeError("broke")]
        servers["local-1"].failures = [RuntimeError("broke")]
        await asyncio.gather(*(router.infer(item(n)) for n in range(2)), return_exceptions=True)


@pytest.mark.virtual_time
async def test_a_routers_own_log_is_read_whole(tmp_path: Path) -> None:
    await log_of_a_router(tmp_path)
    (tmp_path / "decisions-cut.jsonl").write_text('{"id": "x-1", "at": 1.0, "fam\nnonsense\n[]\n{"id": 1}\n')
    traffic = read_traffic(read_all(tmp_path))
    assert traffic.family == "fashion"
    assert len(traffic.items) == 50
    assert traffic.failed_batches >= 1
    assert sum(traffic.counts["width"].values()) == sum(traffic.counts["server"].values()) == 50
    assert traffic.counts["policy"] == {"lert:slack": 50}
    assert np.allclose(traffic.deadline_s, 0.06)
    assert (np.diff(traffic.arrived_unix_s) >= 0).all()
    assert traffic.is_in_time.all()


@pytest.mark.virtual_time
async def test_what_a_router_refused_is_counted_by_reason_and_as_not_in_time(tmp_path: Path) -> None:
    settings = {"directory": tmp_path, "sample_ratio": 1.0}
    observer = Sheds()
    async with routed(
        {"local-0": FakeServer(per_item_s=0.02)}, observer=observer, policy="lert:slack", decision_log=settings,
        queue_limit=30,
    ) as router:  # fmt: skip
        asked = (router.infer(item(n % 10), deadline_ms=20 + n) for n in range(60))
        answers = await asyncio.gather(*asked, return_exceptions=True)
    in_time = sum(not isinstance(answer, Exception) for answer in answers)
    traffic = read_traffic(read_all(tmp_path))
    assert 0 < in_time < 60
    assert len(observer.counts) > 1
    assert traffic.refused.counts == observer.counts
    assert len(traffic.items) + len(traffic.refused.items) == 60
    assert np.allclose(traffic.refused.arrived_unix_s, traffic.arrived_unix_s[0], atol=1e-3)
    assert set(np.round(traffic.refused.deadline_s * 1e3)) <= set(range(20, 80))
    assert figures_of(traffic).attainment_ratio == pytest.approx(in_time / 60)
    assert len(read_arrivals(tmp_path).times_s) == 60
    files = render_report(traffic, 1.0, {}, "no profile")
    assert f"{60 - in_time} more were refused for load, {1 - in_time / 60:.1%} of all" in files["traffic.md"]
    assert json.loads(files["traffic.json"])["refused"] == dict(observer.counts)
    decided = {record["id"] for record in read_all(tmp_path) if not is_shed(record)}
    with next(tmp_path.glob("decisions-*.jsonl")).open("a") as file:
        file.write('{"id": "abc-1", "at": null, "outcome": {}}\n')  # of no time
    assert {record["id"] for record in read_newest(tmp_path, 100)} == decided


def test_what_a_policy_gave_up_counts_as_refused_too() -> None:
    given_up = decision(
        7.0, 0.0, 0.0, 25, 0.9, choice=None, outcome={"error": "rejected"},
        queue={"head_age_s": 0.25, "head_slack_s": 0.05, "head_items": 3},
    )  # fmt: skip
    refused = read_traffic([decision(0, 0.1, 1, 25, 0.9), given_up]).refused
    assert refused.counts == {"rejected": 1}
    assert refused.items.tolist() == [3]
    assert refused.deadline_s == pytest.approx([0.3])


def test_refused_requests_are_a_part_of_the_load_that_is_replayed() -> None:
    log = simulated_log("lert:slack")
    shed = [
        {"shed": "late", "at": BEGAN_UNIX_S + n * 0.001 + 0.02, "family": "fashion", "items": 1, "age_s": 0.02,
         "deadline_s": 0.08}
        for n in range(len(log))
    ]  # fmt: skip
    profile, router = read_profile(PROFILE), RouterSettings()
    alone, loaded = (
        replay(read_traffic(records), ["lert:slack"], profile, router, servers=SERVERS, sample_ratio=1)["lert:slack"]
        for records in (log, [*shed, *log])
    )
    assert loaded.accuracy is not None
    assert alone.accuracy is not None
    assert loaded.accuracy < alone.accuracy


@pytest.mark.parametrize(
    ("records", "family", "problem"),
    [
        ([], None, "has nothing that was sent$"),
        (
            [decision(0, 0.1, 1, 25, 0.9)],
            "digits",
            "nothing that was sent of 'digits'; there are decisions about fashion",
        ),
        ([decision(0, 0.1, 1, 25, 0.9, choice=None)], None, "has nothing that was sent$"),
        (
            [decision(0, 0.1, 1, 25, 0.9, outcome={"error": "broke", "items": 1, "requests": [{}]})],
            None,
            "no batch of 'fashion' that was answered",
        ),
    ],
)
def test_a_log_without_traffic_is_refused_in_words(
    records: list[dict[str, Any]], family: str | None, problem: str
) -> None:
    with pytest.raises(ConfigError, match=problem):
        read_traffic(records, family)


def test_of_several_families_the_one_with_most_is_taken() -> None:
    records = [decision(n, 0.1, 1, 25, 0.9) for n in range(3)] + [decision(9, 0.1, 1, 25, 0.9, family="digits")]
    assert read_traffic(records).family == "fashion"
    assert len(read_traffic(records, "digits").items) == 1


def run(folder: Path, *more: str, profile: Path | None = PROFILE, **settings: str) -> Any:
    fleet = folder / "fleet.yaml"
    router: dict[str, Any] = {"decision_log": {"directory": str(folder / "log"), "sample_ratio": 1.0}, **settings}
    if profile is not None:
        router["profile"] = str(profile)
    servers = [{"name": name, "grpc": f"127.0.0.1:{n + 1}"} for n, name in enumerate(SERVERS)]
    fleet.write_text(json.dumps({"servers": servers, "router": router}))
    return CliRunner().invoke(main, ["report", "--fleet", str(fleet), "--out", str(folder / "out"), *more])


def test_the_command_writes_the_report_with_and_without_a_profile(tmp_path: Path) -> None:
    (tmp_path / "log").mkdir()
    records = simulated_log("lert:slack", requests=400)
    (tmp_path / "log" / "decisions-abc.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    done = run(tmp_path, "--policy", "jsq")
    assert done.exit_code == 0, done.output
    document = json.loads((tmp_path / "out" / "traffic.json").read_text())
    assert set(document["replayed"]) == {"lert:slack", "jsq"}
    assert document["requests"] == len(records)
    assert "<table" in (tmp_path / "out" / "traffic.html").read_text()
    done = run(tmp_path, profile=None)
    assert done.exit_code == 0, done.output
    assert "Nothing was replayed: the fleet file has no router.profile." in done.output


def test_what_can_not_be_replayed_is_named_and_the_rest_is(tmp_path: Path) -> None:
    (tmp_path / "log").mkdir()
    records = simulated_log("lert:slack", requests=400)
    (tmp_path / "log" / "decisions-abc.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    wanted = ("--policy", "fitted", "--policy", "fastest", "--policy", "jsq")
    done = run(tmp_path, *wanted)
    assert done.exit_code == 0, done.output
    document = json.loads((tmp_path / "out" / "traffic.json").read_text())
    assert set(document["replayed"]) == {"lert:slack", "jsq"}
    assert "Not replayed: `fitted` (policy 'fitted' comes from a file" in done.output
    assert "`fastest` (unknown policy 'fastest'" in document["no_replay"]
    rule = slim("lert:widest", kind=RULE, weights={})
    write_policy_file(tmp_path / "policy.npz", rule)
    done = run(tmp_path, *wanted, policy_file=str(tmp_path / "policy.npz"))
    found = json.loads((tmp_path / "out" / "traffic.json").read_text())["replayed"]
    assert set(found) == {"lert:slack", "fitted", "jsq"}, done.output


def test_errors_are_relative_for_times_alone_and_known_where_both_are_nothing() -> None:
    figures = TrafficFigures(
        attainment_ratio=0.0, accuracy=0.5, effective_accuracy=0.0, mean_s=2.0, p50_s=None, p99_s=0.0,
        joules_per_answer=None, mean_batch=None,
    )  # fmt: skip
    assert errors_of(figures, figures) == {"attainment_ratio": 0.0, "accuracy": 0.0, "mean_s": 0.0, "p99_s": 0.0}
    other = replace(figures, attainment_ratio=0.3, accuracy=None, mean_s=3.0, p99_s=1.0)
    assert errors_of(figures, other) == {"attainment_ratio": 0.3, "accuracy": None, "mean_s": 0.5, "p99_s": None}


def test_without_decisions_the_command_says_what_is_missing(tmp_path: Path) -> None:
    done = run(tmp_path)
    assert (done.exit_code, "no decisions are in router.decision_log.directory" in done.output) == (1, True)


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        ({"fault": 7}, "TypeError a name is no text"),
        ({"candidates": None}, "TypeError"),
        ({"queue": None}, "AttributeError"),
        ({"at": None}, "TypeError"),
        ({"at": 1e300}, "ValueError a request came at no time"),
        ({"outcome": {"error": None, "items": 0, "requests": [{"items": 1, "queue_s": 0}]}}, "ZeroDivisionError"),
        ({"outcome": {"error": None, "items": 1, "requests": [{"items": 1, "queue_s": 0}]}}, "KeyError 'latency_s'"),
        ({"outcome": {"error": "rejected"}}, "KeyError 'head_items'"),
    ],
)
def test_a_decision_that_is_damaged_is_named(damage: dict[str, Any], why: str) -> None:
    whole = decision(0.0, 0.01, 0.1, 25, 0.9)
    with pytest.raises(ConfigError, match=rf"has decision abc-1.0, but it is damaged \({why}.*\); remove that line"):
        read_traffic([whole, decision(1.0, 0.01, 0.1, 25, 0.9) | damage])


def test_a_refused_request_that_is_damaged_is_named_by_its_time() -> None:
    refused = {"shed": "late", "at": 7.0, "family": "fashion", "items": 1, "age_s": 0.1, "deadline_s": "soon"}
    with pytest.raises(ConfigError, match=r"has the request that was refused at 7.0, but it is damaged"):
        read_traffic([decision(0.0, 0.01, 0.1, 25, 0.9), refused])
