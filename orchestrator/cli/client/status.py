"""``slimsched status`` and ``slimsched demand``: what controllers know, and a width asked of one."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import click
from rich.console import Console, Group, RenderableType

from orchestrator.cli.options import fleet_option
from orchestrator.config import FleetSettings, ServerSettings, load_fleet
from orchestrator.controller.demands import MAX_HOLD_S
from orchestrator.controller.status.client import fetch_status, send_demand
from orchestrator.controller.status.document import parse_page
from orchestrator.controller.status.view import find_troubles, render_status, render_unreachable
from orchestrator.errors import ConfigError, SlimError
from orchestrator.triton import discovery

_UNREACHABLE, _IN_TROUBLE = 1, 3  # 2 is what misuse of a command ends with
_Answer = dict[str, Any] | SlimError
_Misfits = Mapping[str, Mapping[str, str] | None]


@click.command()
@fleet_option
@click.option("--server", "server_name", help="Only this one.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of tables.")
@click.option("--watch", "watch_s", type=click.FloatRange(min=0.1), metavar="SECONDS", help="Show anew so often.")
@click.option("--timeout", "timeout_s", type=click.FloatRange(min=0.1), default=3.0)
def status(fleet_path: Path, server_name: str | None, as_json: bool, watch_s: float | None, timeout_s: float) -> None:
    """Show what every server's controller knows, wants and did.

    Of a server whose controller does not answer, or that has none, its Triton says which models are left out of their
    families.

    Exits with 1 when a controller can't be reached; the others are shown all the same. Exits with 3 when all answer
    and one is in trouble: its Triton or that one's metrics can't be read, a notice stands, a model has failed or has a
    config in quarantine, or the controller has made no step for a minute. Exits with 0 when all is in order.

    \b
    Example:
      slimsched status --config fleet.yaml
      slimsched status --config fleet.yaml --server local-0 --json
    """
    if as_json and watch_s is not None:
        raise click.UsageError("--json and --watch don't go together; call it repeatedly")
    fleet = load_fleet(fleet_path)
    servers = fleet.servers if server_name is None else (fleet.server(server_name),)
    if watch_s is not None:
        _watch(fleet, servers, watch_s, timeout_s)
        return
    answers = _ask(servers, timeout_s)
    _print(servers, answers, _ask_tritons(fleet, answers, timeout_s), as_json=as_json)
    raise click.exceptions.Exit(_exit_status(answers))


@click.command()
@fleet_option
@click.option("--server", "server_name", required=True, help="Whose controller to ask; it must run on this machine.")
@click.option("--width", type=click.IntRange(1, 100), required=True, help="To keep loaded, in percent.")
@click.option("--family", help="Whose width; needed where several families have it.")
@click.option(
    "--hold",
    "hold_s",
    type=click.FloatRange(min=0, min_open=True, max=MAX_HOLD_S),
    default=60.0,
    help="For so many seconds.",
)
def demand(fleet_path: Path, server_name: str, width: int, family: str | None, hold_s: float) -> None:
    """Ask a server's controller to load a width and keep it for a while.

    It is loaded with the next step if the budget has room; `slimsched status` says why when it has not.

    \b
    Example:
      slimsched demand --config fleet.yaml --server local-0 --width 100 --hold 60
    """
    server = load_fleet(fleet_path).server(server_name)
    model = send_demand(server, width=width, family=family, hold_s=hold_s, timeout_s=10.0)
    click.echo(f"{server_name} keeps {model} for {hold_s:g} s, if its budget has room")


def _ask(servers: tuple[ServerSettings, ...], timeout_s: float) -> list[_Answer]:
    def ask(server: ServerSettings) -> _Answer:
        try:
            if server.controller is None:
                raise ConfigError(f"no controller address in fleet.yaml; give server {server.name!r} one")
            page = fetch_status(server, timeout_s=timeout_s)
            parse_page(page)  # whoever answers is to be known as a controller, whatever is printed of it
            return page
        except SlimError as exc:
            return exc

    with ThreadPoolExecutor(max_workers=min(64, len(servers))) as pool:
        return list(pool.map(ask, servers))


def _ask_tritons(fleet: FleetSettings, answers: list[_Answer], timeout_s: float) -> _Misfits:
    """Return what the fleet's Tritons say of misfits where a controller says nothing."""
    if not any(isinstance(answer, SlimError) for answer in answers):
        return {}
    logging.getLogger(discovery.__name__).addHandler(logging.NullHandler())  # it is shown, and need not be logged
    return asyncio.run(discovery.find_misfits_of_fleet(fleet, timeout_s=timeout_s))


def _exit_status(answers: list[_Answer]) -> int:
    pages = [parse_page(answer) for answer in answers if not isinstance(answer, SlimError)]
    if len(pages) < len(answers):
        return _UNREACHABLE
    return _IN_TROUBLE if any(find_troubles(page, now_unix_s=time.time()) for page in pages) else 0


def _print(servers: tuple[ServerSettings, ...], answers: list[_Answer], misfits: _Misfits, *, as_json: bool) -> None:
    if as_json:
        shown = [_encode(server, answer, misfits) for server, answer in zip(servers, answers, strict=True)]
        click.echo(json.dumps({"servers": shown}, indent=2))
    else:
        Console().print(_render(servers, answers, misfits))


def _encode(server: ServerSettings, answer: _Answer, misfits: _Misfits) -> dict[str, Any]:
    if isinstance(answer, SlimError):
        return {"server": server.name, "error": str(answer), "misfits": misfits[server.name]}
    return {**answer, "error": None}


def _render(servers: tuple[ServerSettings, ...], answers: list[_Answer], misfits: _Misfits) -> RenderableType:
    parts: list[RenderableType] = []
    for server, answer in zip(servers, answers, strict=True):
        if isinstance(answer, SlimError):
            parts.append(render_unreachable(server.name, str(answer), misfits[server.name]))
        else:
            parts.append(render_status(parse_page(answer), now_unix_s=time.time()))
        parts.append("")
    return Group(*parts[:-1])


def _watch(fleet: FleetSettings, servers: tuple[ServerSettings, ...], watch_s: float, timeout_s: float) -> None:
    console = Console()
    try:
        while True:
            answers = _ask(servers, timeout_s)
            shown = _render(servers, answers, _ask_tritons(fleet, answers, timeout_s))
            console.clear()  # only after the answers are there, and nothing where the output is no terminal
            console.print(shown)
            time.sleep(watch_s)
    except KeyboardInterrupt:
        pass
