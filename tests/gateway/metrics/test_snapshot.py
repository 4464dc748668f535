"""Numbers that add up over processes, and the page that Prometheus reads."""

from __future__ import annotations

import json
import shutil
import subprocess

import aiohttp
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from orchestrator.gateway.metrics.gateway_metrics import MEASURES, GatewayMetrics
from orchestrator.gateway.metrics.snapshot import MetricSnapshot
from orchestrator.telemetry.cpu_pressure import read_cpu_waiting_s
from tests.gateway.fakes import World

ENDS = st.tuples(
    st.sampled_from(["fashion", ""]),
    st.sampled_from(["ok", "shed"]),
    st.floats(min_value=0, max_value=100),
    st.none() | st.floats(min_value=0, max_value=10),
)


def snapshot_of(ends: list[tuple[str, str, float, float | None]]) -> MetricSnapshot:
    metrics = GatewayMetrics()
    for model, outcome, latency_s, queue_s in ends:
        metrics.begin()
        metrics.time(model, outcome, latency_s=latency_s, width="25", server="a", queue_s=queue_s)
    return metrics.snapshot()


@given(st.lists(ENDS), st.lists(ENDS))
def test_two_processes_count_what_one_would_have(
    first: list[tuple[str, str, float, float | None]], second: list[tuple[str, str, float, float | None]]
) -> None:
    whole, parts = snapshot_of(first + second), MetricSnapshot()
    for ends in (first, second):
        parts.add(MetricSnapshot.decode(json.loads(json.dumps(snapshot_of(ends).encode()))), MEASURES)
    assert parts.values.keys() == whole.values.keys()
    for name, found in whole.values.items():
        assert parts.values[name].keys() == found.keys()
        for labels, numbers in found.items():
            assert parts.values[name][labels] == pytest.approx(numbers)


def test_what_is_added_stays_what_it_was() -> None:
    total, part = MetricSnapshot(), snapshot_of([("fashion", "ok", 0.1, 0.0)])
    total.add(part, MEASURES)
    total.add(part, MEASURES)
    assert part.values["slim_gateway_in_flight"] == {(): [1.0]}
    assert total.values["slim_gateway_in_flight"] == {(): [2.0]}


def test_a_process_that_is_gone_leaves_counters_but_no_gauges() -> None:
    total = MetricSnapshot()
    total.add(snapshot_of([("fashion", "ok", 0.1, 0.0)]), MEASURES, with_gauges=False)
    assert "slim_gateway_in_flight" not in total.values
    assert total.values["slim_gateway_requests"] == {("fashion", "25", "a", "ok"): [1.0]}


def test_of_what_several_processes_say_of_one_thing_the_largest_counts() -> None:
    total, begun = MetricSnapshot(), MEASURES["process_start_time_seconds"]
    for started_s in (17.0, 19.0, 18.0):
        part = MetricSnapshot()
        part.put(begun, started_s)
        total.add(part, MEASURES)
    assert total.values[begun.name] == {(): [19.0]}


async def test_the_page_says_what_runs_and_who_is_left_out(world: World) -> None:
    found = {family.name: family for family in text_string_to_metric_families(await read_page(world))}
    assert [sample.value for sample in found["slim_build_info"].samples] == [1]
    [policy] = found["slim_router_policy_info"].samples
    assert (policy.value, policy.labels["policy"]) == (1, world.router.inspect().policies[0])
    left_out = {s.labels["server"]: s.value for s in found["slim_router_servers_left_out"].samples}
    assert left_out == dict.fromkeys(world.router.inspect().servers, 0.0)
    assert found["process_resident_memory_bytes"].samples[0].value > 2**20
    waited_s = [sample.value for name in found if "cpu_waiting" in name for sample in found[name].samples]
    now_s = read_cpu_waiting_s()
    assert waited_s == [] if now_s is None else 0 <= waited_s[0] <= now_s


def test_metrics_of_another_release_are_left_out() -> None:
    total = MetricSnapshot()
    total.add(MetricSnapshot({"slim_gateway_yonder": {(): [1.0]}}), MEASURES)
    assert total.values == {}


def test_buckets_hold_what_is_at_most_their_bound() -> None:
    snapshot = snapshot_of([("fashion", "ok", seconds, None) for seconds in (0.0005, 0.00051, 10.0, 10.1)])
    (histogram,) = (m for m in snapshot.families(MEASURES.values()) if m.name == "slim_gateway_latency_seconds")
    below = {s.labels["le"]: s.value for s in histogram.samples if s.name.endswith("_bucket")}
    assert (below["0.0005"], below["0.001"], below["5.0"], below["10.0"], below["+Inf"]) == (1, 2, 2, 3, 4)


async def read_page(world: World) -> str:
    assert world.gateway.metrics is not None
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"http://{world.gateway.metrics.address}/metrics") as page,
    ):
        return await page.text()


async def test_the_page_has_all_that_the_table_promises(world: World) -> None:
    assert {family.name for family in text_string_to_metric_families(await read_page(world))} == set(MEASURES)


async def test_prometheus_own_linter_finds_nothing(world: World, http: aiohttp.ClientSession) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("no promtool on PATH; Debian and Ubuntu have it in the package promtool or prometheus")
    async with http.post("/v2/models/fashion/infer", json={"inputs": []}):
        pass
    page = await read_page(world)
    done = subprocess.run(
        [promtool, "check", "metrics"], input=page, capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
