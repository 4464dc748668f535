"""``slimsched controller`` as a process of its own, and its HTTP endpoint."""

from __future__ import annotations

import asyncio
import http.client
import json
import subprocess
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from benchmarks.controller.status import DaemonView, parse_view
from benchmarks.controller.testbed import SERVER
from benchmarks.harness.programs import find_program, last_lines
from orchestrator.errors import PermanentError, ServerUnavailableError

START_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 20.0
ANSWER_TIMEOUT_S = 5.0


class Daemon:
    """A controller's process, with its fleet.yaml, its endpoint ``host:port`` and the file that its stderr goes to."""

    def __init__(self, fleet: Path, address: str, log_path: Path) -> None:
        self._fleet = fleet
        self._address = address
        self._log_path = log_path
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Of the process."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start the process, which answers some time later; raises ConfigError when this Python has no slimsched."""
        command = [str(find_program("slimsched")), "controller", "--config", str(self._fleet), "--server", SERVER]
        with self._log_path.open("ab") as log:
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    async def wait_answering(self, *, timeout_s: float = START_TIMEOUT_S) -> DaemonView:
        """Return its first status page with a Triton it can observe.

        Raises ServerUnavailableError when there is none in time, or it ended; with the end of its log.
        """
        ends_s = time.monotonic() + timeout_s
        while True:
            assert self._process is not None
            if self._process.poll() is not None:
                raise ServerUnavailableError(
                    f"the daemon ended with status {self._process.returncode}: {last_lines(self._log_path)}"
                )
            try:
                view = await self.view()
                if view.trouble is None:
                    return view
            except (ServerUnavailableError, PermanentError):
                pass  # it does not listen yet, or has not taken a step
            if time.monotonic() > ends_s:
                raise ServerUnavailableError(
                    f"the daemon did not answer within {timeout_s:g} s: {last_lines(self._log_path)}"
                )
            await asyncio.sleep(0.1)

    async def view(self) -> DaemonView:
        """Return what its status page says.

        Raises ServerUnavailableError when it does not answer, PermanentError when the answer is no status page.
        """
        return parse_view(json.loads(await self._ask("GET", "/status", None)))

    async def metrics(self) -> str:
        """Return its Prometheus page; raises ServerUnavailableError when it does not answer."""
        return await self._ask("GET", "/metrics", None)

    async def demand(self, width: int, hold_s: float) -> None:
        """Ask it to keep a width; raises ServerUnavailableError when it does not answer."""
        await self._ask("POST", "/demand", {"width": width, "hold_s": hold_s})

    def kill(self) -> None:
        """Kill it with SIGKILL and wait until it is gone."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    async def stop(self) -> None:
        """End it as a service manager does; one that does not end is killed."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            await asyncio.to_thread(self._process.wait, STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.kill()

    async def _ask(self, method: str, path: str, body: dict[str, Any] | None) -> str:
        return await asyncio.to_thread(_exchange, self._address, method, path, body)


@asynccontextmanager
async def run_daemon(fleet: Path, address: str) -> AsyncIterator[Daemon]:
    """Run a daemon that has taken a step, and stop it in the end."""
    daemon = Daemon(fleet, address, fleet.with_name("controller.log"))
    daemon.start()
    try:
        await daemon.wait_answering()
        yield daemon
    finally:
        await daemon.stop()


def _exchange(address: str, method: str, path: str, body: dict[str, Any] | None) -> str:
    connection = http.client.HTTPConnection(address, timeout=ANSWER_TIMEOUT_S)
    try:
        headers = {} if body is None else {"Content-Type": "application/json"}
        connection.request(method, path, None if body is None else json.dumps(body), headers)
        answer = connection.getresponse()
        text = answer.read().decode()
    except (OSError, http.client.HTTPException) as exc:
        raise ServerUnavailableError(f"no controller answers at {address}: {exc!r}") from exc
    finally:
        connection.close()
    if answer.status >= http.HTTPStatus.BAD_REQUEST:
        raise ServerUnavailableError(f"the controller at {address} answers {answer.status}: {text.strip()}")
    return text
