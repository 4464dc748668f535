"""Residuals: factors from files, and from the decisions that a router has recorded."""

from __future__ import annotations

import asyncio
import json
import math
from pathlib import Path

import pytest
import yaml

from orchestrator.errors import ConfigError
from orchestrator.simulation.scenario.digest import digest_scenario
from orchestrator.simulation.scenario.fleet import linear_model
from orchestrator.simulation.scenario.residuals import read_factors
from orchestrator.simulation.scenario.settings import load_scenario
from orchestrator.simulation.scenario.trace import draw_trace
from tests.fakes.servers import FakeServer, item
from tests.router.test_router import routed
from tests.simulation.worlds import scenario, servers


def test_a_file_holds_a_factor_a_line(tmp_path: Path) -> None:
    path = tmp_path / "factors.txt"
    path.write_text("# of a quiet night\n1\n\n 0.5 \n2e1\n")
    assert read_factors(path) == (1.0, 0.5, 20.0)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("1\nfast\n", "line 2: 'fast' is no factor; give one number a line, finite and above 0"),
        ("0\n", "line 1: '0' is no factor"),
        ("nan\n", "line 1: 'nan' is no factor"),
        ("9" * 400, "line 1: '9{40,99}…? is no factor"),
        ("# nothing\n", "holds no factor"),
    ],
)
def test_a_file_that_holds_anything_else_is_refused(tmp_path: Path, text: str, problem: str) -> None:
    path = tmp_path / "factors.txt"
    path.write_text(text)
    with pytest.raises(ConfigError, match=problem):
        read_factors(path)
    with pytest.raises(ConfigError, match="can't read"):
        read_factors(tmp_path / "none.txt")


@pytest.mark.virtual_time
async def test_what_a_router_recorded_becomes_the_noise_of_a_scenario(tmp_path: Path) -> None:
    logs, server = tmp_path / "decisions", FakeServer(per_item_s=0.01, fixed_s=0.01)
    async with routed({"a": server}, policy="lert:100", decision_log={"directory": logs, "sample_ratio": 1}) as router:
        for number in range(40):
            await router.infer(item(number))
        server.per_item_s, server.fixed_s = 0.03, 0.03
        await router.infer(item(0))
        await asyncio.gather(*(router.infer(item(number)) for number in range(5)))  # all but the first wait
    (log,) = logs.glob("*.jsonl")
    lines = log.read_text().splitlines()
    odd = [json.loads(lines[0]) for _ in range(4)]
    for record, service_s in zip(odd, (math.inf, math.nan, -1.0, 10**400), strict=True):
        record["outcome"]["service_s"] = service_s
    log.write_text("\n".join([*lines, *map(json.dumps, odd), "[" * 100_000, '{"id": "cut o']))
    factors = read_factors(logs)
    assert factors == read_factors(log)
    assert len(factors) == 42
    assert factors[40] / factors[39] == pytest.approx(3.0, rel=0.05)
    assert sum(factors) / 42 == pytest.approx(1.0)
    path = tmp_path / "scenario.yaml"
    host = {"name": "h", "servers": {"a": 1}, "cores": 2, "residuals": {"file": "decisions"}}
    servers = [{"name": "a", "widths": {100: {"item_ms": 1}}}]
    path.write_text(yaml.safe_dump({"name": "noisy", "servers": servers, "hosts": [host]}))
    settings, fleet = load_scenario(path)
    assert settings.hosts[0].residuals is not None
    assert settings.hosts[0].residuals.factors == factors
    before = digest_scenario(settings, fleet)
    log.write_text("".join(log.read_text().splitlines(keepends=True)[:20]))
    assert digest_scenario(*load_scenario(path)) != before


def test_a_log_without_such_batches_is_refused_in_words(tmp_path: Path) -> None:
    (tmp_path / "decisions-abc.jsonl").write_text('{"id":"abc-1","choice":null,"outcome":{"error":"rejected"}}\n[]\n')
    with pytest.raises(ConfigError, match=r"no batch that an idle server was sent .* \(router\.decision_log"):
        read_factors(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="no file: no batch"):
        read_factors(tmp_path / "empty")


def test_a_noise_that_wanders_for_ever_is_refused_with_what_to_change() -> None:
    host = {"name": "h", "cores": 1, "residuals": {"factors": [1.0], "drift_s": 0.001}}
    never = scenario(requests=10, workload={"load_ratio": 1e-300}, hosts=[host])
    with pytest.raises(ConfigError, match=r"hosts\[0\].residuals.drift_s = 0.001 is too short for .*load_ratio"):
        draw_trace(never, servers(2, linear_model(100, per_item_s=0.01)), 0)
