import asyncio
import shutil
import socket
from pathlib import Path

import pytest

from orchestrator.embedded.server import (
    EmbeddedOptions,
    EmbeddedServer,
    check_repository,
    choose_free_ports,
    choose_ports,
    is_ready,
)
from orchestrator.errors import ConfigError, EmbeddedServerError

ROOT = Path(__file__).parents[2]


def test_chosen_ports_differ_and_given_ones_are_kept() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        free = probe.getsockname()[1]
    ports = choose_ports(EmbeddedOptions(http_port=free))
    assert ports.http == free
    assert len({ports.grpc, ports.http, ports.metrics}) == 3


def test_free_ports_differ_and_can_be_bound() -> None:
    ports = choose_free_ports(3)
    assert len(set(ports)) == 3
    for port in ports:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", port))


def test_free_ports_are_none_of_those_besides() -> None:
    besides = choose_free_ports(300)
    assert not {*choose_free_ports(300, besides=besides)} & {*besides}


def test_given_ports_are_kept_wherever_they_stand() -> None:
    (given,) = choose_free_ports(1)
    for options in (EmbeddedOptions(grpc_port=given), EmbeddedOptions(metrics_port=given)):
        for _ in range(100):
            ports = choose_ports(options)
            assert given in (ports.grpc, ports.http, ports.metrics)


def test_a_busy_given_port_is_named() -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        busy = holder.getsockname()[1]
        with pytest.raises(EmbeddedServerError, match=f"port {busy}: Address already in use; .* another port"):
            choose_ports(EmbeddedOptions(grpc_port=busy))


def test_a_repository_has_to_exist_and_to_hold_what_is_to_be_loaded(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is not a directory"):
        check_repository(tmp_path / "none", None)
    with pytest.raises(ConfigError, match="holds no"):
        check_repository(tmp_path, None)
    check_repository(tmp_path, ())
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "config.pbtxt").touch()
    check_repository(tmp_path, None)
    check_repository(tmp_path, ("m",))
    with pytest.raises(ConfigError, match="no model 'x'; it has: m"):
        check_repository(tmp_path, ("m", "x"))
    (tmp_path / "two words").mkdir()
    (tmp_path / "two words" / "config.pbtxt").touch()
    with pytest.raises(ConfigError, match="holds a model 'two words': a shell starts its stub"):
        check_repository(tmp_path, None)
    check_repository(tmp_path, ("m",))


def test_a_repository_of_another_user_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> bool:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "is_dir", refuse)  # the superuser, who may run this, could look into it
    with pytest.raises(ConfigError, match=f"can't read model repository {tmp_path} .Permission denied.; let this user"):
        check_repository(tmp_path, None)


@pytest.mark.parametrize(
    "options", [EmbeddedOptions(models=(), slowdown=0.5), EmbeddedOptions(models=(), cpus=frozenset({9999}))]
)
async def test_bad_options_are_refused_before_anything_starts(tmp_path: Path, options: EmbeddedOptions) -> None:
    server = EmbeddedServer(tmp_path, options)
    with pytest.raises(ConfigError):
        await server.__aenter__()
    assert not server.is_running
    await server.stop()


def test_only_an_emulated_slow_server_throttles_and_only_once_it_runs(tmp_path: Path) -> None:
    with pytest.raises(EmbeddedServerError, match="slowdown is 1, and only an emulated slow server throttles"):
        EmbeddedServer(tmp_path).throttle(3.0)
    with pytest.raises(EmbeddedServerError, match="has not been started"):
        EmbeddedServer(tmp_path, EmbeddedOptions(slowdown=2.0)).throttle(3.0)


def test_addresses_need_a_started_server(tmp_path: Path) -> None:
    server = EmbeddedServer(tmp_path)
    for name in ("grpc_address", "http_address", "metrics_url", "pid", "log_path"):
        with pytest.raises(EmbeddedServerError, match="has not been started"):
            getattr(server, name)


async def test_a_mute_listener_on_its_port_is_not_a_ready_server() -> None:
    async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()  # until the caller has had enough
        writer.close()
        await writer.wait_closed()
        is_left.set()

    is_left = asyncio.Event()
    async with await asyncio.start_server(say_nothing, "127.0.0.1", 0) as mute:
        assert not await is_ready(mute.sockets[0].getsockname()[1])
        await is_left.wait()


@pytest.mark.integration
@pytest.mark.parametrize("name", ["sp ace", "m\u00f6dels", "a;exit 1;"])
async def test_models_are_served_from_a_path_that_no_shell_would_take(name: str, tmp_path: Path) -> None:
    shutil.copytree(ROOT / "model_repository" / "fashion_w025", tmp_path / name / "fashion_w025")
    async with EmbeddedServer(tmp_path / name) as server:
        assert server.is_running


@pytest.mark.integration
async def test_a_model_whose_name_is_no_ascii_is_served(tmp_path: Path) -> None:
    model = tmp_path / "m\u00f6del"
    shutil.copytree(ROOT / "model_repository" / "fashion_w025", model)
    config = model / "config.pbtxt"
    config.write_text(config.read_text().replace('name: "fashion_w025"', f'name: "{model.name}"', 1))
    async with EmbeddedServer(tmp_path, EmbeddedOptions(models=(model.name,))) as server:
        assert server.is_running
