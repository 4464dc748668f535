"""What callers say of themselves, and what other processes of this machine say, as functions of bytes."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from prometheus_client import CollectorRegistry

from orchestrator.config.tenants import DIGEST_PREFIX, TenantSettings
from orchestrator.controller.status.endpoint import ControllerEndpoint, Heartbeat
from orchestrator.controller.status.holder import HolderKeeper
from orchestrator.errors import SlimError
from orchestrator.gateway.auth.callers import Guard
from orchestrator.gateway.workers.takeover import activated_sockets, read_offer
from orchestrator.snapshot import ServerName

_TOKEN = b"k"
_GUARD = Guard(
    [TenantSettings(name="vision", tokens=(DIGEST_PREFIX + hashlib.sha256(_TOKEN).hexdigest(),), models=("fashion",))]
)


def authorizations(data: bytes) -> None:
    """The values of a call's ``authorization``, a line each: none but the token itself lets anybody in."""
    given = data.split(b"\n")
    for values in (given, [value.decode("latin-1") for value in given]):
        with suppress(SlimError):
            caller = _GUARD.identify("ModelInfer", tuple(("authorization", value) for value in values))
            assert caller.tenant == "vision"
            assert caller.metadata == ()
            assert len(given) == 1
            assert given[0].lower().strip().startswith(b"bearer")
            assert given[0].strip().endswith(_TOKEN)


class _InlineLoop:
    """Stands for the controller's event loop: what it is given runs at once."""

    def call_soon_threadsafe(self, call: Callable[[], object]) -> None:
        call()


def demands(data: bytes) -> None:
    """A demand to a controller; its first lines are Host, Origin, Content-Type and Content-Length, empty for none."""
    lines = (data.split(b"\n", 4) + [b""] * 5)[:5]
    host, origin, kind, length = (line.decode("latin-1") for line in lines[:4])
    given = {"HTTP_HOST": host, "HTTP_ORIGIN": origin, "CONTENT_TYPE": kind, "CONTENT_LENGTH": length}
    environ: dict[str, Any] = {key: value for key, value in given.items() if value}
    environ |= {"REQUEST_METHOD": "POST", "PATH_INFO": "/demand", "REMOTE_ADDR": "127.0.0.1"}
    demanded: list[float] = []
    statuses: list[str] = []
    loop: Any = _InlineLoop()
    endpoint = ControllerEndpoint(
        "127.0.0.1:1",
        server=ServerName("a"),
        registry=CollectorRegistry(),
        report=lambda: None,
        heartbeat=Heartbeat(1.0, lambda: 0.0),
        models=tuple,
        demand=lambda model, hold_s: demanded.append(hold_s),
        keeper=HolderKeeper(lambda: 0.0, first_term=1, headers={}),
        loop=loop,
    )
    list(endpoint.answer(environ | {"wsgi.input": io.BytesIO(lines[4])}, lambda status, _: statuses.append(status)))
    assert statuses[0][:3] in ("202", "400", "403", "404"), statuses
    assert not demanded, "the repository is empty"
    assert not origin or statuses[0].startswith("403")


def socket_offers(data: bytes) -> None:
    """What a gateway says of the sockets that it hands over; the first byte says how many they are."""
    count = data[0] % 4 if data else 0
    with suppress(SlimError):
        assert len(read_offer(data[1:], count)) == count


def socket_activations(data: bytes) -> None:
    """What systemd says of the sockets that it gives, the lines LISTEN_PID, LISTEN_FDS and LISTEN_FDNAMES."""
    names = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")
    environment = dict(zip(names, data.decode("latin-1").split("\n"), strict=False))
    with suppress(SlimError):
        found = activated_sockets(environment, 7)
        assert [descriptor for _, descriptor in found] == list(range(3, 3 + len(found)))
