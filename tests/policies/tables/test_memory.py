from __future__ import annotations

import pytest

from orchestrator.policies.fleet.fleet_tables import FleetTables
from orchestrator.policies.parsing import parse_policy
from orchestrator.policies.protocol import Situation
from orchestrator.policies.registry import policy_names
from orchestrator.policies.tables.memory import OF_LEARNED, OF_MODEL, OF_SERVER, WHOLE, Memory
from orchestrator.snapshot import QueueState, ServerName, Width
from tests.policies.cases import Asker, candidate
from tests.policies.fleets import decide, fleet_server, latencies

A, B, C = (ServerName(name) for name in "abc")
NARROW, WIDE = Width(50), Width(100)


def test_what_belongs_to_a_server_and_a_model_is_found_again_when_the_fleet_changes() -> None:
    memory = Memory()
    memory.arrange([A, C], [WIDE])
    memory.table("p")[WHOLE][1] = 7
    memory.table("p")[OF_SERVER][1] = 3
    memory.table("p")[OF_MODEL][1] = 4
    memory.include({B}, {NARROW})
    assert memory.servers == (A, B, C)
    assert memory.widths == (NARROW, WIDE)
    table = memory.table("p")
    assert table[WHOLE][1] == 7
    assert [table[OF_SERVER][at] for at in range(6)] == [0, 0, 0, 0, 3, 0]
    assert [table[OF_MODEL][at] for at in range(6)] == [0, 0, 0, 0, 0, 4]


def test_a_server_that_is_gone_is_forgotten() -> None:
    memory = Memory()
    memory.arrange([A, B], [WIDE])
    memory.table("p")[OF_SERVER][0] = 3
    memory.arrange([B], [WIDE])
    memory.arrange([A, B], [WIDE])
    assert memory.table("p")[OF_SERVER][0] == 0


def test_policies_do_not_share_what_they_remember() -> None:
    memory = Memory()
    memory.table("p")[WHOLE][1] = 7
    assert memory.table("q")[WHOLE][1] == 0


def test_a_decision_on_tables_remembers_as_one_on_values_does() -> None:
    servers = [fleet_server(name) for name in "ab"]
    latency = latencies(a={100: (0.01, 0.0)}, b={100: (0.03, 0.0)})
    tables, policy = FleetTables(servers, latency), parse_policy("weighted-round-robin")
    situation = Situation(QueueState(1, 1, 1.0, 1.0, (WIDE,)), 0.0, 0, (0.0, 0.0), 1.0)
    on_tables = [decide(tables, policy, situation) for _ in range(8)]
    asker = Asker("weighted-round-robin")
    assert [asker.query(list(tables.candidates(situation)), slack_s=1.0) for _ in range(8)] == on_tables


def test_without_a_memory_every_decision_is_the_first() -> None:
    policy = parse_policy("weighted-round-robin")
    situation = Situation(QueueState(1, 1, 1.0, 1.0, (WIDE,)), 0.0, 0, (0.0, 0.0), 1.0)
    candidates = [candidate("a"), candidate("b")]
    assert policy.choose(candidates, situation) == policy.choose(candidates, situation)


@pytest.mark.parametrize("name", [*policy_names(), "lert:brownout", "achq:brownout", "thrift:brownout"])
def test_a_base_leaves_what_a_learned_policy_remembers_alone(name: str) -> None:
    """Both are in one table: of a base that wrote there, a hold would begin or end that nobody has decided on."""
    asker = Asker(name)
    for number in range(60):
        now_s = 0.1 * number
        rows = [candidate(width=width, completion_s=0.0002 * width) for width in (25, 50, 100)]
        asker.query(rows, now_s=now_s, items=1 + number % 7, slack_s=0.015)
        asker.observe(slack_used=0.5 + 0.02 * (number % 40), took_s=0.02, now_s=now_s)
        if number % 20 == 0 and hasattr(asker.policy, "observe_miss"):
            asker.miss(now_s)
    assert not asker.memory.table(asker.policy.name)[WHOLE][OF_LEARNED:].any()
