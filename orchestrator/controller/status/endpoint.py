"""Where a controller answers: status as JSON, Prometheus metrics, health, demands for a width, and who drives Triton.

The standard library's WSGI server in one daemon thread is all that a few small routes need; a web framework would be a
dependency of every GPU host, and prometheus_client brings the route for metrics. The thread reads the last report,
which is frozen, and whatever touches the controller goes through its event loop.

Anyone who reaches the address may read, because Prometheus does so from another machine. Demands change what is
loaded, so they are taken from this machine alone, only as JSON, and not from a web page: browsers name its origin, and
one that looked up another name for this machine still sends that name. Who drives Triton is for gateways, see
orchestrator.controller.status.holder. The bound address also guards against a second controller of the same server.
"""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import json
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from http import HTTPStatus
from socketserver import ThreadingMixIn
from typing import Any, Self, TypeVar
from urllib.parse import urlsplit
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer
from wsgiref.types import StartResponse, WSGIEnvironment

from prometheus_client import CollectorRegistry, make_wsgi_app
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from orchestrator.controller.demands import MAX_HOLD_S
from orchestrator.controller.report import StepReport
from orchestrator.controller.status.document import encode_status
from orchestrator.controller.status.holder import HolderKeeper, HolderRequest, Reply
from orchestrator.errors import ConfigError, ModelNotFoundError, SlimError
from orchestrator.planner.host import RepositoryModel
from orchestrator.snapshot import ModelName, ServerName
from orchestrator.validation import describe_problems, join_problems

log = logging.getLogger(__name__)

BODY_LIMIT_BYTES = 4096
READ_TIMEOUT_S = 5.0
"""Longest wait for a client to send its request."""
LOOP_TIMEOUT_S = 5.0
"""Longest wait for the controller's event loop to take a demand; no step holds it for long."""
ROUTES = "GET /status, GET /metrics, GET /livez, GET /readyz, GET /healthz, GET /holder, POST /holder, POST /demand"


class Heartbeat:
    """Knows whether steps still happen: those of a healthy controller are at most ``limit_s`` apart."""

    def __init__(self, limit_s: float, clock: Callable[[], float]) -> None:
        self.limit_s = limit_s
        self._clock = clock
        self._beat_s = clock()

    def beat(self) -> None:
        """Note that a step has happened."""
        self._beat_s = self._clock()

    def trouble(self) -> str | None:
        """Return why the controller is not healthy; None when it is."""
        age_s = self._clock() - self._beat_s
        return None if age_s <= self.limit_s else f"no step for {age_s:.1f} s, the limit is {self.limit_s:g} s"


class ControllerEndpoint:
    """The HTTP endpoint of one controller; a context manager that listens while it is open.

    It is given single functions of the controller, each with the thread that it is called in, and never the whole, for
    which it takes more parameters than others.

    Args:
        report: A function that returns its last report; called from another thread.
        models: A function that returns the widths that may be demanded; called in the loop.
        demand: A function that keeps a model loaded for so many seconds; called in the loop.
        keeper: The record of the gateway that drives the Triton; called from other threads.
        loop_timeout_s: The time in which the loop must accept a demand.
        clock: The clock of the report's timers, in seconds; by it the status says how old it is.
    """

    def __init__(
        self,
        address: str,
        *,
        server: ServerName,
        registry: CollectorRegistry,
        report: Callable[[], StepReport | None],
        heartbeat: Heartbeat,
        models: Callable[[], Sequence[RepositoryModel]],
        demand: Callable[[ModelName, float], object],
        keeper: HolderKeeper,
        loop: asyncio.AbstractEventLoop,
        loop_timeout_s: float = LOOP_TIMEOUT_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._address = address
        self._server = server
        self._metrics = make_wsgi_app(registry)
        self._report = report
        self._heartbeat = heartbeat
        self._models = models
        self._demand = demand
        self._keeper = keeper
        self._loop = loop
        self._loop_timeout_s = loop_timeout_s
        self._clock = clock
        self._http: _HttpServer | None = None

    def __enter__(self) -> Self:
        """Listen on the address.

        Raises:
            ConfigError: when the address can't be had, in particular when another controller has it.
        """
        self._http = _listen(self._address, self._server)
        self._keeper.begin()
        self._http.set_app(self.answer)
        threading.Thread(
            target=self._http.serve_forever, kwargs={"poll_interval": 0.1}, name="controller-endpoint", daemon=True
        ).start()
        return self

    def __exit__(self, *_: object) -> None:
        assert self._http is not None
        self._http.shutdown()
        self._http.server_close()

    def answer(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Answer one request; a WSGI application."""
        method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"]
        try:
            match method, path:
                case "GET", "/metrics":
                    answer: Iterable[bytes] = self._metrics(environ, start_response)
                    return answer
                case "GET", "/status":
                    status, values = self._answer_status()
                case "GET", "/livez" | "/healthz":
                    status, values = self._answer_health()
                case "GET", "/readyz":
                    status, values = self._answer_ready()
                case "GET", "/holder":
                    status, values = self._keeper.show()
                case "POST", "/holder":
                    status, values = self._answer_holder(environ)
                case "POST", "/demand":
                    status, values = self._answer_demand(environ)
                case _, "/metrics" | "/status" | "/livez" | "/readyz" | "/healthz" | "/holder" | "/demand":
                    status, values = _error(HTTPStatus.METHOD_NOT_ALLOWED, f"{method} {path}: there is {ROUTES}")
                case _:
                    status, values = _error(HTTPStatus.NOT_FOUND, f"no {path} here; there is {ROUTES}")
        except Exception:  # the thread must live on, and the client get an answer
            log.exception("the endpoint failed to answer %s %s", method, path)
            status, values = _error(HTTPStatus.INTERNAL_SERVER_ERROR, "the endpoint failed; its log says why")
        return _send(start_response, status, values)

    def _answer_status(self) -> Reply:
        report = self._report()
        if report is None:
            return _error(HTTPStatus.SERVICE_UNAVAILABLE, "the controller has not taken a step yet")
        return HTTPStatus.OK, encode_status(report, self._keeper.show()[1]["holder"], now_s=self._clock())

    def _answer_health(self) -> Reply:
        trouble = self._heartbeat.trouble()
        if trouble is not None:
            return _error(HTTPStatus.SERVICE_UNAVAILABLE, trouble)
        return HTTPStatus.OK, {"server": self._server}

    def _answer_ready(self) -> Reply:
        report = self._report()
        if report is None or report.seen.snapshot is None:
            trouble = "no step was taken yet" if report is None else report.seen.trouble
            return _error(HTTPStatus.SERVICE_UNAVAILABLE, trouble or "Triton can't be observed")
        return self._answer_health()

    def _answer_holder(self, environ: WSGIEnvironment) -> Reply:
        if (trouble := self._keeper.trouble(environ)) is not None:
            return _error(HTTPStatus.FORBIDDEN, trouble)
        try:
            return self._keeper.answer(_read_body(environ, HolderRequest))
        except ConfigError as exc:
            return _error(HTTPStatus.BAD_REQUEST, str(exc))

    def _answer_demand(self, environ: WSGIEnvironment) -> Reply:
        if not _is_loopback(environ.get("REMOTE_ADDR", "")):
            return _error(HTTPStatus.FORBIDDEN, "demands are taken from this machine only; send it over loopback")
        if "HTTP_ORIGIN" in environ or not _is_own_host(environ.get("HTTP_HOST", "localhost")):
            return _error(HTTPStatus.FORBIDDEN, "demands are not taken from web pages; send them to an IP address")
        try:
            demand = _read_demand(environ)
            model = self._in_loop(lambda: self._take(demand))
        except ModelNotFoundError as exc:
            return _error(HTTPStatus.NOT_FOUND, str(exc))
        except ConfigError as exc:
            return _error(HTTPStatus.BAD_REQUEST, str(exc))
        except SlimError as exc:
            return _error(HTTPStatus.SERVICE_UNAVAILABLE, str(exc))
        except (TimeoutError, RuntimeError):  # the loop is stuck, or closed
            return _error(HTTPStatus.SERVICE_UNAVAILABLE, "the controller does not respond")
        return HTTPStatus.ACCEPTED, {"model": model, "hold_s": demand.hold_s}

    def _take(self, demand: _DemandBody) -> ModelName:
        model = find_model(self._models(), width=demand.width, name=demand.model, family=demand.family)
        self._demand(model, demand.hold_s)
        return model

    def _in_loop(self, call: Callable[[], ModelName]) -> ModelName:
        """Return what ``call`` returns when the loop runs it."""
        future: Future[ModelName] = Future()

        def run() -> None:
            if not future.set_running_or_notify_cancel():
                return  # nobody waits any more, and what was answered with failure must not happen later
            try:
                future.set_result(call())
            except Exception as exc:
                future.set_exception(exc)

        self._loop.call_soon_threadsafe(run)
        try:
            return future.result(self._loop_timeout_s)
        finally:
            future.cancel()


def find_model(
    models: Sequence[RepositoryModel], *, width: int | None, name: str | None, family: str | None = None
) -> ModelName:
    """Return the model of a width, of the family that is named or of the only one that has it, or of a name.

    Raises:
        ModelNotFoundError: when the repository has none; says what it has.
        ConfigError: when several families have the width and none is named.
    """
    found = [m for m in models if (m.width == width or m.name == name) and family in (None, m.family)]
    if len(found) > 1:
        families = ", ".join(sorted(model.family for model in found))
        raise ConfigError(f"width {width} is of the families {families}; name one of them")
    if found:
        return found[0].name
    asked = (f"width {width}" if name is None else f"model {name!r}") + (f" of family {family!r}" if family else "")
    there = ", ".join(f"{model.width} ({model.name})" for model in models)
    raise ModelNotFoundError(f"the repository has no {asked}; it has the widths {there or '- none'}")


class _DemandBody(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    width: int | None = None
    family: str | None = None
    model: str | None = None
    hold_s: float = Field(default=60.0, gt=0, le=MAX_HOLD_S)


BodyT = TypeVar("BodyT", bound=BaseModel)


def _read_body(environ: WSGIEnvironment, kind: type[BodyT]) -> BodyT:
    if environ.get("CONTENT_TYPE", "").partition(";")[0].strip().lower() != "application/json":
        raise ConfigError("send it with 'Content-Type: application/json'")
    length = environ.get("CONTENT_LENGTH") or "0"
    if not length.isdecimal() or int(length) > BODY_LIMIT_BYTES:
        raise ConfigError(f"Content-Length {length!r} is not in 0 to {BODY_LIMIT_BYTES}")
    try:
        return kind.model_validate_json(environ["wsgi.input"].read(int(length)))
    except OSError as exc:
        raise ConfigError(f"the body did not come within {READ_TIMEOUT_S:g} s ({exc})") from exc
    except ValidationError as exc:
        raise ConfigError(join_problems("the body", [p.text for p in describe_problems(exc, kind)])) from exc


def _read_demand(environ: WSGIEnvironment) -> _DemandBody:
    demand = _read_body(environ, _DemandBody)
    if (demand.width is None) == (demand.model is None):
        raise ConfigError('name one width or one model, as in {"width": 50, "hold_s": 60}')
    return demand


def _is_own_host(header: str) -> bool:
    """Return whether a Host header is an address or this machine's own name, and not one that anybody may give it."""
    try:
        host = urlsplit(f"//{header}").hostname or ""
        return host in ("localhost", socket.gethostname().lower()) or ipaddress.ip_address(host) is not None
    except ValueError:
        return False


def _is_loopback(peer: str) -> bool:
    try:
        address = ipaddress.ip_address(peer.partition("%")[0])
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)  # ::ffff:127.0.0.1, on a socket of both families
    return (mapped or address).is_loopback


def _error(status: HTTPStatus, reason: str) -> Reply:
    return status, {"error": reason}


def _send(start_response: StartResponse, status: HTTPStatus, values: dict[str, Any]) -> Iterable[bytes]:
    body = json.dumps(values).encode() + b"\n"
    headers = [("Content-Type", "application/json"), ("Content-Length", str(len(body)))]
    start_response(f"{status.value} {status.phrase}", headers)
    return [body]


class _Handler(WSGIRequestHandler):
    timeout = READ_TIMEOUT_S

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing: a scrape every few seconds is no news."""


class _HttpServer(ThreadingMixIn, WSGIServer):
    daemon_threads = True
    allow_reuse_port = False  # the address is the guard against a second controller

    def __init__(self, family: socket.AddressFamily, target: Any) -> None:
        self.address_family = family
        super().__init__(target, _Handler)

    def server_bind(self) -> None:
        """Bind without asking DNS for this host's name, which may take seconds."""
        socket_address = self.server_address
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(socket_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])
        self.setup_environ()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Note a client that went away or never finished its request."""
        log.debug("the connection from %s broke", client_address, exc_info=True)


def _listen(address: str, server: ServerName) -> _HttpServer:
    host, _, port = address.rpartition(":")
    try:
        found = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM)
        family, _, _, _, target = found[0]
        return _HttpServer(family, target)
    except OSError as exc:
        if exc.errno == errno.EADDRINUSE:
            raise ConfigError(
                f"the controller address {address} of server {server!r} is in use; does another controller run for "
                "this server? End it, or give the server another address in 'controller'"
            ) from exc
        raise ConfigError(
            f"can't listen on the controller address {address} of server {server!r} ({exc.strerror or exc}); give "
            "the server an address of this host in 'controller'"
        ) from exc
