"""Where peers are, as their host names are looked up again and again."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.errors import PermanentError
from orchestrator.gateway.fleet_sharing import PeerNames
from orchestrator.gateway.peers.report import GatewayReport, NoReportError
from orchestrator.ownership import GatewayName
from orchestrator.snapshot import ServerName


async def test_each_address_of_a_name_is_a_gateway_and_the_last_known_stay_when_an_answer_shrinks_to_nothing() -> None:
    answers = {"gateways": ("10.0.0.1", "10.0.0.2")}

    async def resolve(host: str) -> tuple[str, ...]:
        return answers.get(host, ())

    names = PeerNames(["gateways:8083", "10.0.0.9:8083", "unix:/run/slim/0", "unknown:8083"], resolve)
    fixed = ["10.0.0.9:8083", "unix:/run/slim/0"]
    both = ["10.0.0.1:8083", "10.0.0.2:8083"]
    assert await names.look_up(()) == both + fixed
    answers.clear()
    assert await names.look_up(()) == both + fixed
    answers["gateways"] = ("10.0.0.3", "fd00::1")
    assert await names.look_up(both[:1]) == ["10.0.0.1:8083", "10.0.0.3:8083", "[fd00::1]:8083", *fixed]
    assert await names.look_up(["10.0.0.3:8083"]) == ["10.0.0.3:8083", "[fd00::1]:8083", *fixed]


@given(st.floats(0, 1e9), st.floats(1e-6, 1e9), st.sets(st.text(min_size=1), max_size=4))
def test_a_report_is_read_as_it_was_written(backlog: float, rate: float, servers: set[str]) -> None:
    names = frozenset(map(ServerName, servers))
    report = GatewayReport(
        name=GatewayName("a"),
        instance=7,
        version="1.2.3",
        backlog_items=backlog,
        drives=names,
        capacities_rps=dict.fromkeys(names, rate),
        plan=dict.fromkeys(names, GatewayName("a")),
        demands={"vision": (1.0, 2.0, 3.0)},
    )
    assert GatewayReport.decode(report.encode()) == report


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{}",
        b'{"name": "a", "instance": 1, "backlog_items": -1}',
        b'{"name": "a", "instance": "x"}',
        b"\xff",
    ],
)
def test_what_is_no_report_is_refused_in_a_line(body: bytes) -> None:
    with pytest.raises(PermanentError, match="no report of a gateway") as caught:
        GatewayReport.decode(body)
    assert "\n" not in str(caught.value)


def test_what_is_not_understood_of_a_report_is_named() -> None:
    with pytest.raises(NoReportError, match=r"no report of a gateway \(drives: "):
        GatewayReport.decode(b'{"name": "a", "instance": 1, "drives": 7}')


def test_a_report_of_a_later_version_is_read() -> None:
    assert GatewayReport.decode(b'{"name": "a", "instance": 1, "new": [1]}').name == "a"
