"""TLS on both transports: who is answered, and certificates that change while the gateway runs."""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
import grpc
import pytest
import trustme
from cryptography.hazmat.primitives import serialization

from orchestrator.config import TlsSettings, parse_fleet
from orchestrator.errors import ConfigError
from orchestrator.gateway import file_watch
from orchestrator.gateway.auth.tls import HTTP1, TlsFiles
from orchestrator.triton.messages import SERVICE
from tests.gateway.calls import item_request
from tests.gateway.fakes import World, open_world


class Authority:
    """An authority, and the files of what it signs."""

    def __init__(self, directory: Path) -> None:
        self.ca = trustme.CA()
        self.directory = directory
        self.pem = self.ca.cert_pem.bytes()
        self.path = directory / "ca.pem"
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_bytes(self.pem)

    def write(self, name: str = "127.0.0.1") -> dict[str, Path]:
        signed = self.ca.issue_cert(name, "localhost")
        paths = {"certificate": self.directory / "cert.pem", "key": self.directory / "key.pem"}
        paths["key"].write_bytes(signed.private_key_pem.bytes())
        paths["certificate"].write_bytes(b"".join(blob.bytes() for blob in signed.cert_chain_pems))
        return paths


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "ours")


async def ask_grpc(world: World, authority: Authority, client: Authority | None = None) -> str:
    mine = None if client is None else client.write("client")
    credentials = grpc.ssl_channel_credentials(
        authority.pem,
        None if mine is None else mine["key"].read_bytes(),
        None if mine is None else mine["certificate"].read_bytes(),
    )
    channel: Any
    async with grpc.aio.secure_channel(world.grpc, credentials) as channel:
        try:
            await channel.unary_unary(f"/{SERVICE}/ModelInfer")(item_request().SerializeToString())
        except grpc.aio.AioRpcError as exc:
            return exc.code().name
    return "OK"


def context_of(authority: Authority, client: Authority | None = None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=authority.path)
    if client is not None:
        mine = client.write("client")
        context.load_cert_chain(mine["certificate"], mine["key"])
    return context


async def ask_http(world: World, context: ssl.SSLContext) -> str:
    url = world.http.replace("http://", "https://") + "/v2/health/ready"
    try:
        async with aiohttp.ClientSession() as session, session.get(url, ssl=context) as response:
            return str(response.status)
    except (aiohttp.ClientError, ssl.SSLError, ConnectionError) as exc:
        return type(exc).__name__


async def certificate_of(world: World, context: ssl.SSLContext) -> bytes:
    _, writer = await asyncio.open_connection(*world.http.removeprefix("http://").split(":"), ssl=context)
    found: bytes = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.close()
    await writer.wait_closed()
    return found


async def test_both_transports_speak_tls_and_nothing_else(authority: Authority, tmp_path: Path) -> None:
    async with open_world(tls=authority.write()) as world:
        assert await ask_grpc(world, authority) == "OK"
        assert await ask_http(world, context_of(authority)) == "200"
        stranger = Authority(tmp_path / "stranger")
        assert await ask_grpc(world, stranger) == "UNAVAILABLE"
        assert await ask_http(world, context_of(stranger)) == "ClientConnectorCertificateError"
        channel: Any
        async with grpc.aio.insecure_channel(world.grpc) as channel:
            with pytest.raises(grpc.aio.AioRpcError):
                await channel.unary_unary(f"/{SERVICE}/ServerLive")(b"")
        async with aiohttp.ClientSession() as session:
            with pytest.raises(aiohttp.ClientError):
                await session.get(world.http + "/v2")
            assert world.gateway.metrics is not None
            async with session.get(f"http://{world.gateway.metrics.address}/metrics") as page:
                assert page.status == 200
        assert await ask_grpc(world, authority) == "OK"


@pytest.mark.parametrize(("offered", "chosen"), [(["h2", "http/1.1"], "http/1.1"), (["http/1.1"], "http/1.1")])
async def test_http_is_agreed_on_where_both_are_offered(authority: Authority, offered: list[str], chosen: str) -> None:
    context = context_of(authority)
    context.set_alpn_protocols(offered)
    async with open_world(tls=authority.write()) as world:
        for address, expected in ((world.http.removeprefix("http://"), chosen), (world.grpc, "h2")):
            if expected not in offered:
                continue
            _, writer = await asyncio.open_connection(*address.split(":"), ssl=context)
            assert writer.get_extra_info("ssl_object").selected_alpn_protocol() == expected
            writer.close()
            await writer.wait_closed()


async def test_old_versions_are_refused(authority: Authority) -> None:
    old = context_of(authority)
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    async with open_world(tls=authority.write() | {"minimum_version": 1.3}) as world:
        assert await ask_http(world, context_of(authority)) == "200"
        assert await ask_http(world, old) != "200"
    async with open_world(tls=authority.write()) as world:
        assert await ask_http(world, old) == "200"


async def test_suites_without_authenticated_encryption_or_forward_secrecy_are_not_spoken(authority: Authority) -> None:
    async with open_world(tls=authority.write()) as world:
        for suites, is_spoken in (("ECDHE+AESGCM", True), ("ECDHE+SHA1:ECDHE+SHA256:AES128-GCM-SHA256", False)):
            client = context_of(authority)
            client.maximum_version = ssl.TLSVersion.TLSv1_2
            client.set_ciphers(suites)
            assert (await ask_http(world, client) == "200") is is_spoken


async def test_a_client_must_show_a_certificate_of_the_right_authority(authority: Authority, tmp_path: Path) -> None:
    clients, stranger = Authority(tmp_path / "clients"), Authority(tmp_path / "stranger")
    async with open_world(tls=authority.write() | {"client_ca": clients.path}) as world:
        assert await ask_grpc(world, authority, clients) == "OK"
        assert await ask_http(world, context_of(authority, clients)) == "200"
        for wrong in (None, stranger, authority):
            if wrong is not authority:
                assert await ask_grpc(world, authority, wrong) == "UNAVAILABLE"
                assert await ask_http(world, context_of(authority, wrong)) != "200"
        assert await ask_grpc(world, authority, clients) == "OK"


async def test_an_authority_that_is_taken_away_while_the_gateway_starts_lets_nobody_in_for_good(
    authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = Authority(tmp_path / "old"), Authority(tmp_path / "new")
    tls = authority.write() | {"client_ca": tmp_path / "client_ca.pem"}
    tls["client_ca"].write_bytes(old.pem)
    monkeypatch.setattr(file_watch, "PERIOD_S", 0.01)
    build = TlsFiles._build

    def build_and_rotate(files: TlsFiles, protocol: str) -> ssl.SSLContext:
        built = build(files, protocol)
        if tls["client_ca"].read_bytes() != new.pem and protocol == HTTP1:  # the last that is read
            tls["client_ca"].write_bytes(new.pem)
        return built

    monkeypatch.setattr(TlsFiles, "_build", build_and_rotate)
    old_context, new_context = context_of(authority, old), context_of(authority, new)
    async with open_world(tls=tls) as world:
        await asyncio.sleep(0.2)
        assert await ask_http(world, new_context) == "200"
        assert await ask_http(world, old_context) != "200"


async def test_another_client_authority_shuts_the_clients_of_the_first_out(
    authority: Authority, tmp_path: Path
) -> None:
    old, new = Authority(tmp_path / "old"), Authority(tmp_path / "new")
    tls = authority.write() | {"client_ca": tmp_path / "client_ca.pem"}
    tls["client_ca"].write_bytes(old.pem)
    old_context, new_context = context_of(authority, old), context_of(authority, new)
    async with open_world(tls=tls) as world:
        assert await ask_http(world, old_context) == "200"
        assert await ask_http(world, new_context) != "200"
        tls["client_ca"].write_bytes(new.pem)
        world.gateway.reload()
        assert await ask_http(world, old_context) != "200"
        assert await ask_http(world, new_context) == "200"
        assert await ask_grpc(world, authority, old) == "UNAVAILABLE"
        assert await ask_grpc(world, authority, new) == "OK"


async def test_a_session_of_before_does_not_let_a_client_in_whose_authority_is_gone(
    authority: Authority, tmp_path: Path
) -> None:
    """TLS 1.2 resumes sessions that the server keeps, without a look at the certificate."""
    old, new = Authority(tmp_path / "old"), Authority(tmp_path / "new")
    tls = authority.write() | {"client_ca": tmp_path / "client_ca.pem"}
    tls["client_ca"].write_bytes(old.pem)
    context = context_of(authority, old)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    async with open_world(tls=tls) as world:
        host, _, port = world.http.removeprefix("http://").partition(":")

        def ask(session: ssl.SSLSession | None = None) -> ssl.SSLSession | None:
            with (
                socket.create_connection((host, int(port)), 5) as plain,
                context.wrap_socket(plain, server_hostname=host, session=session) as secured,
            ):
                secured.sendall(b"GET /v2/health/ready HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
                assert secured.recv(100).startswith(b"HTTP/1.1 200")
                return secured.session

        kept = await asyncio.to_thread(ask)
        await asyncio.to_thread(ask, kept)
        tls["client_ca"].write_bytes(new.pem)
        world.gateway.reload()
        for session in (kept, None):
            with pytest.raises((ssl.SSLError, ConnectionError)):
                await asyncio.to_thread(ask, session)


async def test_a_new_certificate_is_shown_to_new_connections_and_old_ones_go_on(
    authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    tls, context = authority.write(), context_of(authority)
    credentials = grpc.ssl_channel_credentials(authority.pem)
    message = item_request().SerializeToString()
    channel: Any
    async with (
        open_world(tls=tls) as world,
        grpc.aio.secure_channel(world.grpc, credentials) as channel,
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context)) as session,
    ):
        url = world.http.replace("http://", "https://") + "/v2/health/ready"
        infer = channel.unary_unary(f"/{SERVICE}/ModelInfer")
        await infer(message)
        async with session.get(url) as response:
            assert response.status == 200
        first = await certificate_of(world, context)

        kept = tls["key"].read_bytes()
        tls["key"].write_bytes(b"no key")
        world.gateway.reload()
        assert "certificates: kept as before" in caplog.text
        assert await certificate_of(world, context) == first
        tls["key"].write_bytes(kept)
        tls["certificate"].unlink()
        world.gateway.reload()
        assert await certificate_of(world, context) == first

        authority.write()
        while await certificate_of(world, context) == first:  # by itself, within a second
            await asyncio.sleep(0.05)
        await infer(message)
        async with session.get(url) as response:
            assert response.status == 200


@pytest.mark.parametrize(
    ("spoil", "problem"),
    [
        (lambda p: p["key"].write_text("x"), "no pem data"),
        (lambda p: p["certificate"].write_text("x"), "can't use gateway.tls.certificate"),
        (lambda p: p["key"].unlink(), "No such file"),
        (lambda p: p["client_ca"].write_text(""), "can't use gateway.tls.client_ca"),
        (lambda p: p["client_ca"].unlink(), "No such file"),
        (lambda p: p["key"].write_bytes(trustme.CA().issue_cert("a").private_key_pem.bytes()), "key values mismatch"),
    ],
)
def test_files_that_cannot_be_used_are_told_in_a_line(
    authority: Authority, spoil: Callable[[dict[str, Path]], object], problem: str
) -> None:
    paths = authority.write() | {"client_ca": authority.path}
    spoil(paths)
    with pytest.raises(ConfigError) as caught:
        TlsFiles(TlsSettings.model_validate(paths))
    assert problem.lower() in str(caught.value).lower()
    assert "\n" not in str(caught.value)


def test_a_key_with_a_passphrase_is_refused_and_none_is_asked_for(authority: Authority) -> None:
    paths = authority.write()
    key = serialization.load_pem_private_key(paths["key"].read_bytes(), None)
    sealed = serialization.BestAvailableEncryption(b"secret")
    form = serialization.PrivateFormat.PKCS8
    paths["key"].write_bytes(key.private_bytes(serialization.Encoding.PEM, form, sealed))
    with pytest.raises(ConfigError, match="without a passphrase"):
        TlsFiles(TlsSettings.model_validate(paths)).context(HTTP1)


@pytest.mark.parametrize(
    ("section", "problem"),
    [
        ("tls: {certificate: a}", "key gateway.tls.key is missing"),
        ("tls: {certificate: a, key: b, client_ca: b}", "client_ca and key are both b"),
        ("tls: {certificate: a, key: b, minimum_version: 1.1}", "gateway.tls.minimum_version"),
        ("tls: {certificate: a, key: b, ca: c}", "unknown key gateway.tls.ca; allowed here: certificate, key"),
        ("limits: {max_header_kib: 0}", "gateway.limits.max_header_kib"),
        ("limits: {max_conections: 5}", "unknown key gateway.limits.max_conections; allowed here: max_connections"),
        ("limits: {idle_timeout_s: 1}", "idle_timeout_s 1 is below header_timeout_s 10"),
        ("limits: {max_held_mib: 8}", "limits.max_held_mib 8 is below max_message_mib 64"),
        ("auth: {}", "key gateway.auth.tokens_file is missing"),
        ("auth: {tokens_file: a, tokens: b}", "unknown key gateway.auth.tokens"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(section: str, problem: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_fleet(f"servers: [{{name: a, grpc: '127.0.0.1:9'}}]\ngateway: {{{section}}}")
    assert problem in str(caught.value)
