from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from orchestrator.cli import main
from orchestrator.config import RouterSettings
from orchestrator.errors import ConfigError
from orchestrator.policies.circuit_breaker import Fault
from orchestrator.policies.parsing import knobs_of, parse_own_policy, parse_policy
from orchestrator.policies.protocol import Binding
from orchestrator.policies.registry import RulePolicy
from orchestrator.router import RouterObserver
from orchestrator.router.dispatch.deciders import make_deciders
from orchestrator.simulation.policy_contract import check_policy
from tests.fakes.servers import FakeServer, item
from tests.plugged import SAVER, install
from tests.router.test_router import right, routed

SCENARIO = str(Path(__file__).parents[2] / "scenarios" / "two-unlike.yaml")


@pytest.fixture
def saver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, "saver_one", SAVER, {"saver": "Saver", "lert": "Saver"})
    monkeypatch.syspath_prepend(tmp_path)


@pytest.mark.usefixtures("saver")
def test_a_policy_of_another_package_is_known_by_its_name_with_its_knobs() -> None:
    assert parse_policy("saver").binding is Binding.LATE
    policy = parse_policy("saver,share=0.25")
    assert (policy.name, getattr(policy, "share", None)) == ("saver,share=0.25", 0.25)
    assert [knob.name for knob in knobs_of("saver")] == ["share"]
    with pytest.raises(ConfigError, match=r"share=2 is not allowed; give a number from 0\.1 to 1"):
        parse_policy("saver,share=2")
    with pytest.raises(ConfigError, match=r"unknown policy 'saver:slack'; .*; of other packages lert, saver"):
        parse_policy("saver:slack")


@pytest.mark.usefixtures("saver")
def test_no_package_takes_the_name_of_one_of_ours() -> None:
    assert isinstance(parse_policy("lert"), RulePolicy)


@pytest.mark.usefixtures("saver")
def test_it_keeps_to_the_contract_and_runs_in_the_simulator_and_behind_the_routers_guard() -> None:
    check_policy("saver")
    options = ("--requests", "300", "--policy", "saver", "--policy", "saver,share=1")
    result = CliRunner().invoke(main, ["simulate", "--scenario", SCENARIO, *options])
    assert result.exit_code == 0, result.output
    assert "saver,share=1" in result.output
    deciders = make_deciders(RouterSettings(policy="saver", shadow_policy="saver,share=1"), RouterObserver())
    assert deciders.policies[False].policy.name == "saver"


@pytest.mark.virtual_time
@pytest.mark.parametrize(
    ("does", "fault"), [("raise ZeroDivisionError", Fault.RAISED), ("time.sleep(0.1)", Fault.SLOW)]
)
async def test_one_that_raises_or_is_slow_costs_no_answer(
    does: str, fault: Fault, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = SAVER.replace("free = [", f"{does}\n        free = [", 1)
    install(tmp_path, f"ill_{fault.name.lower()}", f"import time\n{source}", {"ill": "Saver"})
    monkeypatch.syspath_prepend(tmp_path)
    async with routed({"a": FakeServer()}, policy="ill", guard={"policy_time_budget_ms": 20}) as router:
        answers = [await router.infer(item(n)) for n in range(2)]  # who decides for the first time may take longer
    assert all(right(answer, n) for n, answer in enumerate(answers))
    assert answers[1].policy == RouterSettings().guard.fallback


@pytest.mark.usefixtures("saver")
def test_where_decisions_are_timed_on_tables_it_is_refused_in_words() -> None:
    with pytest.raises(ConfigError, match="'saver' is of another package and can't be used here; compare it with"):
        parse_own_policy("saver")


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        ("import nothing_of_that_name", "of broken can't be imported .ModuleNotFoundError: No module named"),
        ("1 / 0", "of broken can't be imported .ZeroDivisionError: division by zero.; mend the package"),
        ("import sys; sys.exit('not today')", "of broken can't be imported .SystemExit: not today.; mend the package"),
        ("import sys\ndef policy(name):\n    sys.exit(3)", "of broken can't be made .SystemExit: 3"),
        ("other = 1", "of broken can't be imported .AttributeError"),
        ("policy = 7", "of broken can't be made .TypeError"),
        ("policy = lambda name: 7", "of broken is no policy: it needs a method choose"),
        ("class policy:\n    knobs = (1,)", "of broken: its knobs must be Knobs of one number each"),
        (
            "from orchestrator.policies.knobs import Knob\n"
            "class policy:\n    knobs = (Knob('a', 0, 1, 0, 1), Knob('b', 0, 1, 0, 1))",
            "of broken: two of its knobs have one place; number them from 0 on",
        ),
    ],
)
def test_a_package_that_is_broken_is_named_with_the_reason(
    source: str, problem: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, "broken", f"{source}\n", {"mine": "policy"})
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(__import__("sys").modules, "broken", raising=False)
    with pytest.raises(ConfigError, match=f"policy 'mine' {problem}") as caught:
        parse_policy("mine")
    assert "\n" not in str(caught.value)
    fleet = tmp_path / "fleet.yaml"
    fleet.write_text("servers: [{name: a, grpc: '127.0.0.1:1'}]\nrouter: {policy: mine}\n")
    checked = CliRunner().invoke(main, ["config", "check", "--fleet", str(fleet)])
    assert (checked.exit_code, "policy 'mine' of broken" in checked.output) == (1, True)
