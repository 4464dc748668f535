"""A fit from end to end, small: it promotes what is better, nothing by luck, and goes on where it was interrupted."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from click.testing import CliRunner

from orchestrator.cli import main
from orchestrator.errors import ConfigError
from orchestrator.learning import fitting
from orchestrator.learning.checkpoints import RunFolder
from orchestrator.learning.evolution import PORTFOLIO
from orchestrator.learning.fitting import FitSettings, fit, identity, rule_file
from orchestrator.learning.groups import Groups
from orchestrator.learning.judging import Candidate, Difference, JudgedPolicy, judge, paired, promote
from orchestrator.learning.objective import FIGURES, crowd, earned, objective_weights, run_policy
from orchestrator.learning.ppo.training import Ppo, PpoSettings, Round
from orchestrator.learning.report import describe_fit
from orchestrator.learning.tasks import given_traffic
from orchestrator.learning.traffic import Traffic
from orchestrator.policies.learned.network import untrained
from orchestrator.policies.learned.policy import LearnedPolicy
from orchestrator.policies.learned.policy_file import RULE, PolicyFile, read_policy_file
from orchestrator.policies.parsing import parse_policy
from orchestrator.simulation.rewards import OBJECTIVES, Task, reward_scales
from orchestrator.simulation.scenario.trace import draw_trace
from orchestrator.simulation.simulation import Simulation
from orchestrator.simulation.world import columns as sim
from orchestrator.simulation.world_batch import WorldBatch
from tests.learning.worlds import WASTEFUL, costly_traffic, costly_width
from tests.policies.learned.test_policy import slim, trained
from tests.simulation.controlled import with_controllers
from tests.simulation.test_world_batch import as_the_base, play

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:tensorboard.*"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:torch.*"),
]
SCENARIO = Path(__file__).parents[2] / "scenarios" / "two-unlike.yaml"
SMALL = PpoSettings(choices=2048, replicas=4, segment=4.0, batch=512)
SETTINGS = FitSettings(WASTEFUL, seconds=0.0, ppo=SMALL)


def test_what_a_world_earns_weighed_is_its_utility() -> None:
    made = costly_width(requests=2000, load=0.6)
    trace = draw_trace(made.settings, made.servers, 3)
    batch = WorldBatch(1, base="lert:slack")
    batch.load(0, made, trace)
    _, earned = play(batch, as_the_base)
    weights = objective_weights(made)
    figures = run_policy(made, parse_policy("lert:slack"), trace)
    idle_j = sum(s.idle_w or 0.0 for s in made.servers) * float(trace.arrived_s[-1]) / 2000
    idle = float(weights[2]) / reward_scales(made)[3] * idle_j
    least = min(m.accuracy for s in made.servers for m in s.models)
    # The first requests count here.
    assert float(earned[0] @ weights) / 2000 + least - idle == pytest.approx(figures["utility"], abs=0.003)


def test_where_arrivals_may_be_denser_a_policy_is_worth_half_of_what_it_is_then() -> None:
    made = costly_width(requests=2000, load=0.9)
    policy, trace = parse_policy("lert:slack"), draw_trace(made.settings, made.servers, 3)
    plain, denser = run_policy(made, policy, trace), run_policy(made, policy, crowd(trace, 1.25))
    both = run_policy(replace(made, crowding=1.25), policy, trace)
    assert plain["utility"] is not None
    assert denser["utility"] is not None
    assert denser["utility"] < plain["utility"]
    assert both == {**plain, "utility": (plain["utility"] + denser["utility"]) / 2}


def test_threads_run_one_learned_policy_side_by_side() -> None:
    traffic = Traffic(costly_width(count=3), None)
    policy = LearnedPolicy(slim("thrift", weights=trained(), strength=1.0))
    traces = traffic.held_out()
    alone = [run_policy(traffic.task, policy, trace) for trace in traces]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(5):
            assert list(pool.map(lambda trace: run_policy(traffic.task, policy, trace), traces)) == alone


def test_a_base_goes_by_its_own_knobs_where_requests_prefer_nothing() -> None:
    traffic = Traffic(costly_width(count=2), None)
    traces, utilities = traffic.held_out(), {}
    for spec in ("thrift,worth=0", "thrift,worth=0.6,latency=0.4"):
        for policy in (parse_policy(spec), LearnedPolicy(slim(spec, weights=untrained()))):
            found = [run_policy(traffic.task, policy, trace)["utility"] for trace in traces]
            assert utilities.setdefault(spec, found) == found
    first, second = utilities.values()
    assert first != second


def explored(traffic: Traffic, rounds: int, *, choices: int = 4096) -> tuple[Ppo, list[Round]]:
    """PPO on a wasteful base, after so many rounds."""
    groups = Groups(traffic.task, traffic.fit, base=WASTEFUL, replicas=4, segment=4.0, choices=choices)
    weights = objective_weights(traffic.task)
    settings = replace(SMALL, choices=choices, strength=1.0)
    ppo = Ppo(groups, weights, scale=10 * float(weights.max()), settings=settings, seed=0, log=None)
    found = [ppo.round() for _ in range(rounds)]
    groups.close()
    return ppo, found


def test_ppo_finds_out_that_the_base_is_wrong() -> None:
    traffic = costly_traffic()
    ppo, rounds = explored(traffic, 24)
    first = [each.is_moving for each in rounds].index(True)
    assert rounds[first].explained >= 0.5
    assert all(each.explained < 0.5 for each in rounds[:first])
    assert all(each.is_moving for each in rounds[first:])
    assert rounds[first].signal > 1  # more than noise
    file = PolicyFile("ppo-slim", WASTEFUL, ppo.export_weights(), *ppo.ranges.known(), strength=1.0)
    policies = (LearnedPolicy(file), parse_policy(WASTEFUL), parse_policy("lert:narrowest"))
    own, base, best = (
        np.mean([run_policy(traffic.task, policy, trace)["utility"] for trace in traffic.held_out()])  # type: ignore[arg-type]
        for policy in policies
    )
    assert own > base + 0.8 * (best - base) > base


def test_an_actor_whose_baseline_explains_too_little_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orchestrator.learning.ppo.training.EXPLAINED", 1.1)
    ppo, rounds = explored(costly_traffic(), 2, choices=512)
    assert not any(each.is_moving or each.signal for each in rounds)
    assert all((weight == 0).all() for name, weight in ppo.export_weights().items() if name.startswith("out"))


def test_the_same_seed_is_the_same_run_and_a_state_goes_on() -> None:
    traffic, made = costly_traffic(), []
    weights = objective_weights(traffic.task)
    for _ in range(2):
        groups = Groups(traffic.task, traffic.fit, base=WASTEFUL, replicas=4, segment=4.0, choices=1024)
        ppo = Ppo(groups, weights, scale=1.0, settings=SMALL, seed=3, log=None)
        made.append((ppo, [ppo.round(), ppo.round()]))
        groups.close()
    assert made[0][1] == made[1][1]
    state = made[0][0].state()
    made[1][0].restore(state)
    for one, other in zip(made[0][0].export_weights().values(), made[1][0].export_weights().values(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_fit_promotes_what_is_better_and_says_what_all_candidates_did(tmp_path: Path) -> None:
    traffic, lines = costly_traffic(), []
    run = RunFolder(tmp_path / "run", identity(traffic, SETTINGS), resume=False)
    made = fit(traffic, SETTINGS, run, report=lambda part, line: lines.append(line))
    assert made.promoted is not None
    assert made.promoted.better_by.low > 0
    origins = {candidate.origin for candidate in made.candidates}
    assert origins == {"in force", "rule", "evolution", "ppo", "ppo-evolved"}
    in_force = next(place for place, each in enumerate(made.candidates) if each.origin == "in force")
    better = [each.chosen_by.low for each in made.candidates[:in_force]]
    assert better == sorted(better, reverse=True)
    assert all((each.chosen_by.value > 0) == (place < in_force) for place, each in enumerate(made.candidates))
    said = describe_fit(made, traffic, SETTINGS)
    assert json.loads(json.dumps(said))["promoted"] == made.promoted.spec
    assert made.evolved is not None
    assert [(each.origin, each.base in made.evolved.specs) for each in made.learned] == [
        ("ppo", False),
        ("ppo-evolved", True),
    ]
    assert said["ppo"]["choices"] == made.learned[0].choices > 0
    assert said["ppo-evolved"]["base"] == made.evolved.specs[0]
    assert any(line.startswith("evolution:") for line in lines)
    fitting.write_promoted(tmp_path / "fitted.npz", made.promoted)
    served = parse_policy(f"fitted:{tmp_path / 'fitted.npz'}")
    figures = [run_policy(traffic.task, served, trace)["utility"] for trace in traffic.held_out()]
    assert np.mean(figures) == pytest.approx(made.promoted.figures["utility"])  # type: ignore[arg-type]


def without_choice(deadline_ms: float = 60.0) -> Traffic:
    """A fleet of one server and one width leaves nothing to choose."""
    made = costly_width(count=1)
    objectives = made.settings.objectives.model_copy(update={"deadline_ms": deadline_ms})
    settings = made.settings.model_copy(update={"objectives": objectives})
    return Traffic(Task(settings, tuple(replace(s, models=s.models[:1]) for s in made.servers), made.preference), None)


def test_ppo_ends_as_its_base_where_nothing_can_be_chosen() -> None:
    task = without_choice(deadline_ms=500.0).task
    frugal = tuple(replace(s, models=tuple(replace(m, energy_j=None) for m in s.models)) for s in task.servers)
    ppo, rounds = explored(Traffic(replace(task, servers=frugal), None), 3)  # no joules, so nothing is waited for
    assert [each.choices for each in rounds] == [0, 0, 0]
    assert ppo.choices == 0
    assert all((weight == 0).all() for name, weight in ppo.export_weights().items() if name.startswith("out"))


def test_where_nothing_is_better_the_policy_in_force_stays(tmp_path: Path) -> None:
    traffic = without_choice()
    settings = replace(SETTINGS, present="lert:slack", learners=("evolution",))
    found = fit(traffic, settings, RunFolder(tmp_path, {}, resume=False))
    assert found.promoted is None or found.promoted.better_by.value < 0.05  # how long to hold may still matter
    assert found.learned == ()


def candidate(differences: np.ndarray, *, in_force: bool = False) -> Candidate:  # type: ignore[type-arg]
    file = None if in_force else PolicyFile(RULE, "thrift", {}, np.zeros(1, np.float32), np.zeros(1, np.float32))
    better_by = paired(differences, np.zeros_like(differences))
    return Candidate("rule", "thrift", file, 1.0, Difference(0.0, 0.0, 0.0), {}, better_by)


def test_noise_is_hardly_ever_promoted_and_what_is_better_nearly_always() -> None:
    rng, force = np.random.default_rng(0), candidate(np.zeros(12), in_force=True)
    lucky = sum(promote([candidate(rng.standard_normal(12)), force])[0] is not None for _ in range(1000))
    assert lucky <= 40  # 2.5 % of them
    better = sum(promote([candidate(2 + rng.standard_normal(12)), force])[0] is not None for _ in range(100))
    assert better >= 98


def test_of_equally_good_candidates_the_one_that_is_most_surely_better_is_held_against_who_is_in_force() -> None:
    traffic = costly_traffic()
    windows = len(traffic.choosing()) + len(traffic.held_out())
    gains = [
        np.zeros(windows),
        0.011 + 0.05 * (-1.0) ** np.arange(windows),
        np.full(windows, 0.01),
        np.full(windows, -0.001),
    ]

    def execute(run: object, jobs: Iterable[Any]) -> Iterator[tuple[Any, dict[str, float | None]]]:
        for job in jobs:
            entry, window = divmod(job[0], windows)
            yield job, {**dict.fromkeys(FIGURES), "utility": 0.5 + gains[entry][window]}

    names = ("lert:slack", "lert:narrowest", "lert:50", "lert:75")
    entries = [
        JudgedPolicy("rule" if place else "in force", name, parse_policy(name), rule_file(name) if place else None)
        for place, name in enumerate(names)
    ]
    candidates = judge(traffic, entries, execute)
    assert [each.spec for each in candidates] == ["lert:50", "lert:narrowest", "lert:slack", "lert:75"]
    promoted, _ = promote(candidates)
    assert promoted is not None
    assert promoted.better_by == pytest.approx((0.01, 0.01, 0.01))


def test_who_is_in_force_is_never_promoted_and_the_reason_is_said() -> None:
    other, force = candidate(np.ones(12)), candidate(np.zeros(12), in_force=True)
    assert promote([force, other]) == (
        None,
        "no candidate was better than the policy in force on the traffic that chooses",
    )
    promoted, why = promote([candidate(np.array([1.0, -1.0] * 6)), force])
    assert promoted is None
    assert "not surely better: +0.0000 (95 % interval -" in why
    assert paired(np.ones(3), np.zeros(3)) == Difference(1.0, 1.0, 1.0)


def test_an_interrupted_fit_goes_on_and_no_other_is_taken_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    traffic, folder = costly_traffic(), tmp_path / "run"
    for module in ("fitting", "learner"):
        monkeypatch.setattr(f"orchestrator.learning.{module}._KEEP_EVERY_S", 0.0)
    run, lines = RunFolder(folder, identity(traffic, SETTINGS), resume=False), list[str]()

    def interrupt(part: float, line: str) -> None:
        lines.append(line)
        if sum(each.startswith("ppo:") for each in lines) == 2:  # after the first one was kept
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(traffic, replace(SETTINGS, seconds=2.0), run, report=interrupt)
    with pytest.raises(ConfigError, match="holds a run already"):
        RunFolder(folder, identity(traffic, SETTINGS), resume=False)
    with pytest.raises(ConfigError, match=r"other settings \(seed\)"):
        RunFolder(folder, identity(traffic, replace(SETTINGS, seed=1)), resume=True)
    resumed = RunFolder(folder, identity(traffic, replace(SETTINGS, seconds=1.0)), resume=True)
    assert resumed.read("rungs")["utilities"]
    made = fit(traffic, SETTINGS, resumed)
    own = made.learned[0]
    assert own.choices > sum(each.choices for each in own.rounds)  # those before count too


def test_the_command_fits_and_writes_what_a_router_is_given(tmp_path: Path) -> None:
    scenario = yaml.safe_load(SCENARIO.read_text())
    scenario["objectives"]["deadline_ms"] = 30
    path = tmp_path / "scenario.yaml"
    path.write_text(yaml.safe_dump(scenario))
    out = tmp_path / "policies" / "fitted.npz"
    command = ["train-router", "--scenario", str(path), "--out", str(out), "--minutes", "0", "--present", "random"]
    run = CliRunner().invoke(main, [*command, "--learner", "evolution"])
    assert run.exit_code == 0, run.output
    assert "router.policy: fitted" in run.output
    report = json.loads(out.with_suffix(".json").read_text())
    assert report["promoted"] == read_policy_file(out).base
    assert report["settings"]["present"] == "random"


def test_the_command_says_what_it_lacks(tmp_path: Path) -> None:
    def refused(*options: str) -> str:
        run = CliRunner().invoke(main, ["train-router", "--out", str(tmp_path / "x.npz"), *options])
        assert run.exit_code == 1, run.output
        return run.output

    assert "name either --scenario or --profile" in refused()
    assert "says nothing of the traffic" in refused("--profile", str(SCENARIO))
    assert "goes with --profile" in refused("--scenario", str(SCENARIO), "--deadline-ms", "50")
    few = tmp_path / "few.txt"
    few.write_text("".join(f"{at / 100}\n" for at in range(100)))
    assert "are needed at this rate" in refused("--scenario", str(SCENARIO), "--arrivals", str(few))
    assert "unknown policy 'nonsense'" in refused("--scenario", str(SCENARIO), "--present", "nonsense")
    assert "comes from a file" in refused("--scenario", str(SCENARIO), "--present", "fitted")
    long = tmp_path / "long.yaml"
    long.write_text(SCENARIO.read_text().replace("deadline_ms: 100", "deadline_ms: 1.0e+9"))
    assert "a window would hold" in refused("--scenario", str(long))


def test_ppo_paper_is_trained_for_one_fleet_and_served(tmp_path: Path) -> None:
    out = tmp_path / "paper.npz"
    command = ["train-router", "--policy", "ppo-paper", "--scenario", str(SCENARIO), "--out", str(out)]
    run = CliRunner().invoke(main, [*command, "--minutes", "0"])
    assert run.exit_code == 0, run.output
    assert f"wrote {out}: ppo-paper" in run.output
    found = read_policy_file(out)
    assert found.fleet == (2, 3, 6)
    assert found.base in PORTFOLIO
    assert found.validation["over_base"] > -0.2  # it begins as its base; as it is drawn it would be 0.9 behind
    traffic = given_traffic(SCENARIO, None, None)
    figures = run_policy(traffic.task, LearnedPolicy(found), traffic.fit(0))
    assert figures["accuracy"] is not None
    assert len(OBJECTIVES) == len(objective_weights(traffic.task))


def test_the_reward_of_ppo_paper_is_weighed_as_one_likes_and_its_file_says_how(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestrator.learning.ppo.paper._IMITATED", (8, 8))  # what it is worth is no matter here
    out = tmp_path / "paper.npz"
    command = ["train-router", "--scenario", str(SCENARIO), "--out", str(out), "--weights", "1", "2", "1"]
    run = CliRunner().invoke(main, [*command, "--policy", "ppo-paper", "--minutes", "0"])
    assert run.exit_code == 0, run.output
    found = read_policy_file(out)
    assert found.preference == (0.25, 0.5, 0.25)
    assert found.provenance["reward_weights"] == [0.25, 0.5, 0.25]
    assert "--weights counts for nothing with --policy fitted" in CliRunner().invoke(main, command).output
    nothing = CliRunner().invoke(main, [*command[:-3], "0", "0", "0", "--policy", "ppo-paper"])
    assert "the reward's weights add up to 0; give finite ones" in nothing.output


def test_what_a_run_earned_is_its_rewards_by_their_weights() -> None:
    made = costly_width()
    weighed = Task(made.settings, made.servers, (0.0, 1.0, 0.0))
    policy = LearnedPolicy(slim(weights=trained()))
    trace = Traffic(made, None).fit(0)
    simulation = Simulation(made.settings, made.servers, policy, trace=trace)
    simulation.prefer(weighed.preference)
    simulation.run()
    state = simulation.world.state
    late = state[sim.ANSWERED_COUNT] - state[sim.ON_TIME_COUNT]
    lost = state[sim.LOST_COUNT]
    expected = -0.3 * state[sim.LATENCY_SUM_S] / 0.06 - 4 * (late + lost)
    assert earned(weighed, policy, trace) == pytest.approx(expected / state[sim.ARRIVALS])


def test_a_window_of_traffic_spans_many_looks_of_a_controller() -> None:
    made = costly_width()
    settings, fleet = with_controllers(made.settings, made.servers, period_s=1.0)
    controlled = Traffic(Task(settings, fleet, made.preference), None)
    assert controlled.requests >= 20 * controlled.rate_rps > 4 * Traffic(made, None).requests


def test_there_is_a_group_for_each_of_many_threads() -> None:
    traffic = costly_traffic()
    groups = Groups(traffic.task, traffic.fit, base=WASTEFUL, replicas=2, segment=4.0, choices=64, threads=130)
    groups.start(untrained(), 1.0)
    rollouts, _ = groups.finish()
    assert [rollout.counts.any() for rollout in rollouts] == [True] * 130
    groups.close()
