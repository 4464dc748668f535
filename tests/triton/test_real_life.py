"""How embedded servers start, fail and end, on the real tritonserver."""

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import tritonclient.grpc as grpcclient
import yaml

from orchestrator.embedded.server import START_ATTEMPTS, EmbeddedOptions, EmbeddedServer, choose_ports, is_ready
from orchestrator.embedded.wheel import (
    assemble_backends,
    build_environment,
    find_module_directories,
    find_python_library_directory,
    locate_wheel,
)
from orchestrator.errors import EmbeddedServerError
from orchestrator.processes.guarded import PREFIX, create_private_directory
from orchestrator.processes.process_table import list_session, read_identity
from tests.ports import with_ports
from tests.triton import onnx_models
from tests.triton.calls import index

pytestmark = pytest.mark.integration
ROOT = Path(__file__).parents[2]
COMPOSE = ROOT / "deploy" / "compose.yaml"
GONE_S = 15.0  # how long the slowest way to go may take on a busy machine; usually it is below three seconds


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("repository")
    for name in ("first", "second"):
        onnx_models.write_model(path, name, onnx_models.plus_one())
    return path


def wait_until(condition: Callable[[], bool]) -> bool:
    deadline_s = time.monotonic() + GONE_S
    while not condition():
        if time.monotonic() > deadline_s:
            return False
        time.sleep(0.02)
    return True


def is_gone(*pids: int) -> Callable[[], bool]:
    return lambda: all(read_identity(pid) is None for pid in pids)


def regions_of(pids: Iterable[int]) -> set[Path]:
    """Return the shared memory of stubs among processes, as their command lines name it: others may run here too."""
    regions = set()
    for pid in pids:
        with contextlib.suppress(OSError):  # it has ended
            arguments = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
            regions |= {Path("/dev/shm", name.strip("/")) for name in arguments if "_shm_region_" in name}
    return regions


def guardian_of(server: EmbeddedServer) -> int:
    return psutil.Process(server.pid).ppid()


def existing(regions: Iterable[Path]) -> list[Path]:
    return [region for region in regions if region.exists()]


async def test_nothing_is_left_after_an_ordinary_end(repository: Path, options: EmbeddedOptions) -> None:
    async with EmbeddedServer(repository, options) as server:
        pids = (server.pid, guardian_of(server), *server.stub_pids())
        regions = regions_of(pids)
        assert len(existing(regions)) == 2
        directory = server.log_path.parent
    assert is_gone(*pids)()
    assert not directory.exists()
    assert not existing(regions)


@pytest.mark.parametrize("victim", ["server", "guardian", "stub and server"])
async def test_nothing_is_left_when_one_is_killed(repository: Path, options: EmbeddedOptions, victim: str) -> None:
    async with EmbeddedServer(repository, options) as server:
        pids = (server.pid, guardian_of(server), *server.stub_pids())
        regions = regions_of(pids)
        directory = server.log_path.parent
        if victim == "stub and server":
            os.kill(server.stub_pids()[0], signal.SIGKILL)
        os.kill(guardian_of(server) if victim == "guardian" else server.pid, signal.SIGKILL)
        async with asyncio.timeout(GONE_S):
            ending = await server.wait_exited()
        assert ("lost its guardian" if victim == "guardian" else "killed by SIGKILL") in ending
        assert not server.is_running
    assert is_gone(*pids)()
    assert list_session(server.pid) == []
    assert not directory.exists()
    # A stub killed first can't say any more which region was its own.
    left = existing(regions)
    for region in left:
        region.unlink()
    assert len(left) <= (1 if victim == "stub and server" else 0)


HOLD = """
import asyncio, sys
from pathlib import Path
import psutil
from orchestrator.embedded.server import EmbeddedOptions, EmbeddedServer

async def main():
    async with EmbeddedServer(Path(sys.argv[1]), EmbeddedOptions(exit_timeout_s=3)) as server:
        print(server.pid, psutil.Process(server.pid).ppid(), *server.stub_pids(), flush=True)
        print(server.log_path.parent, flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""


@contextlib.contextmanager
def holder(repository: Path) -> Iterator[tuple[subprocess.Popen[str], list[int], Path]]:
    """Another process with an embedded server; the server's processes and its directory."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(repository)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        cwd=ROOT,
    ) as process:
        try:
            assert process.stdout is not None
            pids = [int(pid) for pid in process.stdout.readline().split()]
            yield process, pids, Path(process.stdout.readline().strip())
        finally:
            process.kill()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_nothing_outlives_the_parent(repository: Path, number: signal.Signals) -> None:
    with holder(repository) as (process, pids, directory):
        assert len(pids) == 4
        regions = regions_of(pids)
        assert len(existing(regions)) == 2
        process.send_signal(number)
        process.wait(GONE_S)
        assert wait_until(is_gone(*pids))
    assert not directory.exists()
    assert not existing(regions)


def test_nothing_outlives_parent_and_guardian_killed_together(repository: Path) -> None:
    with holder(repository) as (process, pids, directory):
        os.kill(pids[1], signal.SIGKILL)
        process.kill()
        assert wait_until(is_gone(*pids))
    assert directory.exists(), "nobody was left to remove it; the next start will, once it is old enough"
    os.utime(directory, (0, 0))
    create_private_directory().remove()
    assert not directory.exists()


async def test_a_broken_model_is_the_reason_and_the_named_log_stays(tmp_path: Path) -> None:
    model = onnx_models.plus_one()
    onnx_models.write_model(tmp_path / "r", "bad", model, onnx_models.render_config(model).replace('"y"', '"z"'))
    log = tmp_path / "server.log"
    with pytest.raises(EmbeddedServerError) as caught:
        async with EmbeddedServer(tmp_path / "r", EmbeddedOptions(log_path=log)):
            pass
    assert f"can load no model of {tmp_path / 'r'}: failed to load 'bad' version 1" in str(caught.value)
    assert "unexpected output 'z'" in str(caught.value)
    assert str(log) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "unexpected output 'z'" in log.read_text()


async def test_one_broken_model_is_told_and_the_others_are_served(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("bad", "good", "odd"):
        onnx_models.write_model(tmp_path, name, onnx_models.plus_one())
    (tmp_path / "bad" / "1" / "model.onnx").write_bytes(b"no network")
    (tmp_path / "odd" / "config.pbtxt").write_text("nonsense: 3")
    async with EmbeddedServer(tmp_path, EmbeddedOptions(exit_timeout_s=3)) as server:
        with grpcclient.InferenceServerClient(server.grpc_address) as client:
            assert client.is_model_ready("good")
            assert not client.is_model_ready("bad")
    bad, odd = (record.getMessage() for record in caplog.records if "is not served" in record.getMessage())
    assert bad.startswith(f"model bad of {tmp_path} is not served: unable to load model 'bad': onnx runtime can't load")
    assert odd.endswith("model odd of " + f"{tmp_path} is not served: its config.pbtxt can't be read or fits no model")


async def test_a_model_that_was_named_must_load(tmp_path: Path) -> None:
    for name in ("bad", "good"):
        onnx_models.write_model(tmp_path, name, onnx_models.plus_one())
    (tmp_path / "bad" / "1" / "model.onnx").write_bytes(b"no network")
    with pytest.raises(EmbeddedServerError, match="exited with status 1: failed to load 'bad'"):
        async with EmbeddedServer(tmp_path, EmbeddedOptions(models=("good", "bad"))):
            pass


async def test_an_unreadable_config_is_the_reason_too(tmp_path: Path) -> None:
    onnx_models.write_model(tmp_path, "bad", onnx_models.plus_one(), 'backend: "onnxruntime" nonsense: 3')
    with pytest.raises(EmbeddedServerError, match=r"model directory 'bad'.*has no field named .nonsense."):
        async with EmbeddedServer(tmp_path):
            pass


async def test_a_busy_port_is_named(repository: Path) -> None:
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))
        busy.listen()
        port = busy.getsockname()[1]
        with pytest.raises(EmbeddedServerError, match=f"port {port}: Address already in use"):
            async with EmbeddedServer(repository, EmbeddedOptions(http_port=port)):
                pass


async def test_a_server_that_crashes_while_it_starts_is_started_anew(
    repository: Path, options: EmbeddedOptions, caplog: pytest.LogCaptureFixture
) -> None:
    server = EmbeddedServer(repository, options)
    starting = asyncio.create_task(server.start())
    try:
        await crash(server, starting)
        await starting
        assert await is_ready(int(server.http_address.rpartition(":")[2]))
    finally:
        await server.stop()
    assert "tritonserver was killed by SIGABRT; it is started anew" in caplog.text


async def test_a_server_that_crashes_whenever_it_starts_is_given_up(repository: Path, options: EmbeddedOptions) -> None:
    server = EmbeddedServer(repository, options)
    starting = asyncio.create_task(server.start())
    crashed: list[int] = []
    for _ in range(START_ATTEMPTS):
        crashed.append(await crash(server, starting, *crashed))
    with pytest.raises(EmbeddedServerError, match="tritonserver was killed by SIGABRT"):
        await starting
    assert len(set(crashed)) == START_ATTEMPTS
    assert all(read_identity(pid) is None for pid in crashed)


async def crash(server: EmbeddedServer, starting: asyncio.Task[None], *besides: int) -> int:
    """Let a server crash as soon as it runs, as another process than those, and return its id."""
    while not starting.done() and (not server.is_running or server.pid in besides):
        await asyncio.sleep(0.001)
    server.signal(signal.SIGABRT)
    return server.pid


async def test_a_start_that_takes_too_long_is_given_up(tmp_path: Path, options: EmbeddedOptions) -> None:
    model = onnx_models.plus_one()
    onnx_models.write_model(tmp_path, "bad", model, onnx_models.render_config(model).replace('"y"', '"z"'))
    # With strict readiness a server that could not load a model is never ready.
    never_ready = replace(options, start_timeout_s=1.0, extra_flags=("--strict-readiness=true",))
    server = EmbeddedServer(tmp_path, never_ready)
    with pytest.raises(EmbeddedServerError, match=r"was not ready within 1 s: .*unexpected output 'z'"):
        await server.__aenter__()
    assert list_session(server.pid) == []


@pytest.mark.parametrize(
    "has_come_far_enough",
    [lambda server: True, lambda server: server.is_running, lambda server: server.is_running and server.stub_pids()],
    ids=["at once", "server runs", "stub runs"],
)
async def test_a_cancelled_start_leaves_nothing(
    repository: Path,
    options: EmbeddedOptions,
    has_come_far_enough: Callable[[EmbeddedServer], object],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))  # where nobody else's directories are
    server = EmbeddedServer(repository, options)
    starting = asyncio.create_task(server.__aenter__())
    await asyncio.sleep(0)
    while not has_come_far_enough(server):
        await asyncio.sleep(0.001)
    regions = regions_of(server.stub_pids()) if server.is_running else set()
    assert not starting.done()
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert not server.is_running
    assert not existing(regions)
    assert not list(tmp_path.glob(f"{PREFIX}*"))


async def test_only_the_named_models_are_loaded(repository: Path, options: EmbeddedOptions) -> None:
    async with EmbeddedServer(repository, replace(options, models=("second",))) as server:
        with grpcclient.InferenceServerClient(server.grpc_address) as client:
            assert index(client) == {"first": ("", ""), "second": ("READY", "")}
        assert len(server.stub_pids()) == 1


def wheel_environment() -> dict[str, str]:
    return build_environment(
        os.environ,
        locate_wheel(),
        module_directories=find_module_directories("numpy", "onnxruntime"),
        python_library_directory=find_python_library_directory(),
    )


async def test_tritonserver_takes_the_command_line_of_compose_yaml(repository: Path, tmp_path: Path) -> None:
    """Every flag of the file, with only what a container brings along put in its place."""
    ports = choose_ports(with_ports(EmbeddedOptions()))
    command = yaml.safe_load(COMPOSE.read_text())["services"]["triton"]["command"]
    here = {
        "tritonserver": str(locate_wheel().server),
        "--model-repository=/models": f"--model-repository={repository}",
        **{f"--{kind}-address=0.0.0.0": f"--{kind}-address=127.0.0.1" for kind in ("grpc", "http", "metrics")},
        "--grpc-port=8001": f"--grpc-port={ports.grpc}",
        "--http-port=8000": f"--http-port={ports.http}",
        "--metrics-port=8002": f"--metrics-port={ports.metrics}",
    }
    assert here.keys() <= set(command)
    assemble_backends(locate_wheel(), tmp_path / "backends")
    arguments = [here.get(part, part) for part in command] + [f"--backend-directory={tmp_path / 'backends'}"]
    with subprocess.Popen(
        arguments, env=wheel_environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as server:
        try:
            async with asyncio.timeout(30):
                while not await is_ready(ports.http):
                    assert server.poll() is None, "it refused the command line or the models"
                    await asyncio.sleep(0.05)
            with grpcclient.InferenceServerClient(f"127.0.0.1:{ports.grpc}") as client:
                assert {state for state, _ in index(client).values()} == {"READY"}
        finally:
            server.terminate()


def test_tritonserver_does_refuse_a_flag_it_does_not_know(repository: Path) -> None:
    result = subprocess.run(
        [locate_wheel().server, f"--model-repository={repository}", "--no-such-flag=1"],
        env=wheel_environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode != 0
    assert "no-such-flag" in result.stdout + result.stderr
