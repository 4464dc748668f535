"""Foreign clients with TLS and a token at a gateway of two workers; certificates are made as docs/gateway.md says."""

from __future__ import annotations

import asyncio
import inspect
import re
import ssl
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
import tritonclient.grpc as grpcclient
import tritonclient.grpc.aio as grpcaio
import tritonclient.http as httpclient
import tritonclient.http.aio as httpaio
from click.testing import CliRunner
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tritonclient.utils import InferenceServerException

from benchmarks.clients.analyses import analyses, find_analyzer, run_analysis, secured_options
from orchestrator.cli import main
from orchestrator.config import AuthSettings, TlsSettings
from orchestrator.embedded.server import EmbeddedServer
from tests.gateway.client_calls import ASKED, INFERENCES, Call, answer, plain
from tests.gateway.documented import examples, run
from tests.gateway.running import Addresses, start_gateway, stop_gateway

pytestmark = [pytest.mark.integration, pytest.mark.filterwarnings("default")]


@dataclass(frozen=True)
class Secured:
    """A gateway that speaks TLS and asks for a token."""

    addresses: Addresses
    folder: Path
    fleet: Path
    token: str

    @property
    def headers(self) -> dict[str, str]:
        return {"authorization": f"Bearer {self.token}"}

    @property
    def authority(self) -> Path:
        return self.folder / "ca.pem"


@pytest.fixture(scope="module")
def secured(servers: list[EmbeddedServer], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    folder = tmp_path_factory.mktemp("secured")
    for example in examples("gateway.md", "### TLS"):
        if example.command.startswith("openssl"):
            run(example.command, folder, {})
    shown = run("python -c 'from orchestrator.cli import main; main()' token new vision", folder, {})
    (token,) = re.findall(r"client\): (\S+)", shown)
    (folder / "tokens.yaml").write_text("tenants:\n" + shown.partition("tokens file:\n")[2] + "\n")
    process = start_gateway(
        folder,
        servers,
        workers=2,
        tls=TlsSettings(certificate=folder / "server.pem", key=folder / "server.key"),
        auth=AuthSettings(tokens_file=folder / "tokens.yaml", open_status=False),
    )
    try:
        yield Secured(process.addresses, folder, process.path, token)
    finally:
        assert stop_gateway(process) == 0, process.lines


def test_the_documented_curl_works_and_a_models_state_needs_the_token(secured: Secured) -> None:
    (example,) = [found for found in examples("gateway.md", "### TLS") if found.command.startswith("curl")]
    port = secured.addresses.http.rpartition(":")[2]
    assert run(example.command, secured.folder, {"localhost:8080": f"localhost:{port}"}) == example.output
    asked = f"curl -s --cacert ca.pem https://localhost:{port}/v2/models/plus/ready -o /dev/null -w '%{{http_code}}'"
    assert run(asked, secured.folder, {}) == "401"
    assert run(f"{asked} -H 'authorization: Bearer {secured.token}'", secured.folder, {}) == "200"


def client_of(kind: str, secured: Secured) -> Any:
    authority = str(secured.authority)
    if kind == "grpc":
        return grpcclient.InferenceServerClient(secured.addresses.grpc, ssl=True, root_certificates=authority)
    if kind == "grpc.aio":
        return grpcaio.InferenceServerClient(secured.addresses.grpc, ssl=True, root_certificates=authority)
    if kind == "http":
        options = {"ca_certs": authority}
        return httpclient.InferenceServerClient(secured.addresses.http, ssl=True, ssl_options=options)
    context = ssl.create_default_context(cafile=authority)
    return httpaio.InferenceServerClient(secured.addresses.http, ssl=True, ssl_context=context)


MODULES = {"grpc": grpcclient, "grpc.aio": grpcaio, "http": httpclient, "http.aio": httpaio}
SOME = ("two items", "gzip", "JSON", "BYTES", "a width of the family", "no such input")


async def settle(found: Any) -> Any:
    return await found if inspect.isawaitable(found) else found


@pytest.mark.parametrize("kind", MODULES)
async def test_tritonclient_with_a_token_and_without(secured: Secured, direct: Addresses, kind: str) -> None:
    client, module = client_of(kind, secured), MODULES[kind]
    theirs = module.InferenceServerClient(direct.grpc if "grpc" in kind else direct.http)
    try:
        with pytest.raises(InferenceServerException, match="a token is missing"):
            await settle(client.infer(**INFERENCES["two items"].arguments(module, is_ours=True)))
        for name in SOME:
            what = INFERENCES[name]
            answers = []
            for asked, more in ((client, {"headers": secured.headers}), (theirs, {})):
                try:
                    result = await settle(asked.infer(**what.arguments(module, is_ours=asked is client), **more))
                    answers.append(plain(result))
                except InferenceServerException as exc:
                    answers.append((exc.status(), exc.message()))
            assert answers[0] == answers[1], name
        for call in ASKED:
            asked = Call(call.method, call.args, {**call.kwargs, "headers": secured.headers})
            found = await answer(client, asked, is_json=False)
            is_refused = isinstance(found, tuple)
            assert is_refused == (call.is_closed or bool({"nope", "2"} & set(map(str, call.args)))) or (
                call.method == "is_model_ready" and found is False
            ), f"{call}: {found}"
    finally:
        await settle(client.close())
        await settle(theirs.close())


async def test_a_stream_with_a_token_answers_each_of_its_requests(secured: Secured) -> None:
    async with client_of("grpc.aio", secured) as client:

        async def sent() -> Any:
            for number in range(20):
                what = INFERENCES["two items" if number % 2 else "a width of the family"]
                yield {**what.arguments(grpcaio, is_ours=True), "request_id": str(number)}

        found = [pair async for pair in client.stream_infer(sent(), headers=secured.headers)]
        assert [error for _, error in found if error is not None] == []
        assert {result.get_response().id for result, _ in found} == set(map(str, range(20)))


@pytest.mark.parametrize(
    "name", ["grpc, fashion, async, batch 8, concurrency 4", "http, fashion, sync, batch 1, concurrency 4"]
)
def test_perf_analyzer_with_tls_and_a_token(secured: Secured, name: str) -> None:
    if find_analyzer() is None:
        pytest.skip("no perf_analyzer beside this python; install the wheel perf-analyzer")
    (analysis,) = [found for found in analyses() if str(found) == name]
    protocol, port = analysis.protocol, getattr(secured.addresses, analysis.protocol).rpartition(":")[2]
    address = f"localhost:{port}" if protocol == "grpc" else f"https://localhost:{port}"
    found = run_analysis(analysis, address, secured_options(protocol, secured.authority, secured.token))
    assert found.problem == "", found.problem


async def test_health_as_load_balancers_ask_for_it(secured: Secured, gateway: Addresses, direct: Addresses) -> None:
    """Without a token, by the stub of grpcio-health-checking; gRPC's own probe sends the same."""
    credentials = grpc.ssl_channel_credentials(secured.authority.read_bytes())
    channels: list[Any] = [
        grpc.aio.secure_channel(secured.addresses.grpc, credentials),
        grpc.aio.insecure_channel(gateway.grpc),
        grpc.aio.insecure_channel(direct.grpc),
    ]
    for number, channel in enumerate(channels):
        async with channel:
            stub = health_pb2_grpc.HealthStub(channel)
            for service in ("", "inference.GRPCInferenceService", "nope"):
                answers = await asyncio.gather(
                    *(stub.Check(health_pb2.HealthCheckRequest(service=service)) for _ in "ab")
                )
                assert {found.status for found in answers} == {health_pb2.HealthCheckResponse.SERVING}
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await stub.Watch(health_pb2.HealthCheckRequest()).read()
            unknown = grpc.StatusCode.UNIMPLEMENTED if number else grpc.StatusCode.UNAUTHENTICATED
            assert caught.value.code() is unknown


def test_the_status_page_of_all_workers_is_kept_for_a_tenant_who_may_see_it(secured: Secured) -> None:
    def status(**environment: str) -> tuple[int, str]:
        command = ["status", "--fleet", str(secured.fleet), "--timeout", "60"]
        done = CliRunner().invoke(main, command, env=environment)
        return done.exit_code, " ".join(done.output.split())

    code, said = status()
    assert (code, "refuses: a token is missing" in said) == (1, True), said
    code, said = status(SLIMSCHED_TOKEN=secured.token)
    assert (code, "refuses: tenant 'vision' may not see the status page" in said) == (1, True), said
    tokens = secured.folder / "tokens.yaml"
    tokens.write_text(tokens.read_text() + "    sees_status: true\n")
    deadline_s = time.monotonic() + 60.0
    while "refuses" in said and time.monotonic() < deadline_s:
        code, said = status(SLIMSCHED_TOKEN=secured.token)
    assert code in (0, 3), said  # what it tells of a fleet without controllers is up to the fleet
