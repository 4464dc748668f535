from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from orchestrator.config import PowerSettings
from orchestrator.errors import ConfigError
from orchestrator.profile.document import (
    Conditions,
    EnergySource,
    Origin,
    Profile,
    batch_ladder,
    parse_profile,
    render_profile,
)
from orchestrator.profiling.assembly import ServerFacts, assemble_profile
from orchestrator.profiling.campaign import (
    Progress,
    Subject,
    forget_records,
    list_cells,
    measure_batches,
    measure_changes,
    restore_left,
)
from orchestrator.profiling.records import Records
from orchestrator.simulation.scenario.fleet import server_from_profile
from orchestrator.snapshot import ServedModel, ServerName, TensorSpec
from orchestrator.triton.infer_wire import Tensors
from tests.fakes.control import FakeTriton, repository_model
from tests.profiling.worlds import QUICK, A, B, FakeCounter, ProfiledFake, silent, subject

pytestmark = pytest.mark.virtual_time

CONDITIONS = Conditions("2026-01-01T00:00:00+00:00", "a host", None, 0, ())


def facts(name: ServerName, server: ProfiledFake, *, power: PowerSettings | None = None) -> ServerFacts:
    return ServerFacts(
        name=name,
        device="cpu",
        description="fake",
        slowdown=3.0 if name == B else None,
        triton_version="2.51.0",
        memory_bytes=None,
        power=power,
        no_counter="" if power is None else "no counter",
        models=server.models,
    )


async def campaign(path: Path, *subjects: Subject) -> Records:
    with Records(path) as records:
        records.bind({"servers": {}})
        await measure_batches(subjects, records, QUICK, report=silent, clock=asyncio.get_running_loop().time)
    return records


def assembled(records: Records, *servers: ServerFacts) -> Profile:
    profile = assemble_profile(servers, CONDITIONS, visits=records.visits, idles=records.idles, cycles=records.cycles)
    assert parse_profile(render_profile(profile)) == profile
    return profile


async def test_every_batch_of_every_width_and_server_is_measured_as_it_is(tmp_path: Path) -> None:
    servers = {
        A: ProfiledFake((25, 100), per_item_s=0.01),
        B: ProfiledFake((25, 100), per_item_s=0.03, max_batch_size=12),
    }
    records = await campaign(tmp_path / "p", *(subject(name, server) for name, server in servers.items()))
    power = PowerSettings(idle_w=5, busy_w=25)
    profile = assembled(records, facts(B, servers[B], power=power), facts(A, servers[A]))
    assert [server.name for server in profile.servers] == ["a", "b"]
    assert [server.origin for server in profile.servers] == [Origin.MEASURED, Origin.EMULATED]
    for entry in profile.servers:
        server = servers[ServerName(entry.name)]
        for model in entry.models:
            assert [batch.items for batch in model.batches] == list(batch_ladder(model.max_batch_size))
            for batch in model.batches:
                expected_s = server.service_s(model.width, batch.items)
                assert (batch.mean_s, batch.p50_s, batch.p99_s) == pytest.approx((expected_s,) * 3)
                assert batch.n == 6
                if entry.name == "b":
                    assert batch.energy_j == pytest.approx(20 * expected_s)
                    assert batch.energy_source is EnergySource.ESTIMATED
                else:
                    assert batch.energy_j is None
                    assert "fleet.yaml states no 'power'" in batch.energy_reason
            assert model.line.per_item_s == pytest.approx(server.per_item_s * (model.width / 100) ** 2, rel=1e-3)
            assert model.line.held_out_error_ratio == pytest.approx(0, abs=1e-3)
            assert model.changes is None


async def test_an_interruption_loses_at_most_the_visit_under_way(tmp_path: Path) -> None:
    whole = ProfiledFake((25, 50))
    await campaign(tmp_path / "whole", subject(A, whole))
    cut = ProfiledFake((25, 50), requests_left=29)
    with pytest.raises(asyncio.CancelledError):
        await campaign(tmp_path / "cut", subject(A, cut))
    kept = sum(len(visits) for visits in Records(tmp_path / "cut").visits.values())
    assert kept == 29 // 4  # a visit is four requests, one of them to warm up
    cut.requests_left = None
    await campaign(tmp_path / "cut", subject(A, cut))
    assert len(cut.batches) == len(whole.batches) + 29 % 4
    counts = [
        {cell: len(visits) for cell, visits in Records(tmp_path / name).visits.items()} for name in ("cut", "whole")
    ]
    assert counts[0] == counts[1]


async def test_cells_take_turns_so_that_drift_hits_all_alike(tmp_path: Path) -> None:
    server = ProfiledFake((25, 100))
    reported: list[Progress] = []
    with Records(tmp_path / "p") as records:
        records.bind({})
        subjects = [subject(A, server)]
        await measure_batches(subjects, records, QUICK, report=reported.append, clock=asyncio.get_running_loop().time)
    cells = len(list_cells(subjects))
    seen = [batch for batch, before in zip(server.batches, [None, *server.batches], strict=False) if batch != before]
    assert len(set(seen[:cells])) == cells  # all once before any twice
    assert seen[:cells] != seen[cells:]
    assert [progress.round_number for progress in reported] == [1] * cells + [2] * cells
    assert reported[-1].settled == cells - 1


@pytest.mark.parametrize(
    ("source", "expected"),
    [("rapl", EnergySource.RAPL), ("nvml-energy-counter", EnergySource.ENERGY_COUNTER)],
)
async def test_energy_is_what_the_counter_says_above_idle(tmp_path: Path, source: str, expected: EnergySource) -> None:
    server = ProfiledFake((100,), max_batch_size=8)
    counter = FakeCounter(server, idle_w=20, busy_w=70, source=source)
    records = await campaign(tmp_path / "p", subject(A, server, telemetry=counter, has_counter=True))
    (entry,) = assembled(records, facts(A, server)).servers
    assert entry.idle.power_w == pytest.approx(20)
    assert entry.idle.source is expected
    for batch in entry.models[0].batches:
        assert batch.energy_source is expected
        assert batch.energy_j == pytest.approx(50 * server.service_s(100, batch.items))
    for visits in records.visits.values():
        assert all(visit.window is not None and visit.window.duration_s >= QUICK.energy_window_s for visit in visits)


async def test_power_without_a_counter_is_read_often_to_be_integrated(tmp_path: Path) -> None:
    server = ProfiledFake((100,), max_batch_size=1)
    counter = FakeCounter(server, idle_w=20, busy_w=70, source="nvml-power-integrated")
    records = await campaign(tmp_path / "p", subject(A, server, telemetry=counter, has_counter=True))
    assert assembled(records, facts(A, server)).servers[0].idle.source is EnergySource.INSTANT
    assert counter.reads > 50  # two windows of idling and two of a second each, read every tenth of one


async def test_changes_are_measured_and_undone(tmp_path: Path) -> None:
    loop = asyncio.get_running_loop()
    triton = FakeTriton((repository_model(25), repository_model(100)), clock=loop.time)
    server = ProfiledFake((25, 100))
    for model in triton.repository_models():
        await triton.apply(model.name, instances=2, batching=model.batching, nonce="")
    measured = subject(A, server, control=triton, telemetry=triton.telemetry)
    with Records(tmp_path / "p") as records:
        records.bind({})
        await measure_changes([measured], records, QUICK, report=silent, clock=loop.time)
        await measure_batches([measured], records, QUICK, report=silent, clock=loop.time)
    assert {model.name: (model.instances, model.nonce) for model in await triton.loaded_models()} == {
        model.name: (2, "") for model in server.models
    }
    assert records.unrestored == {}
    assert all(len(cycles) == QUICK.cycles for cycles in records.cycles.values())
    for model in assembled(records, facts(A, server)).servers[0].models:
        assert model.changes is not None
        assert model.changes.instance_bytes is not None
        assert min(model.changes.load.mean_s, model.changes.reload.mean_s, model.changes.unload.mean_s) > 0
        assert model.changes.scale_up.n == QUICK.cycles


async def test_what_is_interrupted_is_undone_and_says_so(tmp_path: Path) -> None:
    loop = asyncio.get_running_loop()
    triton = FakeTriton((repository_model(25),), clock=loop.time)
    (model,) = triton.repository_models()
    await triton.apply(model.name, instances=3, batching=model.batching, nonce="")
    measured = subject(A, ProfiledFake((25,)), control=triton, telemetry=triton.telemetry)
    with Records(tmp_path / "p") as records:
        records.bind({})
        task = asyncio.ensure_future(measure_changes([measured], records, QUICK, report=silent, clock=loop.time))
        while not records.unrestored:
            await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    assert [loaded.instances for loaded in await triton.loaded_models()] == [3]
    Records(tmp_path / "p").require_restored()


async def test_changes_are_not_measured_of_what_no_controller_looks_after(tmp_path: Path) -> None:
    loop = asyncio.get_running_loop()
    triton = FakeTriton((repository_model(25),), clock=loop.time)
    (model,) = triton.repository_models()
    await triton.apply(model.name, instances=1, batching=model.batching, nonce="")
    measured = subject(A, ProfiledFake((25, 100)), control=triton, telemetry=triton.telemetry)
    with Records(tmp_path / "p") as records:
        records.bind({})
        await measure_changes([measured], records, QUICK, report=silent, clock=loop.time)
    assert [name for _, name in records.cycles] == [model.name]


async def killed_campaign(path: Path) -> FakeTriton:
    """Return a server whose model a campaign found with 3 instances, and was killed before it brought them back."""
    loop = asyncio.get_running_loop()
    triton = FakeTriton((repository_model(25),), clock=loop.time)
    (model,) = triton.repository_models()
    await triton.apply(model.name, instances=3, batching=model.batching, nonce="")
    with Records(path) as records:
        records.bind({})
        server = ProfiledFake((25,))
        measured = subject(A, server, control=triton, telemetry=triton.telemetry)
        task = asyncio.ensure_future(measure_changes([measured], records, QUICK, report=silent, clock=loop.time))
        while not records.unrestored:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.01)
        left, kept = dict(records.unrestored), path.read_bytes()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    path.write_bytes(kept)  # as a kill -9 in the middle leaves it
    await triton.unload(model.name)
    assert Records(path).unrestored == left
    return triton


async def test_what_a_killed_campaign_left_is_brought_back(tmp_path: Path) -> None:
    triton = await killed_campaign(tmp_path / "p")
    with Records(tmp_path / "p") as records:
        with pytest.raises(ConfigError, match="profile it with --control, which brings it back first"):
            records.require_restored()
        await restore_left({A: triton}, records)
        records.require_restored()
    assert [loaded.instances for loaded in await triton.loaded_models()] == [3]


async def test_what_is_begun_anew_brings_back_first_what_was_left(tmp_path: Path) -> None:
    triton = await killed_campaign(tmp_path / "p")
    with pytest.raises(ConfigError, match="--control"):
        await forget_records(tmp_path / "p", {})
    await forget_records(tmp_path / "p", {A: triton})
    assert [loaded.instances for loaded in await triton.loaded_models()] == [3]
    assert not (tmp_path / "p").exists()
    (tmp_path / "p").write_text("damaged\n")
    await forget_records(tmp_path / "p", {})
    assert not (tmp_path / "p").exists()


async def test_energy_is_of_the_batches_that_a_counter_has_seen(tmp_path: Path) -> None:
    server = ProfiledFake((100,), max_batch_size=1, requests_left=6)
    with pytest.raises(asyncio.CancelledError):
        await campaign(tmp_path / "p", subject(A, server))  # ends after a visit, without a counter
    server.requests_left = None
    counter = FakeCounter(server, idle_w=20, busy_w=70)
    records = await campaign(tmp_path / "p", subject(A, server, telemetry=counter, has_counter=True))
    (visits,) = records.visits.values()
    assert {visit.window is None for visit in visits} == {True, False}
    (batch,) = assembled(records, facts(A, server)).servers[0].models[0].batches
    assert batch.energy_j == pytest.approx(50 * server.service_s(100, 1))


async def test_a_model_whose_input_is_open_can_not_be_profiled(tmp_path: Path) -> None:
    server = ProfiledFake((25,))
    server.models = tuple(
        type(m)(**{**{f: getattr(m, f) for f in m.__slots__}, "inputs": (TensorSpec("pixels", "FP32", (-1, 2)),)})
        for m in server.models
    )
    with pytest.raises(ConfigError, match="have no fixed shape; it can't be profiled"):
        await campaign(tmp_path / "p", subject(A, server))


class FarServer(ProfiledFake):
    """A server whose answers travel for a while."""

    TRAVEL_S = 0.002  # below the shortest run: two under way keep it busy

    async def infer_batch(self, model: ServedModel, batch: Tensors) -> Tensors:
        answer = await super().infer_batch(model, batch)
        await asyncio.sleep(self.TRAVEL_S)
        return answer


async def test_under_load_a_batch_takes_of_its_server_what_it_runs_and_not_what_its_answer_travels(
    tmp_path: Path,
) -> None:
    server = FarServer((25, 100), per_item_s=0.01, max_batch_size=4)
    with Records(tmp_path / "p") as records:
        records.bind({"servers": {}})
        sampling = replace(QUICK, bursts_s=0.1)
        clock = asyncio.get_running_loop().time
        await measure_batches([subject(A, server)], records, sampling, report=silent, clock=clock)
    (entry,) = assembled(records, facts(A, server)).servers
    for model in entry.models:
        for batch in model.batches:
            runs_s = server.service_s(model.width, batch.items)
            assert batch.mean_s == pytest.approx(runs_s + server.TRAVEL_S)
            assert batch.busy_s == pytest.approx(runs_s)
            assert batch.rested_s == pytest.approx(runs_s + server.TRAVEL_S)
    simulated = server_from_profile(entry, "far")
    assert [model.delay_s for model in simulated.models] == pytest.approx([server.TRAVEL_S] * 2)
    assert simulated.models[-1].service_s == pytest.approx([server.service_s(100, n) for n in (1, 2, 3, 4)])


class JoiningServer(ProfiledFake):
    """Runs all that waits when it is free as one batch, as Triton's batcher does."""

    def __init__(self, *widths: int, **options: Any) -> None:
        super().__init__(widths, **options)
        self.waiting: list[asyncio.Future[None]] = []
        self.items = 0

    async def infer_batch(self, model: ServedModel, batch: Tensors, **options: Any) -> Tensors:
        mine: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.waiting.append(mine)
        self.items += len(batch[0])
        await asyncio.sleep(0)  # what comes in the same moment comes together
        async with self.busy():
            if not mine.done():
                joined, self.waiting, items, self.items = self.waiting, [], self.items, 0
                await asyncio.sleep(self.service_s(model.width, items))
                for each in joined:
                    each.set_result(None)
        await asyncio.sleep(FarServer.TRAVEL_S)
        return batch


async def test_what_a_server_would_run_as_one_batch_is_sent_one_after_another(tmp_path: Path) -> None:
    server = JoiningServer(100, per_item_s=0.01, max_batch_size=4)
    with Records(tmp_path / "p") as records:
        records.bind({"servers": {}})
        sampling = replace(QUICK, bursts_s=0.1)
        clock = asyncio.get_running_loop().time
        await measure_batches([subject(A, server)], records, sampling, report=silent, clock=clock)
    ((model,),) = [entry.models for entry in assembled(records, facts(A, server)).servers]
    for batch in model.batches:
        assert batch.busy_s == pytest.approx(server.service_s(100, batch.items))


async def test_without_bursts_a_profile_says_nothing_of_load_and_a_simulation_has_no_delay(tmp_path: Path) -> None:
    server = ProfiledFake((100,), max_batch_size=2)
    profile = assembled(await campaign(tmp_path / "p", subject(A, server)), facts(A, server))
    assert "busy_s" not in render_profile(profile)
    (model,) = server_from_profile(profile.servers[0], "near").models
    assert model.delay_s == 0
    assert model.service_s == pytest.approx([batch.mean_s for batch in profile.servers[0].models[0].batches])
