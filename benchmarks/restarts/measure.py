"""One cell: a client sends, gateways are restarted in turn, and the client tells what it met."""

from __future__ import annotations

import asyncio
import json
import os
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from itertools import groupby
from pathlib import Path

from benchmarks.harness.command import Say
from benchmarks.harness.programs import last_lines
from benchmarks.restarts.cells import (
    HOWS,
    RATE_PER_S,
    ROUNDS,
    Cell,
    Outcome,
    Results,
    list_cells,
)
from benchmarks.restarts.installed import client_command, read_printed_version, read_version
from benchmarks.restarts.proxies import PROXIES
from benchmarks.restarts.testbed import FAMILY, Addresses, GatewayFixture, open_testbed
from orchestrator.embedded.flags import LOOPBACK
from orchestrator.embedded.server import choose_free_ports
from orchestrator.errors import ConfigError, ServerUnavailableError
from orchestrator.processes.child import ChildProcess, is_listening
from orchestrator.triton.messages import pb

_SETTLE_S = 2.0
"""Of load before the first restart, between two and after the last."""
_END_S = 60.0


async def run(repository: Path, folder: Path, modules: Path | None, wanted: Sequence[str], say: Say) -> Results:
    """Measure the cells whose words hold one of those wanted; without any, all."""
    results = Results.begin()
    message = folder / "message"
    message.write_bytes(_write_message())
    cells = [cell for cell in list_cells() if not wanted or any(word in str(cell) for word in wanted)]
    for (shares, workers, lame_duck_s), group in groupby(sorted(cells, key=_settings_of), _settings_of):
        settings = {"workers": workers, "lame_duck_s": lame_duck_s}
        async with open_testbed(repository, folder, settings, shares=shares) as gateways:
            for cell in group:
                try:
                    outcome = await measure(cell, gateways, folder, modules, message)
                except ConfigError as exc:
                    left_out = {**results.left_out, cell.proxy or cell.client: str(exc)}
                    results = replace(results, left_out=left_out)
                    say(f"{cell}: {exc}")
                    continue
                say(f"{cell}: {outcome.failed} failed, {outcome.answered} answered, longest {outcome.longest_s:.2f} s")
                for reason, count in outcome.errors.items():
                    say(f"    {count} of {reason}")
                results = replace(results, cells=(*results.cells, (cell, outcome)))
    return replace(results, versions=results.versions | _list_versions(results, modules))


async def measure(
    cell: Cell, gateways: Sequence[GatewayFixture], folder: Path, modules: Path | None, message: Path
) -> Outcome:
    """Let a client send, and restart each gateway so many times; raises ConfigError when something is not installed."""
    command, more = client_command(cell.client, folder, modules)
    places = [gateway.addresses for gateway in gateways]
    async with _through(cell.proxy, places, folder) as addresses:
        arguments = (",".join(addresses), str(RATE_PER_S), str(message))
        client = await asyncio.create_subprocess_exec(
            *command, *arguments, stdin=PIPE, stdout=PIPE, env={**os.environ, **more}
        )
        try:
            restarts = 0
            for _ in range(ROUNDS):
                for gateway in gateways:
                    await asyncio.sleep(_SETTLE_S)
                    await (gateway.restart() if cell.how == HOWS[0] else gateway.replace())
                    await gateway.wait_answers()
                    restarts += 1
            await asyncio.sleep(_SETTLE_S)
            async with asyncio.timeout(_END_S):
                printed, _ = await client.communicate(b"")  # its input ends
        finally:
            if client.returncode is None:
                client.kill()
                await client.wait()
    if client.returncode:
        raise ServerUnavailableError(f"the client {cell.client} ended with status {client.returncode}")
    return Outcome(**json.loads(printed), restarts=restarts)


def _settings_of(cell: Cell) -> tuple[bool, int, float]:
    return cell.shares, cell.workers, cell.lame_duck_s


@asynccontextmanager
async def _through(name: str, gateways: Sequence[Addresses], folder: Path) -> AsyncIterator[Sequence[str]]:
    """Run a balancer, if one is named; yield where calls are to be sent."""
    if not name:
        yield [gateway.grpc for gateway in gateways]
        return
    proxy, (port,) = PROXIES[name], choose_free_ports(1)
    config = folder / f"{name}.conf.json" if name == "Envoy" else folder / f"{name}.conf"
    config.write_text(proxy.render(port, gateways, folder))
    command = (str(proxy.find()), *proxy.options(config))
    log_path, address = folder / f"{name}.log", f"{LOOPBACK}:{port}"
    process = ChildProcess(name, command, stop_s=20.0, log_path=log_path, is_ready=lambda: is_listening(address))
    try:
        await process.start()
        yield [address]
    except ServerUnavailableError as exc:
        raise ServerUnavailableError(f"{name}: {exc} ({last_lines(log_path)})") from exc
    finally:
        await process.stop()


def _write_message() -> bytes:
    """Return a request for one item of the family."""
    request = pb.ModelInferRequest(model_name=FAMILY)
    request.inputs.add(name="pixels", datatype="FP32", shape=(1, 1, 28, 28))
    request.raw_input_contents.append(bytes(4 * 28 * 28))
    found: bytes = request.SerializeToString()
    return found


def _list_versions(results: Results, modules: Path | None) -> dict[str, str]:
    """Return the versions of what took part, beyond those of this environment."""
    tried = {name for cell, _ in results.cells for name in (cell.client, cell.proxy)}
    found = {}
    for name in sorted(tried & {"grpc-js", "grpc-go"}):
        found[name] = read_version(name, modules)
    for name in sorted(tried & set(PROXIES)):
        found[name] = read_printed_version(PROXIES[name].find(), PROXIES[name].version)
    return found
