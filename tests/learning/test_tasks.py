"""What a policy is fitted to, from the files that describe a fleet and its router."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from orchestrator.cli import main
from orchestrator.config import load_fleet
from orchestrator.errors import ConfigError
from orchestrator.learning.tasks import (
    LEAST_FACTORS,
    USUAL_FACTORS,
    given_traffic,
    logged_traffic,
    objectives_of,
    present_spec,
    profile_task,
)
from orchestrator.router.rollout.record import kept_path
from tests.learning.test_traffic import decision, log_of

ROOT = Path(__file__).parents[2]
PROFILE = ROOT / "profiles" / "demo-fleet.json"
SERVERS = [str(server["name"]) for server in json.loads(PROFILE.read_text())["servers"]]


def fleet_file(folder: Path, router: str, servers: list[str] = SERVERS) -> Path:
    path = folder / "fleet.yaml"
    listed = "".join(f"  - {{name: {name}, grpc: '127.0.0.1:{9000 + at}'}}\n" for at, name in enumerate(servers))
    path.write_text(f"servers:\n{listed}router:\n{router}")
    return path


def test_a_profile_is_a_fleet_with_the_objectives_of_its_router(tmp_path: Path) -> None:
    router = load_fleet(fleet_file(tmp_path, "  deadline_ms: 40\n  in_flight_groups: 3\n")).router
    made = profile_task(PROFILE, objectives_of(router), servers={"behind": SERVERS[0], "not-profiled": "not-profiled"})
    assert [server.name for server in made.servers] == ["behind"]
    asked = made.settings.objectives
    assert (asked.deadline_ms, asked.in_flight_groups, asked.shed_late) == (40, 3, True)
    with pytest.raises(ConfigError, match="the fleet has gone; profile it"):
        profile_task(PROFILE, {}, servers={"gone": "gone"})


def test_the_policy_in_force_is_named_with_its_file(tmp_path: Path) -> None:
    def present(router: str) -> str:
        return present_spec(load_fleet(fleet_file(tmp_path, router)).router)

    assert present("  policy: thrift\n  policy_file: x.npz\n") == "thrift"
    assert present("  policy: fitted\n  policy_file: x.npz\n").startswith("fitted:")
    assert present("  policy: ppo-slim\n") == "ppo-slim"


def test_a_file_that_is_on_trial_or_was_given_up_is_not_the_policy_in_force(tmp_path: Path) -> None:
    file = tmp_path / "x.npz"
    file.write_bytes(b"new")
    kept_path(file).write_bytes(b"old")
    for rollout, expected in (("{}", kept_path(file)), ("null", file)):
        text = f"  policy: fitted\n  policy_file: {file}\n  rollout: {rollout}\n"
        assert present_spec(load_fleet(fleet_file(tmp_path, text)).router) == f"fitted:{expected}"


def test_a_fleet_file_says_what_it_lacks(tmp_path: Path) -> None:
    def lacks(router: str) -> str:
        with pytest.raises(ConfigError) as refused:
            logged_traffic(load_fleet(fleet_file(tmp_path, router)), source="fleet.yaml", family=None)
        return str(refused.value)

    assert "fleet.yaml has no router.profile" in lacks("  policy: thrift\n")
    assert "fleet.yaml has no router.decision_log" in lacks(f"  profile: {PROFILE}\n")
    (tmp_path / "log").mkdir()
    log = f"  profile: {PROFILE}\n  decision_log: {{directory: {tmp_path / 'log'}}}\n"
    assert "holds no decisions-*.jsonl" in lacks(log)
    path = fleet_file(tmp_path, log)
    run = CliRunner().invoke(main, ["refit", "--fleet", str(path)])
    assert run.exit_code == 1
    assert "no router.policy_file; set it, or say with --out" in run.output


def test_a_scenario_that_replays_timestamps_is_split_like_a_log(tmp_path: Path) -> None:
    scenario = ROOT / "scenarios" / "two-unlike.yaml"
    times = tmp_path / "times.txt"
    times.write_text("".join(f"{at / 50}\n" for at in range(6000)))
    text = scenario.read_text().replace("kind: gamma, cv2: 4", f"kind: replay, file: {times}")
    replayed = tmp_path / "replayed.yaml"
    replayed.write_text(text)
    one, other = given_traffic(replayed, None, None), given_traffic(scenario, None, times)
    assert one.rate_rps == other.rate_rps == pytest.approx(50, rel=0.01)
    assert (one.fit(3).arrived_s == other.fit(3).arrived_s).all()
    assert one.digest == other.digest != given_traffic(scenario, None, None).digest
    assert one.task.crowding == 1, "a scenario says itself what comes"


def test_a_router_that_wrote_down_every_decision_can_be_fitted_to(tmp_path: Path) -> None:
    folder = tmp_path / "log"
    folder.mkdir()
    records = [decision(1e9 + turn / 20, turn, servers=tuple(SERVERS)) for turn in range(3000)]
    log_of(folder, records)
    router = f"  profile: {PROFILE}\n  deadline_ms: 40\n  decision_log: {{directory: {folder}, sample_ratio: 1}}\n"
    router += "  energy_weight: 0.01\n"
    logged = logged_traffic(load_fleet(fleet_file(tmp_path, router)), source="fleet.yaml", family=None)
    assert logged.rate_rps == pytest.approx(40, rel=0.01)  # two requests in each of twenty batches a second
    asked = {"deadline_ms": 40, "energy_weight": 0.01}
    assert {key: getattr(logged.task.settings.objectives, key) for key in asked} == asked
    given = given_traffic(None, PROFILE, folder, asked)
    assert given.task.settings.objectives.energy_weight == 0.01
    assert given.task.settings.objectives == logged.task.settings.objectives, "what a router has by default"
    assert given.task.crowding > 1, "a profile does not know what else is full"
    assert given.digest == logged.digest
    log_of(folder, [decision(1e9, 0, servers=("elsewhere",))] * 3)
    with pytest.raises(ConfigError, match="the log of another fleet"):
        given_traffic(None, PROFILE, folder, {"deadline_ms": 40})


def test_servers_that_the_file_has_no_more_are_left_out_and_told(tmp_path: Path) -> None:
    folder, said = tmp_path / "log", list[str]()
    folder.mkdir()
    first, second = SERVERS[:2]
    router = f"  profile: {PROFILE}\n  decision_log: {{directory: {folder}, sample_ratio: 1}}\n"

    def fitted_to(servers: list[str], *recorded: str) -> list[str]:
        log_of(folder, [decision(1e9 + at / 20, at, servers=recorded) for at in range(3000)])
        fleet = load_fleet(fleet_file(tmp_path, router, servers))
        task = logged_traffic(fleet, source="fleet.yaml", family=None, say=said.append).task
        return [str(server.name) for server in task.servers]

    assert fitted_to([first, second], first, second) == [first, second]
    assert said == []
    assert fitted_to([first, "new"], first, second) == [first]
    assert said == [
        f"{second}: not in fleet.yaml any more, so the fit is without",
        f"new: not in {PROFILE}, so the fit is without",
    ]
    with pytest.raises(ConfigError, match=f"is the log of {first}, {second}, which fleet.yaml does not have"):
        fitted_to(["x", "y"], first, second)


def test_of_several_families_one_is_named_and_has_its_own_widths_and_arrivals(tmp_path: Path) -> None:
    profile, folder = tmp_path / "both.json", tmp_path / "log"
    folder.mkdir()
    document = json.loads(PROFILE.read_text())
    for server in document["servers"]:
        others = [{**model, "family": "other", "name": "other_small"} for model in server["models"][:1]]
        server["models"] += others
    profile.write_text(json.dumps(document))
    records = [
        decision(1e9 + at / 20, at, family=("fashion", "other", "other")[at % 3], servers=(SERVERS[0],))
        for at in range(9000)
    ]
    log_of(folder, records)
    made = {
        family: given_traffic(None, profile, folder, {"deadline_ms": 40}, family=family)
        for family in ("fashion", "other")
    }
    assert made["other"].rate_rps == pytest.approx(2 * made["fashion"].rate_rps, rel=0.01)
    widths = {family: len(traffic.task.servers[0].models) for family, traffic in made.items()}
    assert widths == {"fashion": 4, "other": 1}
    with pytest.raises(ConfigError, match="holds requests of fashion, other; name one with --family"):
        given_traffic(None, PROFILE, folder)
    with pytest.raises(ConfigError, match="holds no request of nobody, but of fashion, other"):
        given_traffic(None, profile, folder, family="nobody")
    times = tmp_path / "times.txt"
    times.write_text("".join(f"{at / 50}\n" for at in range(20_000)))
    with pytest.raises(ConfigError, match="knows the families fashion, other; name one with --family"):
        given_traffic(None, profile, times)
    for arrivals in (folder, times):
        with pytest.raises(ConfigError, match="knows the families fashion; there is no other"):
            given_traffic(None, PROFILE, arrivals, family="other")
    with pytest.raises(ConfigError, match="--family goes with --profile or --arrivals"):
        given_traffic(ROOT / "scenarios" / "two-unlike.yaml", None, None, family="other")


def test_servers_without_the_family_are_left_out(tmp_path: Path) -> None:
    document = json.loads(PROFILE.read_text())
    first = document["servers"][0]
    first["models"].append({**first["models"][0], "family": "other", "name": "other_small"})
    (tmp_path / "both.json").write_text(json.dumps(document))
    names = {
        family: [str(server.name) for server in profile_task(tmp_path / "both.json", {}, family=family).servers]
        for family in ("fashion", "other")
    }
    assert names == {"fashion": SERVERS, "other": SERVERS[:1]}


def test_batches_vary_as_a_log_says_that_has_enough_of_them_and_else_as_is_usual(tmp_path: Path) -> None:
    def factors_of(records: list[Any]) -> list[float]:
        log_of(tmp_path, records)
        hosts = given_traffic(None, PROFILE, tmp_path, {"deadline_ms": 40}).task.settings.hosts
        assert [list(host.servers) for host in hosts] == [[name] for name in SERVERS]
        residuals = hosts[0].residuals
        assert residuals is not None and residuals.factors is not None
        return list(residuals.factors)

    def timed(record: Any, factor: float) -> Any:
        """Return a decision to send to a server that had nothing, and was that much slower than expected."""
        candidates = [
            {**c, "width": 100, "item_s": 0.01, "group_s": 0.02, "server_items": 0} for c in record["candidates"]
        ]
        outcome = {**record["outcome"], "items": 2, "service_s": 0.04 * factor}
        return {**record, "candidates": candidates, "choice": {"server": SERVERS[0], "width": 100}, "outcome": outcome}

    records = [decision(1e9 + turn / 20, turn, servers=tuple(SERVERS)) for turn in range(3000)]
    usual = factors_of(records)
    assert usual == list(USUAL_FACTORS)
    assert sum(usual) / len(usual) == pytest.approx(1)
    assert max(usual) > 2
    measured = [timed(record, 1.5 if turn % 2 else 0.5) for turn, record in enumerate(records[:LEAST_FACTORS])]
    assert factors_of([*measured[1:], *records[LEAST_FACTORS:]]) == usual, "one too few"
    factors = factors_of([*measured, *records[LEAST_FACTORS:]])
    assert sorted({round(factor, 1) for factor in factors}) == [0.5, 1.5]


def test_servers_behind_a_host_name_have_the_entry_of_their_own_name_or_of_the_files(tmp_path: Path) -> None:
    own, named = SERVERS[:2]
    folder = tmp_path / "log"
    folder.mkdir()
    path = tmp_path / "fleet.yaml"
    path.write_text(
        f"servers: [{{name: {named}, grpc: 'triton.svc:8001'}}]\n"
        f"router: {{profile: {PROFILE}, decision_log: {{directory: {folder}, sample_ratio: 1}}}}\n"
    )

    def fitted_to(*turns: tuple[str, ...]) -> list[tuple[str, float]]:
        records = [decision(1e9 + at / 20, at, servers=turns[at % len(turns)]) for at in range(3000)]
        log_of(folder, records)
        task = logged_traffic(load_fleet(path), source="fleet.yaml", family=None).task
        return [(str(server.name), server.models[0].service_s[0]) for server in task.servers]

    (_, own_s), (_, named_s) = fitted_to((own, named))
    assert own_s != named_s
    assert fitted_to(("triton-0", f"{named}-10.0.0.7")) == [(f"{named}-10.0.0.7", named_s), ("triton-0", named_s)]
    assert fitted_to(("triton-0",), ("triton-1", own), ("triton-0",)) == [(own, own_s), ("triton-1", named_s)]
    path.write_text(path.read_text().replace("svc:8001'}", "svc:8001'}, {name: other, grpc: 'other.svc:8001'}"))
    assert fitted_to((f"{named}-10.0.0.7", "triton-0")) == [(f"{named}-10.0.0.7", named_s), ("triton-0", named_s)]
    with pytest.raises(ConfigError, match=f"it decided about pod-0, the profile knows .*{named}"):
        fitted_to(("pod-0", f"{named}-10.0.0.7"))
    path.write_text(path.read_text().replace("{name: other,", f"{{name: other, device_class: {own},"))
    assert fitted_to(("other-0",)) == [(named, named_s), ("other-0", own_s)]
    assert fitted_to(("triton-0",)) == [("other", own_s), ("triton-0", named_s)]
