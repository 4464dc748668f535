from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from orchestrator.errors import ConfigError
from orchestrator.profile.document import read_profile
from orchestrator.simulation.results import summarise
from orchestrator.simulation.scenario.capacity import capacity_rps, least_joules, most_accuracy
from orchestrator.simulation.scenario.digest import digest_scenario
from orchestrator.simulation.scenario.fleet import (
    SimulatedServer,
    check_fleet,
    linear_model,
    lognormal_sigma,
    server_from_profile,
)
from orchestrator.simulation.scenario.settings import load_scenario
from orchestrator.simulation.scenario.trace import draw_trace
from orchestrator.snapshot import ServerName
from tests.plugged import install
from tests.simulation.worlds import run, scenario, servers, single

ROOT = Path(__file__).parents[3]
SCENARIOS = sorted((ROOT / "scenarios").glob("*.yaml"))
GOOD: dict[str, Any] = {"name": "good", "servers": [{"name": "a", "widths": {50: {"item_ms": 2}, 100: {"item_ms": 5}}}]}
WIDTHS = {50: {"item_ms": 2, "accuracy": 0.8}, 100: {"item_ms": 5, "accuracy": 0.9}}
OF_TWO = {"name": "a", "families": {name: WIDTHS for name in ("cats", "dogs")}}


def written(folder: Path, values: dict[str, Any]) -> Path:
    path = folder / "scenario.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


@pytest.mark.parametrize("path", SCENARIOS, ids=lambda p: p.stem)
def test_the_scenarios_that_are_shipped_run(path: Path) -> None:
    settings, fleet = load_scenario(path)
    settings = settings.model_copy(update={"workload": settings.workload.model_copy(update={"requests": 2000})})
    result = summarise(run(settings, fleet, "lert:slack"), seed=0)
    assert result.answered + result.shed + result.failed == 2000
    assert result.attainment_ratio > 0.9
    assert result.joules_per_answer is not None
    assert result.joules_per_answer > 0


def test_servers_are_counted_and_named(tmp_path: Path) -> None:
    entry = {**GOOD["servers"][0], "count": 12}
    _, fleet = load_scenario(written(tmp_path, {**GOOD, "servers": [entry, {**entry, "name": "b", "count": 1}]}))
    assert [*[s.name for s in fleet][:2], fleet[-1].name] == ["a00", "a01", "b"]
    assert len(fleet) == 13


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"colour": 1}, "unknown key colour; allowed here: name, servers, families, workload"),
        ({"workload": {"load": 1}}, "unknown key workload.load; allowed here: kind, load_ratio"),
        ({"workload": {"load_ratio": 0}}, "workload.load_ratio: must be above 0, got 0"),
        ({"workload": {"cv2": math.nan}}, "workload.cv2: .*finite number"),
        (
            {"workload": {"kind": "poison"}},
            "workload.kind: unknown kind 'poison'; known are poisson, gamma, mmpp, self-s",
        ),
        ({"workload": {"numbers": [1]}}, "numbers go with a kind of another package; 'poisson' has keys of its own"),
        ({"workload": {"kind": "replay"}}, "file goes with kind 'replay'"),
        ({"workload": {"kind": "ramp", "rates": [1, 2, 3]}}, "a ramp has two rates"),
        ({"workload": {"rates": [-1, 2]}}, "must not be negative"),
        ({"objectives": {"deadline_ms": -5}}, "objectives.deadline_ms: must be above 0, got -5"),
        (
            {"objectives": {"min_accuracy": 7}},
            "objectives.min_accuracy is 7, the most that any width has is .*; lower it",
        ),
        (
            {"families": {"cats": {}, "dogs": {"min_accuracy": 7}}, "servers": [OF_TWO]},
            "families.dogs.min_accuracy is 7, the most that any width has is 0.9; lower it",
        ),
        ({"servers": []}, "servers: must have at least 1"),
        ({"servers": [{"name": "a"}]}, "server 'a' needs either profile or widths"),
        ({"servers": [*GOOD["servers"], *GOOD["servers"]]}, "the name 'a' is used twice; names must be unique"),
        ({"servers": [{"name": "a", "widths": {0: {"item_ms": 1}}}]}, "must be at least 1"),
        ({"servers": [{"name": "a", "widths": {25: {"item_ms": 1e308}}}]}, "item_ms: must be at most 1e.*, got 1e.308"),
        ({"servers": [{"name": "a", "widths": {25: {"item_ms": 1, "group_ms": 1e308}}}]}, "group_ms: must be at most"),
        ({"servers": [{"name": "a", "widths": {25: {"item_ms": 1, "instances": 2**40}}}]}, "must be at most 1024, got"),
        ({"families": {"cats": {"share": 1e308}}}, "families.cats.share: must be at most"),
        ({"workload": {"classes": [{"share": 1e308}]}}, r"workload.classes\[0\].share: must be at most"),
        ({"servers": [{"name": "a", "profile": "none.json"}]}, "none.json"),
        (
            {
                "servers": [{"name": "a", "families": {"f": {25: {"item_ms": 1}}}}],
                "families": {"f": {}},
                "workload": {"deadlines_ms": {50: 1}},
            },
            "workload.deadlines_ms: there are families; give each its own deadline_ms",
        ),
        ({"workload": {"deadlines_ms": {0: 1}}}, "workload.deadlines_ms.0.*: must be above 0, got 0"),
        ({"faults": {"throttle_factor": 0.5}}, "faults.throttle_factor: must be at least 1, got 0.5"),
        ({"hosts": [{"name": "h", "cores": 0}]}, r"hosts\[0\].cores: must be above 0, got 0"),
        ({"hosts": [{"name": "h", "cores": 1, "servers": {"b": 1}}]}, "h has no server 'b' to hold; there are a"),
        ({"hosts": [{"name": "h", "cores": 1, "servers": {"a": 2}}]}, "must be at most 1, got 2"),
        ({"hosts": [{"name": n, "cores": 1, "servers": {"a": 1}} for n in "gh"]}, "a is on g and on h; leave it on"),
        ({"hosts": [{"name": n, "cores": 1, "router": {}} for n in "gh"]}, "g and h have a router each"),
        ({"hosts": [{"name": "h", "cores": 1, "competing": [[2, 1], [1, 0]]}]}, "1 s comes after 2 s"),
        (
            {"hosts": [{"name": "h", "cores": 1, "stalls": {"every_s": 1, "least_ms": 9, "most_ms": 3}}]},
            "most_ms = 3 is below least_ms = 9",
        ),
        ({"hosts": [{"name": "h", "cores": 1, "residuals": {}}]}, "residuals need either factors or file"),
        ({"hosts": [{"name": "h", "cores": 1, "residuals": {"file": "none.txt"}}]}, "can't read .*none.txt"),
    ],
)
def test_what_is_impossible_is_refused_with_key_and_value(
    tmp_path: Path, changes: dict[str, Any], problem: str
) -> None:
    with pytest.raises(ConfigError, match=problem) as refused:
        load_scenario(written(tmp_path, {**GOOD, **changes}))
    assert "\n" not in str(refused.value)


def test_files_that_are_no_scenario_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "scenario.yaml"
    for text, problem in (("[1, 2]", "holds no keys"), ("a: [", "is no YAML")):
        path.write_text(text)
        with pytest.raises(ConfigError, match=problem):
            load_scenario(path)
    with pytest.raises(ConfigError, match="can't read the scenario"):
        load_scenario(tmp_path)


def test_a_server_of_several_in_a_profile_must_be_named(tmp_path: Path) -> None:
    profile = ROOT / "profiles" / "synthetic" / "t4.json"
    entry = {"name": "a", "profile": str(profile), "profile_server": "nobody"}
    with pytest.raises(ConfigError, match="no server 'nobody' in the profile, only"):
        load_scenario(written(tmp_path, {**GOOD, "servers": [entry]}))


def test_a_simulated_server_takes_what_its_profile_measured() -> None:
    profile = read_profile(ROOT / "profiles" / "synthetic" / "t4.json").servers[0]
    server = server_from_profile(profile, "mine")
    assert server.idle_w == profile.idle.power_w
    for model, measured in zip(server.models, sorted(profile.models, key=lambda m: m.width), strict=True):
        assert model.max_batch_size == measured.max_batch_size
        for batch in measured.batches:
            assert model.service_s[batch.items - 1] == pytest.approx(batch.mean_s)
            assert model.energy_j is not None
            assert model.energy_j[batch.items - 1] == pytest.approx(batch.energy_j)
        assert model.start.line() == pytest.approx((measured.line.per_item_s, measured.line.fixed_s))


def test_a_delay_is_part_of_a_scenarios_digest_and_none_leaves_it_as_it_was() -> None:
    given = scenario(requests=10)
    fleet = servers(2, linear_model(100, per_item_s=0.01))
    assert "delay" not in repr(fleet)  # digests of scenarios before there were delays are made of this
    far = servers(2, replace(linear_model(100, per_item_s=0.01), delay_s=0.001))
    farther = servers(2, replace(linear_model(100, per_item_s=0.01), delay_s=0.002))
    assert len({digest_scenario(given, each) for each in (fleet, far, farther)}) == 3


def test_what_scenarios_did_not_say_before_is_part_of_a_digest_and_by_default_leaves_it_as_it_was() -> None:
    fleet = servers(2, linear_model(100, per_item_s=0.01))
    plain = digest_scenario(scenario(requests=10), fleet)
    assert plain == "4fceaaa58b7e78ee"  # of a version that knew none of these
    others = [
        scenario(requests=10, workload={"priorities": {1: 1, 2: 3}}),
        scenario(requests=10, workload={"priorities": {1: 1, 2: 4}}),
        scenario(requests=10, workload={"callers": 3}),
        scenario(requests=10, workload={"deadlines_ms": {50: 1, 500: 3}}),
        scenario(requests=10, faults={"heat_s": 10.0}),
        scenario(requests=10, faults={"heat_s": 10.0, "hot_above": 0.5}),
        scenario(requests=10, objectives={"shed_late": True}),
        scenario(requests=10, objectives={"energy_weight": 0.01}),
        scenario(requests=10, hosts=[{"name": "h", "cores": 1}]),
        scenario(requests=10, hosts=[{"name": "h", "cores": 1, "router": {"request_us": 60}}]),
        scenario(requests=10, hosts=[{"name": "h", "cores": 1, "router": {"request_us": 60, "weight": 3}}]),
    ]
    assert len({plain, *(digest_scenario(other, fleet) for other in others)}) == 1 + len(others)


def test_arrivals_of_another_package_are_simulated_and_its_version_is_part_of_the_digest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = "import numpy as np\n\n\ndef pairs(gap):\n    return lambda count, rng: np.arange(count) // 2 * gap\n"
    install(tmp_path, "pairs_one", source, {"pairs": "pairs"}, "slimsched.workloads")
    monkeypatch.syspath_prepend(tmp_path)
    workload = {"kind": "pairs", "requests": 10}
    loaded = [load_scenario(written(tmp_path, {**GOOD, "workload": {**workload, "numbers": [gap]}})) for gap in (2, 4)]
    first, second = (draw_trace(*each, seed=0).arrived_s for each in loaded)
    assert np.array_equal(first[0::2], first[1::2])
    assert second == pytest.approx(2 * first)
    digests = {digest_scenario(*each) for each in loaded}
    about = tmp_path / "pairs_one-1.0.dist-info" / "METADATA"
    about.write_text(about.read_text().replace("Version: 1.0", "Version: 1.1"))
    assert len(digests | {digest_scenario(*loaded[0])}) == 3


def test_priorities_are_drawn_by_their_shares_and_leave_all_else_of_a_trace_alone() -> None:
    fleet = servers(2, linear_model(100, per_item_s=0.01, sigma=0.1))
    plain = draw_trace(scenario(requests=4000), fleet, 7)
    mixed = draw_trace(scenario(requests=4000, workload={"priorities": {1: 1, 3: 3}}), fleet, 7)
    assert set(plain.priority) == {1.0}
    assert set(mixed.priority) == {1.0, 3.0}
    assert (mixed.priority == 1).mean() == pytest.approx(0.25, abs=0.03)
    for name in ("arrived_s", "deadline_s", "items", "noise", "uniforms"):
        assert np.array_equal(getattr(plain, name), getattr(mixed, name))


def test_deadlines_are_drawn_by_their_shares_too_where_one_family_waits_in_one_queue(tmp_path: Path) -> None:
    fleet = servers(2, linear_model(100, per_item_s=0.01, sigma=0.1))
    plain = draw_trace(scenario(requests=4000), fleet, 7)
    mixed = draw_trace(scenario(requests=4000, workload={"deadlines_ms": {50: 1, 500: 3}}), fleet, 7)
    allowed_s = mixed.deadline_s - mixed.arrived_s
    assert np.unique(allowed_s.round(9)).tolist() == [0.05, 0.5]
    assert (allowed_s < 0.1).mean() == pytest.approx(0.25, abs=0.03)
    for name in ("arrived_s", "priority", "items", "noise", "uniforms"):
        assert np.array_equal(getattr(plain, name), getattr(mixed, name))


@pytest.mark.parametrize("sigma", [0.0, 0.1, 0.5, 1.0])
def test_sigma_gives_the_ratio_of_the_99th_percentile_back(sigma: float) -> None:
    assert lognormal_sigma(math.exp(2.3263478740408408 * sigma - sigma * sigma / 2)) == pytest.approx(sigma, abs=1e-6)
    drawn = np.exp(sigma * np.random.default_rng(0).standard_normal(400_000) - sigma * sigma / 2)
    assert drawn.mean() == pytest.approx(1, rel=0.01)
    assert lognormal_sigma(np.quantile(drawn, 0.99)) == pytest.approx(sigma, abs=0.02)


def test_capacity_and_the_fluid_bound_by_hand() -> None:
    models = (
        linear_model(50, per_item_s=0.01, max_batch_size=1, accuracy=0.8),
        linear_model(100, per_item_s=0.04, max_batch_size=1, accuracy=0.9, instances=2),
    )
    fleet = servers(2, *models)
    assert capacity_rps(fleet) == pytest.approx(200)
    assert capacity_rps(fleet, width=100) == pytest.approx(100)
    assert capacity_rps(fleet, min_accuracy=0.85) == pytest.approx(100)
    assert most_accuracy(fleet, 50) == pytest.approx(0.9)
    # Half of the time at each width: 50 at 0.9 and 100 at 0.8.
    assert most_accuracy(fleet, 150) == pytest.approx((50 * 0.9 + 100 * 0.8) / 150)
    assert most_accuracy(fleet, 201) is None
    assert most_accuracy(fleet, 10, min_accuracy=0.95) is None
    with pytest.raises(ConfigError, match=r"no server serves width 75 with an accuracy of 0 or more; .*\[50, 100\]"):
        capacity_rps(fleet, width=75)


@pytest.mark.parametrize("policy", ["lert:slack", "slackfit", "max-accuracy", "random:slack"])
def test_no_policy_is_more_accurate_than_the_fluid_bound(policy: str) -> None:
    fleet = servers(
        3, linear_model(25, per_item_s=0.002, accuracy=0.7), linear_model(100, per_item_s=0.01, accuracy=0.9)
    )
    simulation = run(scenario(requests=30_000, load=0.6, objectives={"deadline_ms": 50}), fleet, policy)
    result = summarise(simulation, seed=0, warm_up_ratio=0.1)
    bound = most_accuracy(fleet, simulation.trace.rate_rps)
    assert result.accuracy is not None
    assert bound is not None
    assert result.accuracy <= bound + 0.005
    assert result.attainment_ratio > 0.5


def test_the_fewest_joules_are_those_of_the_thriftiest_flows() -> None:
    # Two machines of 10 W: at 100 items/s one joule an item, at 50 items/s three; batches of two save a launch.
    narrow = linear_model(25, per_item_s=0.01, max_batch_size=2, accuracy=0.8, per_item_j=0.9, fixed_j=0.2)
    wide = linear_model(100, per_item_s=0.02, max_batch_size=2, accuracy=0.9, per_item_j=3)
    fleet = servers(2, narrow, wide, idle_w=10)
    assert least_joules(fleet, 100, 0.8) == pytest.approx(1 + 20 / 100)
    # Half of the answers at full width give 0.85 and take 1 and 3 J.
    assert least_joules(fleet, 100, 0.85) == pytest.approx(2 + 20 / 100)
    assert least_joules(fleet, 200, 0.85) is None  # too much for so many wide answers
    assert least_joules(fleet, 100, 0.95) is None
    assert least_joules(servers(2, narrow, wide), 100, 0.8) is None  # idle power is unknown


def test_fleets_that_make_no_sense_are_refused() -> None:
    for fleet, problem in (
        ([], "fleet.servers is empty"),
        ([SimulatedServer(ServerName("a"), ())], "a has no widths; give it one at least"),
        ([SimulatedServer(ServerName("a"), (single(), single()))], r"a has widths \[100, 100\]"),
    ):
        with pytest.raises(ConfigError, match=problem):
            check_fleet(fleet)


def test_reports_come_when_they_should_and_some_are_lost() -> None:
    telemetry = {"report_every_s": 0.1, "delay_s": 0.05, "lost_ratio": 0.25}
    settings = scenario(requests=2000, telemetry=telemetry, objectives={"request_timeout_s": 1})
    schedule = draw_trace(settings, servers(4, single()), 0).schedule
    assert (np.diff(schedule[0]) >= 0).all()
    horizon_s = draw_trace(settings, servers(4, single()), 0).arrived_s[-1] + 1
    assert schedule.shape[1] == pytest.approx(4 * 0.75 * horizon_s / 0.1, rel=0.1)


def test_reports_are_drawn_beforehand_so_the_end_of_a_run_must_be_known(tmp_path: Path) -> None:
    values = {**GOOD, "workload": {"callers": 4, "load_ratio": 1.0}, "telemetry": {"report_every_s": 1.0}}
    with pytest.raises(ConfigError, match=r"telemetry\.report_every_s: reports are drawn beforehand"):
        load_scenario(written(tmp_path, values))
