"""The real tritonserver as a child process, on a machine without GPU or container.

`EmbeddedServer` is an async context manager around the wheel's binary: inside the block the server is ready with
its models loaded, outside it is gone with its stubs. When a model that was named fails to load it exits at start; of a
whole repository it serves what it can, and tells what it can't. The process itself belongs to a guardian (see
`guardian`), which keeps that promise when this process can't.

    async with EmbeddedServer(Path("model_repository")) as server:
        client = grpc.aio.insecure_channel(server.grpc_address)

Ports are chosen free unless given. Between choosing and binding another process may take one; tritonserver then
exits naming the socket, and we choose again. A given port is never replaced: busy means an error.

A machine that stalls for a second can cost a server its life. Triton 2.51 takes a stub for dead that has given no sign
of life for a second while it was waited for, and frees what the two share; when the stub goes on, one of them meets
freed memory, and tritonserver aborts over a lock that was in it, or the stub crashes, or a model is left unserved. No
setting changes that second. So a start that ended in this way is made again, and so is the loading of a model. Of a
server that runs it is whoever runs it who learns of its end; the C++ backend of NVIDIA's image has no stubs.
"""

import asyncio
import contextlib
import logging
import os
import re
import signal
import socket
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from orchestrator.embedded import triton_leftovers
from orchestrator.embedded.emulation import check_cpus, check_slowdown
from orchestrator.embedded.flags import LOOPBACK, ServerFlags, render_flags
from orchestrator.embedded.model_index import (
    TAKEN_FOR_DEAD,
    TELL_LOADING_S,
    load_again,
    read_index,
    served_models,
    unserved_models,
)
from orchestrator.embedded.server_log import loading_models, pick_reason
from orchestrator.embedded.wheel import (
    BACKEND_MODULES,
    DEVICE_LOCK_VARIABLE,
    assemble_backends,
    build_environment,
    check_executable,
    check_libraries,
    find_module_directories,
    find_python_library_directory,
    locate_wheel,
)
from orchestrator.errors import ConfigError, EmbeddedServerError
from orchestrator.processes.guarded import GuardedProcess, create_private_directory
from orchestrator.processes.guardian import Task

log = logging.getLogger(__name__)

START_ATTEMPTS = 3
_CRASHES = (-signal.SIGABRT, -signal.SIGBUS, -signal.SIGSEGV)
POLL_S = 0.05
READY_AFTER_LOADING_S = 30.0
"""How long a server has to be ready from the last look that found a model loading. Longer than from one look to the
next: models may have loaded just before a look, and the server is ready only some time after."""
_SAYS_READY_S = 2.0
_PLAIN = re.compile(r"[\w./+@=:,~-]+", re.ASCII)
"""What a path may hold that a shell leaves as it is; a stub of Triton's Python backend is started by one."""
_PLAIN_NAME = re.compile(r"[\w.+@=:,~-]+")
KILL_MARGIN_S = 3.0  # tritonserver looks at its own exit timeout once a second, and stubs take about 1 s to leave


@dataclass(frozen=True, slots=True)
class EmbeddedOptions:
    """How an embedded server differs from the default one.

    Attributes:
        models: Models to load at start, all of which must load; None loads what can be loaded of the whole repository,
            () loads nothing.
        grpc_port, http_port, metrics_port: Ports of its endpoints; None chooses a free one.
        cpus: CPUs the server and its stubs may run on; None leaves them as they are.
        slowdown: Emulated slow-down of the onnxruntime backend, >= 1; above 1 its instances share one device.
        log_path: File the server's output is appended to; None keeps it in the private directory.
        start_timeout_s: Time from start to ready, beside the time in which models are being loaded.
        exit_timeout_s: How long a stopping server waits for requests in flight.
        extra_flags: Arguments of tritonserver added after ours, such as a restricted protocol.
    """

    models: tuple[str, ...] | None = None
    grpc_port: int | None = None
    http_port: int | None = None
    metrics_port: int | None = None
    cpus: frozenset[int] | None = None
    slowdown: float = 1.0
    log_path: Path | None = None
    start_timeout_s: float = 60.0
    exit_timeout_s: int = 5
    extra_flags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Ports:
    """The three ports of one server."""

    grpc: int
    http: int
    metrics: int


def choose_ports(options: EmbeddedOptions) -> Ports:
    """Return the given ports and free ones for the rest; raises EmbeddedServerError when a given one is in use."""
    return Ports(*_bind_all((options.grpc_port, options.http_port, options.metrics_port)))


def choose_free_ports(count: int, *, besides: Collection[int] = ()) -> tuple[int, ...]:
    """Return so many ports of the loopback interface that nobody listens on now, none of them among those besides."""
    free = _bind_all((None,) * (count + len(besides)))
    return tuple(port for port in free if port not in besides)[:count]


def _bind_all(wanted: tuple[int | None, ...]) -> tuple[int, ...]:
    chosen: dict[int, int] = {}
    with contextlib.ExitStack() as stack:  # all are held until all are chosen, so that they differ
        for index in sorted(range(len(wanted)), key=lambda index: wanted[index] is None):  # given ones before others
            probe = stack.enter_context(socket.socket())
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((LOOPBACK, wanted[index] or 0))
            except OSError as exc:
                reason = exc.strerror or str(exc)
                raise EmbeddedServerError(
                    f"can't start tritonserver on port {wanted[index]}: {reason}; "
                    "stop what uses it or give another port"
                ) from exc
            chosen[index] = int(probe.getsockname()[1])
    return tuple(chosen[index] for index in range(len(wanted)))


def check_repository(repository: Path, models: tuple[str, ...] | None) -> None:
    """Raise ConfigError when a model repository is no directory, holds no model, or lacks one that was named.

    Also when a name is none that a shell takes for one word: Triton ends its stub then, and waits for it for ever.
    """
    try:
        if not repository.is_dir():
            raise ConfigError(f"model repository {repository} is not a directory; export models to it first")
        present = sorted(path.parent.name for path in repository.glob("*/config.pbtxt"))
    except OSError as exc:
        raise ConfigError(f"can't read model repository {repository} ({exc.strerror}); let this user read it") from exc
    if models is None and not present:
        raise ConfigError(f"model repository {repository} holds no */config.pbtxt; export models to it first")
    for name in models or ():
        if name not in present:
            raise ConfigError(f"model repository {repository} has no model '{name}'; it has: {', '.join(present)}")
    for name in present if models is None else models:
        if not _PLAIN_NAME.fullmatch(name):
            raise ConfigError(
                f"model repository {repository} holds a model {name!r}: a shell starts its stub, which reads that name "
                "as several words; rename it, or move it away"
            )


@dataclass(frozen=True, slots=True)
class _Start:
    """One start of a server; ``log_offset`` is where its part of the log begins, in bytes."""

    ports: Ports
    process: GuardedProcess
    log_path: Path
    log_offset: int
    device_lock: Path


class EmbeddedServer:
    """A running tritonserver of one's own, which serves a model repository; ``repository`` is its absolute path."""

    def __init__(self, repository: Path, options: EmbeddedOptions | None = None) -> None:
        self.repository = repository.resolve()
        self.options = options or EmbeddedOptions()
        self._last_start: _Start | None = None

    async def __aenter__(self) -> Self:
        """Start the server; see `start`."""
        await self.start()
        return self

    async def __aexit__(self, *exc: object) -> None:
        """Stop the server, whatever happened inside the block."""
        await self.stop()

    def check(self) -> None:
        """Raise ConfigError when the repository or an option can't be used; `start` does so too."""
        check_repository(self.repository, self.options.models)
        check_slowdown(self.options.slowdown)
        if self.options.cpus is not None:
            check_cpus(self.options.cpus)

    async def start(self) -> None:
        """Start the server and wait until it is ready with its models loaded.

        Raises:
            ConfigError: The repository or an option can't be used.
            EmbeddedServerError: The wheel is missing, a port is busy, or the server failed; with its log's reason.
        """
        self.check()
        for _ in range(START_ATTEMPTS - 1):
            try:
                return await self._start()
            except EmbeddedServerError as exc:
                if not self._was_by_chance(exc):
                    raise
                log.warning("%s; it is started anew", exc)
        await self._start()

    def _was_by_chance(self, failure: EmbeddedServerError) -> bool:
        """Whether the next start may go well: after a crash or a stall, and where a port that was free was taken."""
        if self._last_start is not None and self._last_start.process.exit_code in _CRASHES:
            return True
        if TAKEN_FOR_DEAD in str(failure):
            return True
        are_ports_given = None not in (self.options.grpc_port, self.options.http_port, self.options.metrics_port)
        return not are_ports_given and "already in use" in str(failure)

    async def stop(self) -> None:
        """Take the server and its stubs down; requests in flight get `exit_timeout_s`. Idempotent."""
        if self._last_start is not None:
            await self._last_start.process.stop()

    async def wait_exited(self) -> str:
        """Wait until the server is gone for whatever reason, and return how it ended and why, without a name."""
        return self._describe_exit(await self._started.process.wait_exited())

    @property
    def grpc_address(self) -> str:
        """Host and port of the gRPC endpoint."""
        return f"{LOOPBACK}:{self._started.ports.grpc}"

    @property
    def http_address(self) -> str:
        """Host and port of the HTTP endpoint."""
        return f"{LOOPBACK}:{self._started.ports.http}"

    @property
    def metrics_url(self) -> str:
        """Address of the Prometheus endpoint."""
        return f"http://{LOOPBACK}:{self._started.ports.metrics}/metrics"

    @property
    def pid(self) -> int:
        """Process id of tritonserver."""
        return self._started.process.pid

    @property
    def log_path(self) -> Path:
        """The server's log; unless `EmbeddedOptions.log_path` says otherwise it is removed with the server."""
        return self._started.log_path

    @property
    def is_running(self) -> bool:
        """Whether the server has been started and has not exited."""
        return self._last_start is not None and self._last_start.process.is_running

    def signal(self, number: signal.Signals) -> None:
        """Send tritonserver a signal, when it runs; when that ends it, its guardian ends the stubs."""
        if self.is_running:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def stub_pids(self) -> tuple[int, ...]:
        """Return the process ids of the Python stubs: one for each model instance."""
        return tuple(triton_leftovers.list_stubs(self.pid))

    def throttle(self, factor: float) -> None:
        """Let an emulated slow server be ``factor`` times as slow as it is usually, from its next batch to its end.

        Raises:
            EmbeddedServerError: The server has no slow-down above 1, or has not been started.
        """
        if self.options.slowdown <= 1:
            raise EmbeddedServerError("slowdown is 1, and only an emulated slow server throttles; give it one above 1")
        self._started.device_lock.write_text(f"{factor:g}")

    @property
    def _started(self) -> _Start:
        if self._last_start is None:
            raise EmbeddedServerError("the embedded tritonserver has not been started")
        return self._last_start

    async def _start(self) -> None:
        # Some 30 ms of blocking, once. In a thread, a cancellation would leave the directory behind.
        self._last_start = started = self._prepare(choose_ports(self.options))
        try:
            await started.process.start()
            await self._wait_ready(started)
            if self.options.models is None:
                await self._load_what_stalled(started)
                self._tell_unserved(await read_index(LOOPBACK, started.ports.http))
        except BaseException:
            await started.process.stop()
            raise

    def _prepare(self, ports: Ports) -> _Start:
        wheel = locate_wheel()
        environment = build_environment(
            os.environ,
            wheel,
            module_directories=find_module_directories(*BACKEND_MODULES),
            python_library_directory=find_python_library_directory(),
            slowdown=self.options.slowdown,
        )
        check_libraries(wheel.stub, environment)
        directory = create_private_directory()
        try:
            check_executable(directory.path)
            assemble_backends(wheel, directory.path / "backends")
        except OSError as exc:
            directory.remove()
            raise EmbeddedServerError(f"can't write backends into {directory.path}: {exc.strerror}") from exc
        except EmbeddedServerError:
            directory.remove()
            raise
        if not _PLAIN.fullmatch(str(directory.path)):
            directory.remove()
            raise EmbeddedServerError(
                f"can't start tritonserver in {directory.path}: a shell starts its stubs, which reads that path as "
                "several words; set TMPDIR to one without spaces or other special characters"
            )
        repository = self.repository
        if not _PLAIN.fullmatch(str(repository)):
            repository = directory.path / "models"
            repository.symlink_to(self.repository)
        log_path = (self.options.log_path or directory.path / "server.log").absolute()
        device_lock = directory.path / "device.lock"
        environment[DEVICE_LOCK_VARIABLE] = str(device_lock)
        flags = ServerFlags(
            repository=str(repository),
            backend_directory=str(directory.path / "backends"),
            models=self.options.models,
            grpc_port=ports.grpc,
            http_port=ports.http,
            metrics_port=ports.metrics,
            exit_timeout_s=self.options.exit_timeout_s,
            extra=self.options.extra_flags,
        )
        task = Task(
            command=(str(wheel.server), *render_flags(flags)),
            environment=environment,
            log_path=str(log_path),
            cpus=None if self.options.cpus is None else tuple(sorted(self.options.cpus)),
            directory=str(directory.path),
            grace_s=self.options.exit_timeout_s + KILL_MARGIN_S,
            leftovers=triton_leftovers.__name__,
        )
        log_offset = log_path.stat().st_size if log_path.exists() else 0
        return _Start(ports, GuardedProcess(task, directory), log_path, log_offset, device_lock)

    async def _wait_ready(self, started: _Start) -> None:
        clock = asyncio.get_running_loop().time
        began_s = told_s = clock()
        until_s = began_s + self.options.start_timeout_s
        while not await is_ready(started.ports.http):
            if not started.process.is_running:
                raise EmbeddedServerError(f"tritonserver {await self.wait_exited()}")
            now_s = clock()
            if now_s >= min(until_s, told_s + TELL_LOADING_S):
                told_s = now_s
                loading = loading_models(self._read_log())
                if not loading and now_s >= until_s:
                    reason = self._read_reason() or "its log says nothing"
                    limit = f"{self.options.start_timeout_s:g} s"
                    raise EmbeddedServerError(f"tritonserver was not ready within {limit}: {reason}")
                if loading:
                    until_s = max(until_s, now_s + READY_AFTER_LOADING_S)
                    log.info("tritonserver loads %s, for %.0f s now", ", ".join(loading), now_s - began_s)
            await asyncio.sleep(POLL_S)

    async def _load_what_stalled(self, started: _Start) -> None:
        """Load each model once more whose stub was taken for dead; raises EmbeddedServerError where the server died."""
        for name, reason in unserved_models(await read_index(LOOPBACK, started.ports.http)).items():
            if TAKEN_FOR_DEAD in reason:
                log.warning("model %s was not loaded: %s; it is loaded once more", name, reason)
                await load_again(LOOPBACK, started.ports.http, name)
        if not started.process.is_running:
            raise EmbeddedServerError(f"tritonserver {await self.wait_exited()}")

    def _tell_unserved(self, index: list[Mapping[str, Any]]) -> None:
        """Log each model that could not be loaded; raises EmbeddedServerError when that is all of them."""
        unserved = unserved_models(index)
        if unserved and not served_models(index):
            name, reason = min(unserved.items())
            raise EmbeddedServerError(
                f"tritonserver can load no model of {self.repository}: {self._read_reason() or f'{name}: {reason}'}"
                + self._log_hint()
            )
        for name, reason in sorted(unserved.items()):
            log.warning("model %s of %s is not served: %s", name, self.repository, reason)

    def _log_hint(self) -> str:
        return f" (log: {self.log_path})" if self.options.log_path else ""

    def _describe_exit(self, ending: str) -> str:
        exit_code = self._started.process.exit_code
        # What was logged explains an exit, and an abort, which a process does to itself; but never a kill.
        was_by_itself = exit_code is not None and (exit_code >= 0 or exit_code == -signal.SIGABRT)
        reason = self._read_reason() if was_by_itself else None
        return ending + (f": {reason}" if reason else "") + self._log_hint()

    def _read_reason(self) -> str | None:
        return pick_reason(self._read_log())

    def _read_log(self) -> str:
        try:
            with self.log_path.open("rb") as lines:
                lines.seek(self._started.log_offset)
                return lines.read().decode(errors="replace")
        except OSError:
            return ""  # the log went with the private directory, or was never written


async def is_ready(http_port: int) -> bool:
    """Return whether a tritonserver on this host says that it is ready, soon: others on its port may be mute."""
    try:
        async with asyncio.timeout(_SAYS_READY_S):
            reader, writer = await asyncio.open_connection(LOOPBACK, http_port)
            with contextlib.closing(writer):
                writer.write(b"GET /v2/health/ready HTTP/1.0\r\nHost: localhost\r\n\r\n")
                status = await reader.readline()
    except OSError:  # TimeoutError is one
        return False
    return status.split()[1:2] == [b"200"]
