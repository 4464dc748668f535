"""What is restarted under whom, what the page says of it, and that balancers and clients understand what they get."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest

from benchmarks.restarts.cells import CLIENTS, HOWS, UNPROMISED, Cell, Outcome, Results, draw_claims
from benchmarks.restarts.cells import list_cells as cells
from benchmarks.restarts.installed import client_command
from benchmarks.restarts.page import make_page
from benchmarks.restarts.proxies import PROXIES
from benchmarks.restarts.testbed import Addresses
from orchestrator.errors import ConfigError
from orchestrator.reporting.blocks import render_markdown
from orchestrator.triton.messages import SERVICE

ROOT = Path(__file__).parents[3]
GATEWAYS = [Addresses(*(f"127.0.0.1:{port}" for port in ports)) for ports in ((1, 2, 3), (4, 5, 6))]
WELL = Outcome(answered=100, longest_s=0.5, errors={}, restarts=4)
ILL = Outcome(answered=90, longest_s=0.5, errors={"UNAVAILABLE: gone": 9, "INTERNAL: reset": 1}, restarts=4)


def results(**spoiled: Outcome) -> Results:
    ends = {cell: WELL if cell.shares else spoiled.get(cell.proxy or cell.client, WELL) for cell in cells()}
    return Results.begin(cells=tuple(ends.items()))


def test_every_client_and_balancer_meets_every_way_of_restarting() -> None:
    met = {(cell.proxy or cell.client, cell.how) for cell in cells()}
    assert met == {(name, how) for name in (*CLIENTS, *PROXIES) for how in HOWS}
    assert len(set(cells())) == len(cells())
    assert {cell.workers for cell in cells()} == {1, 2}
    sharing = [cell for cell in cells() if cell.shares]
    assert {(cell.proxy, cell.how) for cell in sharing} == {(n, how) for n in ("", "Envoy", "HAProxy") for how in HOWS}
    assert {cell.workers for cell in sharing} == {1, 2}


@pytest.mark.parametrize("name", [*CLIENTS, *PROXIES])
def test_one_failed_call_breaks_the_claim_of_its_client_alone(name: str) -> None:
    broken = [claim.name for claim in draw_claims(results(**{name: ILL})) if not claim.is_met]
    assert len(broken) == 1
    assert name in broken[0]


def test_a_call_that_fails_where_gateways_share_a_fleet_breaks_a_claim_of_its_own() -> None:
    run = Results.begin(cells=tuple((cell, ILL if cell.shares else WELL) for cell in cells()))
    (broken,) = [claim.name for claim in draw_claims(run) if not claim.is_met]
    assert "share a fleet" in broken


def test_what_is_not_promised_breaks_no_claim() -> None:
    run = Results.begin(cells=tuple((cell, ILL if cell in UNPROMISED else WELL) for cell in cells()))
    assert all(claim.is_met for claim in draw_claims(run))
    assert UNPROMISED[0] in cells()
    assert "9 of UNAVAILABLE: gone" in render_markdown(make_page(run)), "but is told"


def test_who_was_not_tried_breaks_a_claim_and_is_named() -> None:
    run = Results.begin(cells=((Cell("grpcio", "", HOWS[0]), WELL),), left_out={"nginx": "no nginx"})
    assert [claim.value for claim in draw_claims(run)] == [0.0, 1.0]
    assert "**nginx was not tried:** no nginx" in render_markdown(make_page(run))


@pytest.mark.parametrize(
    ("name", "check"),
    [
        ("Envoy", lambda path: ("--mode", "validate", "-c", path, "--use-dynamic-base-id")),
        ("HAProxy", lambda path: ("-c", "-f", path)),
        ("nginx", lambda path: ("-t", "-c", path, "-e", "stderr")),
    ],
)
def test_a_balancer_finds_nothing_wrong_with_its_settings(
    name: str, check: Callable[[str], Sequence[str]], tmp_path: Path
) -> None:
    proxy = PROXIES[name]
    try:
        program = proxy.find()
    except ConfigError as exc:
        pytest.skip(str(exc))
    path = tmp_path / "settings.json"
    path.write_text(proxy.render(7, GATEWAYS, tmp_path))
    done = subprocess.run([program, *check(str(path))], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("client", ["grpcio", "grpc-js", pytest.param("grpc-go", marks=pytest.mark.integration)])
def test_a_client_counts_answers_and_reasons_until_its_input_ends(client: str, tmp_path: Path) -> None:
    modules = Path(sys.prefix) / "node_modules"
    try:
        command, more = client_command(client, tmp_path, modules)
    except ConfigError as exc:
        pytest.skip(str(exc))
    asked: list[bytes] = []

    def answer(request: bytes, context: grpc.ServicerContext) -> bytes:
        asked.append(request)
        if len(asked) <= 3:
            context.abort(grpc.StatusCode.INTERNAL, "not now")
        return request

    server = grpc.server(ThreadPoolExecutor(2))
    methods = {"ModelInfer": grpc.unary_unary_rpc_method_handler(answer)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, methods),))
    address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    (tmp_path / "message").write_bytes(b"hello")
    arguments = (address, "50", str(tmp_path / "message"))
    with subprocess.Popen(
        [*command, *arguments], env={**os.environ, **more}, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        while len(asked) < 20:
            assert process.poll() is None
            time.sleep(0.01)
        printed, _ = process.communicate(b"", timeout=60)
    server.stop(None)
    met = json.loads(printed)
    assert set(asked) == {b"hello"}
    assert met["answered"] == len(asked) - 3
    assert list(met["errors"].values()) == [3]
