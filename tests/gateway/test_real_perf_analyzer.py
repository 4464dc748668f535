"""``perf_analyzer`` at ``slimsched gateway``: a part of what ``make bench-clients`` runs."""

from __future__ import annotations

import pytest

from benchmarks.clients.analyses import Analysis, analyses, find_analyzer, run_analysis
from tests.gateway.running import Addresses

pytestmark = pytest.mark.integration

DAILY = (
    "grpc, fashion, sync, batch 1, concurrency 4",
    "grpc, fashion, async, batch 8, concurrency 4",
    "grpc, fashion, streaming, batch 1, concurrency 4",
    "grpc, fashion, async, batch 1, 50 requests/s",
    "grpc, fashion_w050, streaming, batch 1, 50 requests/s",
    "grpc, fashion, sync, batch 1, concurrency 4, width pinned",
    "grpc, fashion, sync, batch 8, concurrency 4, gzip",
    "http, fashion, sync, batch 1, concurrency 4",
    "http, fashion, async, batch 8, concurrency 4, JSON both ways",
    "http, fashion_w050, async, batch 1, 50 requests/s",
)


@pytest.mark.parametrize("name", DAILY)
def test_it_runs_and_nothing_fails(gateway: Addresses, name: str) -> None:
    if find_analyzer() is None:
        pytest.skip("no perf_analyzer beside this python; install the wheel perf-analyzer")
    (analysis,) = [found for found in analyses() if str(found) == name]
    found = run_analysis(analysis, gateway.grpc if analysis.protocol == "grpc" else gateway.http)
    assert found.problem == "", found.problem
    assert found.requests >= analysis.requests


def test_every_protocol_and_mode_is_in_the_matrix() -> None:
    found = {(a.protocol, a.mode, a.batch, a.is_rate) for a in analyses()}
    for batch in (1, 8):
        for is_rate in (False, True):
            for protocol, modes in (("grpc", ("sync", "async", "streaming")), ("http", ("sync", "async"))):
                for mode in modes:
                    assert (protocol, mode, batch, is_rate) in found
    assert len(set(map(str, analyses()))) == len(analyses())
    assert isinstance(analyses()[0], Analysis)
