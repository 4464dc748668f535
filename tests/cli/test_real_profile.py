"""``slimsched profile`` on a real tritonserver: a small grid, changes, an interruption, and a router that starts so."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from orchestrator.cli import main
from orchestrator.config import FleetSettings, PowerSettings, RouterSettings, ServerSettings, load_fleet, render_fleet
from orchestrator.embedded.server import EmbeddedOptions, choose_free_ports
from orchestrator.profile.document import EnergySource, Origin, batch_ladder, read_profile, write_profile
from orchestrator.profiling.profiler import check_weights
from orchestrator.router import Router
from tests.profile.profiles import profile_of, server_profile
from tests.tritons import Tritons

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]
MODELS = ("fashion_w025", "fashion_w050")
SMALL = ("--requests", "4", "--precision", "1")
START_S = 60.0


@pytest.fixture(scope="module")
def fleet_path(tmp_path_factory: pytest.TempPathFactory, tritons: Tritons) -> Iterator[Path]:
    path = tmp_path_factory.mktemp("fleet") / "fleet.yaml"
    with tritons.running(ROOT / "model_repository", EmbeddedOptions(models=MODELS, slowdown=2.0)) as server:
        settings = ServerSettings(
            name="here",
            grpc=server.grpc_address,
            metrics=server.metrics_url,
            repository=server.repository,
            emulated_slowdown=2.0,
            power=PowerSettings(idle_w=10, busy_w=30),
        )
        path.write_text(render_fleet(FleetSettings(servers=(settings,))))
        yield path


def profile(fleet_path: Path, *arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(main, ["profile", "--fleet", str(fleet_path), *map(str, arguments)])
    return result.exit_code, result.output


@pytest.fixture(scope="module")
def taken(fleet_path: Path) -> Path:
    out = fleet_path.parent / "profile.json"
    code, output = profile(
        fleet_path, "--out", out, *SMALL, "--under-load", "--control", "--cycles", 1, "--plot", out.with_suffix(".png")
    )
    assert code == 0, output
    return out


def test_every_cell_is_measured_and_says_where_it_comes_from(taken: Path) -> None:
    (server,) = read_profile(taken).servers
    assert (server.origin, server.slowdown) == (Origin.EMULATED, 2.0)
    assert server.triton_version == "2.51.0"
    assert server.idle.power_w == 10
    assert [model.name for model in server.models] == list(MODELS)
    for model in server.models:
        assert [batch.items for batch in model.batches] == list(batch_ladder(64))
        assert model.batches[-1].mean_s > model.batches[0].mean_s
        assert all(batch.n >= 4 for batch in model.batches)
        assert all(batch.busy_s and batch.rested_s for batch in model.batches)
        assert all(batch.energy_source is EnergySource.ESTIMATED for batch in model.batches)
        assert model.line.per_item_s > 0
        assert model.line.held_out_error_ratio is not None
    assert taken.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    assert not taken.with_name("profile.json.partial").exists()


def test_changes_are_measured_and_the_server_is_as_it_was(taken: Path, fleet_path: Path) -> None:
    (server,) = read_profile(taken).servers
    for model in server.models:
        assert model.changes is not None
        assert model.changes.instance_bytes is not None
        assert 2**20 < model.changes.instance_bytes < 2**30
        assert min(model.changes.load.mean_s, model.changes.unload.mean_s, model.changes.reload.mean_s) > 0.01

    async def instances() -> list[int]:
        async with Router.from_fleet(load_fleet(fleet_path)) as router:
            return [model.instances for model in router.models()]

    assert asyncio.run(instances()) == [model.instances for model in server.models]


def test_a_profile_of_these_servers_passes_the_check_and_any_other_is_refused(
    taken: Path, fleet_path: Path, tmp_path: Path
) -> None:
    code, output = profile(fleet_path, "--out", taken, "--check")
    assert code == 0, output
    assert "is about these servers as they are" in output
    other = tmp_path / "other.json"
    write_profile(profile_of(), other)
    code, output = profile(fleet_path, "--out", other, "--check")
    assert code == 1
    assert "it has no server here; take it again" in output


def test_a_fit_refuses_a_profile_that_is_older_than_the_weights_and_says_who_does_not_answer(
    taken: Path, fleet_path: Path, tmp_path: Path
) -> None:
    fleet = load_fleet(fleet_path)
    away = ServerSettings(name="away", grpc=f"127.0.0.1:{choose_free_ports(1)[0]}")
    both = fleet.model_copy(update={"servers": (*fleet.servers, away)})
    assert asyncio.run(check_weights(both, taken)) == ["away"]
    old = tmp_path / "old.json"
    sha256 = read_profile(taken).servers[0].models[1].sha256
    old.write_text(taken.read_text().replace(sha256, "0" * 64))
    router = RouterSettings(profile=old, policy_file=tmp_path / "fitted.npz")
    path = tmp_path / "fleet.yaml"
    path.write_text(render_fleet(fleet.model_copy(update={"router": router})))
    run = CliRunner().invoke(main, ["refit", "--fleet", str(path)])
    assert run.exit_code == 1
    assert "model fashion_w050 on server here: sha256 00000000" in run.output.replace("\n", " ")
    assert "take it again" in run.output


def test_the_router_starts_from_it(taken: Path, fleet_path: Path) -> None:
    fleet = load_fleet(fleet_path).model_copy(update={"router": RouterSettings(profile=taken)})
    (server,) = read_profile(taken).servers

    async def lines() -> list[tuple[float, float]]:
        async with Router.from_fleet(fleet) as router:
            (name,) = router.served_by()
            models = router.models()
            assert all(router.inspect().energy.line(name, model.name) for model in models)
            return [router.inspect().latency.line(name, model, models) for model in models]

    expected = [(model.line.per_item_s, model.line.fixed_s) for model in server.models]
    assert [pytest.approx(line, rel=1e-3, abs=1e-9) for line in expected] == asyncio.run(lines())


def test_what_a_profile_has_of_other_servers_stays_where_some_are_named(taken: Path, fleet_path: Path) -> None:
    out = taken.with_name("both.json")
    write_profile(profile_of(server_profile("elsewhere"), server_profile("here")), out)
    code, output = profile(fleet_path, "--out", out, "--server", "here", *SMALL)
    assert code == 0, output
    elsewhere, here = read_profile(out).servers
    assert elsewhere == server_profile("elsewhere")
    assert [model.name for model in here.models] == list(MODELS)


def test_an_interrupted_run_is_taken_up_again(fleet_path: Path, tmp_path: Path) -> None:
    out, partial = tmp_path / "p.json", tmp_path / "p.json.partial"
    code = "from orchestrator.cli import main; main()"
    command = [sys.executable, "-c", code, "profile", "--fleet", str(fleet_path), "--out", str(out)]
    process = subprocess.Popen(
        [*command, "--requests", "4000"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    deadline_s = time.monotonic() + START_S
    while not partial.exists() or partial.read_text().count("\n") < 6:
        assert process.poll() is None, process.stdout and process.stdout.read()
        assert time.monotonic() < deadline_s
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=START_S)
    assert process.returncode == 130
    assert "goes on from" in output.decode().replace("\n", " ")
    assert not out.exists()
    kept = partial.read_text().count("\n") - 1
    assert kept >= 5
    status, output = profile(fleet_path, "--out", out, *SMALL)
    assert status == 0, output
    assert "going on from" in output
    counts = [batch.n for model in read_profile(out).servers[0].models for batch in model.batches]
    # Visits of the first run were of 25 requests, those of the second of one.
    assert sum(n >= 25 for n in counts) == min(kept, len(counts))
    assert not partial.exists()
