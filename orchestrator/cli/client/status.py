"""``slimsched status`` and ``slimsched demand``: what controllers and the gateway know, and a width asked of one."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import repeat
from pathlib import Path
from typing import Any, NamedTuple

import click
from rich.console import Console, Group, RenderableType

from orchestrator.cli.options import FiniteRange, fleet_option, token_option
from orchestrator.config import FleetSettings, ServerSettings, load_fleet
from orchestrator.config.names import host_of, is_name
from orchestrator.controller.demands import MAX_HOLD_S
from orchestrator.controller.status.client import fetch_status, send_demand
from orchestrator.controller.status.document import parse_page
from orchestrator.controller.status.view import find_troubles, render_gateway, render_status, render_unreachable
from orchestrator.errors import SlimError
from orchestrator.top.events import Document, read_document
from orchestrator.triton import discovery

_UNREACHABLE, _IN_TROUBLE = 1, 3  # 2 is what misuse of a command ends with
_Answer = dict[str, Any] | SlimError | None


class _Found(NamedTuple):
    """What was told when all were asked.

    Attributes:
        answers: Of each server's controller: its page, or why there is none; None: the file names no controller.
        misfits: What Tritons say, by server, where a controller says nothing; None: the Triton does not answer.
        gateway: The document of its status page, or why there is none; None: it was not asked.
    """

    servers: tuple[ServerSettings, ...]
    answers: list[_Answer]
    misfits: Mapping[str, Mapping[str, str] | None]
    gateway: Document | str | None
    is_gateway_named: bool


@click.command()
@fleet_option
@click.option("--server", "server_name", help="Only this one.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of tables.")
@click.option("--watch", "watch_s", type=FiniteRange(min=0.1), metavar="SECONDS", help="Show anew so often.")
@click.option("--timeout", "timeout_s", type=FiniteRange(min=0.1), default=3.0)
@token_option
def status(
    fleet_path: Path,
    server_name: str | None,
    as_json: bool,
    watch_s: float | None,
    timeout_s: float,
    token: str | None,
) -> None:
    """Show what every server's controller knows, wants and did.

    Of a server whose controller does not answer, or that has none, its Triton says which models are left out of their
    families. Of the gateway, unless --server is given, the alerts of its status page are shown. Where the file names no
    `gateway.metrics` the default address is asked, and a gateway there counts unless it is another fleet's.

    Exits with 1 when something can't be reached: a controller or the gateway that the file names, or a Triton without a
    controller; the others are shown all the same. Exits with 3 when all answer and something is in trouble: an alert
    stands, a Triton or its metrics can't be read, a notice stands, a model has failed or has a config in quarantine, or
    a controller has made no step for a minute. Exits with 0 when all is in order.

    \b
    Example:
      slimsched status --config fleet.yaml
      slimsched status --config fleet.yaml --server local-0 --json
    """
    if as_json and watch_s is not None:
        raise click.UsageError("--json and --watch don't go together; call it repeatedly")
    fleet = load_fleet(fleet_path)
    look = partial(_look, fleet, server_name, timeout_s, token)
    if watch_s is not None:
        _watch(look, watch_s)
        return
    found = look()
    _print(found, as_json=as_json)
    raise click.exceptions.Exit(_exit_status(found))


@click.command()
@fleet_option
@click.option("--server", "server_name", required=True, help="Whose controller to ask; it must run on this machine.")
@click.option("--width", type=click.IntRange(1, 100), required=True, help="To keep loaded, in percent.")
@click.option("--family", help="Whose width; needed where several families have it.")
@click.option(
    "--hold",
    "hold_s",
    type=FiniteRange(min=0, min_open=True, max=MAX_HOLD_S),
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


def _look(fleet: FleetSettings, server_name: str | None, timeout_s: float, token: str | None) -> _Found:
    servers = fleet.servers if server_name is None else (fleet.server(server_name),)
    answers = _ask_controllers(servers, timeout_s)
    is_named = "metrics" in fleet.gateway.model_fields_set
    gateway = None if server_name is not None else _ask_gateway(fleet, timeout_s, token, is_named=is_named)
    return _Found(servers, answers, _ask_tritons(fleet, answers, timeout_s), gateway, is_named)


def _ask_controllers(servers: tuple[ServerSettings, ...], timeout_s: float) -> list[_Answer]:
    def ask(server: ServerSettings) -> _Answer:
        if server.controller is None:
            return None
        try:
            page = fetch_status(server, timeout_s=timeout_s)
            parse_page(page)  # whoever answers is to be known as a controller, whatever is printed of it
            return page
        except SlimError as exc:
            return exc

    with ThreadPoolExecutor(max_workers=min(64, len(servers))) as pool:
        return list(pool.map(ask, servers))


def _ask_tritons(
    fleet: FleetSettings, answers: list[_Answer], timeout_s: float
) -> Mapping[str, Mapping[str, str] | None]:
    """Return what the fleet's Tritons say of misfits where a controller says nothing."""
    if all(isinstance(answer, dict) for answer in answers):
        return {}
    logging.getLogger(discovery.__name__).addHandler(logging.NullHandler())  # it is shown, and need not be logged
    return asyncio.run(discovery.find_misfits_of_fleet(fleet, timeout_s=timeout_s))


def _ask_gateway(fleet: FleetSettings, timeout_s: float, token: str | None, *, is_named: bool) -> Document | str | None:
    """Ask the fleet's gateway, or at the default address whatever is there, unless it is known to be another's."""
    if fleet.gateway.metrics is None:
        return None
    is_known = not is_named and not any(is_name(host_of(server.grpc)) for server in fleet.servers)
    own = [server.digest for server in fleet.servers] if is_known else []
    return asyncio.run(read_document(fleet.gateway.metrics, timeout_s=timeout_s, token=token, fleet=own))


def _exit_status(found: _Found) -> int:
    is_gateway_away = found.is_gateway_named and isinstance(found.gateway, str)
    if is_gateway_away or any(map(_is_away, found.servers, found.answers, repeat(found.misfits))):
        return _UNREACHABLE
    pages = [parse_page(answer) for answer in found.answers if isinstance(answer, dict)]
    is_troubled = any(find_troubles(page, now_unix_s=time.time()) for page in pages)
    has_alerts = isinstance(found.gateway, dict) and bool(found.gateway["alerts"])
    return _IN_TROUBLE if is_troubled or has_alerts else 0


def _is_away(server: ServerSettings, answer: _Answer, misfits: Mapping[str, Mapping[str, str] | None]) -> bool:
    return isinstance(answer, SlimError) or (answer is None and misfits[server.name] is None)


def _print(found: _Found, *, as_json: bool) -> None:
    if not as_json:
        Console().print(_render(found))
        return
    shown = [_encode(*each, found.misfits) for each in zip(found.servers, found.answers, strict=True)]
    gateway = None if found.gateway is None else _encode_gateway(found.gateway)
    click.echo(json.dumps({"servers": shown, "gateway": gateway}, indent=2))


def _encode_gateway(document: Document | str) -> dict[str, Any]:
    if isinstance(document, str):
        return {"error": document, "alerts": [], "policy": None}
    return {"error": None, "alerts": document["alerts"], "policy": document.get("policy")}


def _encode(server: ServerSettings, answer: _Answer, misfits: Mapping[str, Mapping[str, str] | None]) -> dict[str, Any]:
    if isinstance(answer, dict):
        return {**answer, "error": None, "device_class": server.device_class}
    error = None if answer is None else str(answer)
    told = {"error": error, "device_class": server.device_class, "misfits": misfits[server.name]}
    return {"server": server.name, **told}


def _render(found: _Found) -> RenderableType:
    sections: list[RenderableType] = []
    for server, answer in zip(found.servers, found.answers, strict=True):
        if isinstance(answer, dict):
            page = parse_page(answer)
            sections.append(render_status(page, now_unix_s=time.time(), device_class=server.device_class))
        else:
            reason = None if answer is None else str(answer)
            misfits = found.misfits[server.name]
            sections.append(render_unreachable(server.name, reason, misfits, device_class=server.device_class))
    if found.gateway is not None:
        sections.append(render_gateway(found.gateway, now_unix_s=time.time()))
    return Group(*[part for section in sections for part in (section, "")][:-1])


def _watch(look: Callable[[], _Found], watch_s: float) -> None:
    console = Console()
    try:
        while True:
            shown = _render(look())
            console.clear()  # only after the answers are there, and nothing where the output is no terminal
            console.print(shown)
            time.sleep(watch_s)
    except KeyboardInterrupt:
        pass
