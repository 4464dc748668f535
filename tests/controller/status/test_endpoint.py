"""The endpoint over real HTTP."""

from __future__ import annotations

import asyncio
import http.client
import json
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from orchestrator.config import ServerSettings
from orchestrator.controller.report import StepReport
from orchestrator.controller.status.client import fetch_status, send_demand
from orchestrator.controller.status.document import describe_status, encode_status, parse_page
from orchestrator.controller.status.endpoint import BODY_LIMIT_BYTES, ROUTES, ControllerEndpoint, Heartbeat, find_model
from orchestrator.controller.status.holder import HolderKeeper
from orchestrator.controller.status.metrics import ControllerMetrics
from orchestrator.errors import (
    CapacityError,
    ConfigError,
    ModelNotFoundError,
    PermanentError,
    ServerUnavailableError,
    SlimError,
)
from orchestrator.planner.host import RepositoryModel
from orchestrator.snapshot import Family, ModelName, ServerName
from tests.controller.status.reports import NOW_S, full_report, name, repository_model
from tests.ports import choose_free_port

GPU_0 = ServerName("gpu-0")
JSON = {"Content-Type": "application/json"}


@dataclass
class Clock:
    now_s: float = 0.0

    def __call__(self) -> float:
        return self.now_s


@dataclass
class Controller:
    """All that an endpoint needs of one, on an event loop that runs in a thread."""

    loop: asyncio.AbstractEventLoop
    address: str = field(default_factory=lambda: f"127.0.0.1:{choose_free_port()}")
    report: StepReport | None = None
    clock: Clock = field(default_factory=Clock)
    metrics: ControllerMetrics = field(default_factory=lambda: ControllerMetrics(GPU_0))
    demands: list[tuple[ModelName, float, int]] = field(default_factory=list)
    fault: Exception | None = None
    more: list[RepositoryModel] = field(default_factory=list)

    def models(self) -> Sequence[RepositoryModel]:
        if self.fault is not None:
            raise self.fault
        return [repository_model(25), repository_model(50), *self.more]

    def demand(self, model: ModelName, hold_s: float) -> None:
        self.demands.append((model, hold_s, threading.get_ident()))

    def endpoint(self) -> ControllerEndpoint:
        return ControllerEndpoint(
            self.address,
            server=GPU_0,
            registry=self.metrics.registry,
            report=lambda: self.report,
            heartbeat=Heartbeat(5.0, self.clock),
            models=self.models,
            demand=self.demand,
            keeper=HolderKeeper(self.clock, first_term=1, headers={}),
            loop=self.loop,
            loop_timeout_s=0.3,
            clock=lambda: NOW_S + self.clock.now_s,
        )

    def ask(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        headers: dict[str, str] | None = None,
        host: str | None = None,
    ) -> tuple[int, Any]:
        address, _, port = self.address.rpartition(":")
        connection = http.client.HTTPConnection(host or address, int(port), timeout=10)
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        connection.request(method, path, data, JSON if headers is None else headers)
        answer = connection.getresponse()
        text = answer.read().decode()
        connection.close()
        is_json = answer.headers["Content-Type"] == "application/json"
        return answer.status, json.loads(text) if is_json else text

    def settings(self) -> ServerSettings:
        return ServerSettings(name=GPU_0, grpc="127.0.0.1:9", controller=self.address)


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    yield loop
    if loop.is_running():
        loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


@pytest.fixture
def controller(loop: asyncio.AbstractEventLoop) -> Iterator[Controller]:
    controller = Controller(loop)
    with controller.endpoint():
        yield controller


def test_status_is_the_last_report(controller: Controller) -> None:
    assert controller.ask("GET", "/status") == (503, {"error": "the controller has not taken a step yet"})
    controller.report = full_report()
    controller.clock.now_s = 1.5
    assert controller.ask("GET", "/status") == (200, encode_status(full_report(), now_s=NOW_S + 1.5))
    assert controller.ask("GET", "/status")[1]["age_s"] == 1.5


def test_metrics_are_prometheus_text(controller: Controller) -> None:
    controller.metrics.observe(full_report())
    status, text = controller.ask("GET", "/metrics")
    assert status == 200
    samples = {s.name: s.value for family in text_string_to_metric_families(text) for s in family.samples}
    assert samples["slim_controller_steps_total"] == 312
    assert samples["slim_controller_triton_up"] == 1


def test_health_follows_the_steps(controller: Controller) -> None:
    assert controller.ask("GET", "/healthz") == (200, {"server": "gpu-0"})
    controller.clock.now_s = 5.0
    assert controller.ask("GET", "/healthz")[0] == 200
    controller.clock.now_s = 5.5
    assert controller.ask("GET", "/healthz") == (503, {"error": "no step for 5.5 s, the limit is 5 s"})


def test_it_is_ready_while_steps_happen_and_triton_is_observed(controller: Controller) -> None:
    assert controller.ask("GET", "/livez")[0] == 200
    assert controller.ask("GET", "/readyz") == (503, {"error": "no step was taken yet"})
    controller.report = full_report()
    assert controller.ask("GET", "/readyz") == (200, {"server": "gpu-0"})
    controller.clock.now_s = 5.5
    assert [controller.ask("GET", path)[0] for path in ("/livez", "/readyz")] == [503, 503]
    controller.clock.now_s = 0.0
    controller.report = replace(
        full_report(), seen=replace(full_report().seen, snapshot=None, trouble="Triton does not answer")
    )
    assert controller.ask("GET", "/readyz") == (503, {"error": "Triton does not answer"})
    assert controller.ask("GET", "/livez")[0] == 200


def test_a_beat_keeps_the_pulse() -> None:
    clock = Clock(100.0)
    heartbeat = Heartbeat(5.0, clock)
    clock.now_s = 104.0
    heartbeat.beat()
    clock.now_s = 109.0
    assert heartbeat.trouble() is None
    heartbeat.limit_s = 4.0
    assert heartbeat.trouble() == "no step for 5.0 s, the limit is 4 s"


@pytest.mark.parametrize("demand", [{"width": 50, "hold_s": 30}, {"model": "fashion_w050", "hold_s": 30.0}])
def test_a_demand_reaches_the_controller_in_its_loop(controller: Controller, demand: dict[str, object]) -> None:
    assert controller.ask("POST", "/demand", demand) == (202, {"model": "fashion_w050", "hold_s": 30.0})
    ((model, hold_s, thread),) = controller.demands
    assert (model, hold_s) == (name(50), 30.0)
    assert thread != threading.get_ident()

    async def get_ident() -> int:
        return threading.get_ident()

    assert thread == asyncio.run_coroutine_threadsafe(get_ident(), controller.loop).result(5)


def test_a_width_of_several_families_is_demanded_of_one_that_is_named(controller: Controller) -> None:
    controller.more = [replace(repository_model(50), name=ModelName("plates_w050"), family=Family("plates"))]
    assert controller.ask("POST", "/demand", {"width": 50}) == (
        400,
        {"error": "width 50 is of the families fashion, plates; name one of them"},
    )
    assert controller.ask("POST", "/demand", {"width": 50, "family": "plates"})[1]["model"] == "plates_w050"
    assert controller.ask("POST", "/demand", {"width": 25})[1]["model"] == "fashion_w025", "only one has it"
    status, answer = controller.ask("POST", "/demand", {"width": 25, "family": "plates"})
    assert status == 404
    assert answer["error"].startswith("the repository has no width 25 of family 'plates'; it has the widths 25 (fash")


def test_a_demand_lasts_a_minute_unless_said(controller: Controller) -> None:
    assert controller.ask("POST", "/demand", {"width": 25})[1]["hold_s"] == 60.0


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        (b"{", "the body: is no JSON"),
        (b"", "the body: is no JSON"),
        ([1], "the body: must hold keys"),
        ({}, "name one width or one model"),
        ({"width": 25, "model": "fashion_w025"}, "name one width or one model"),
        ({"width": "25"}, "the body: width: must be a whole number"),
        ({"width": 25.5}, "the body: width: must be a whole number"),
        ({"width": True}, "the body: width: must be a whole number"),
        ({"width": 25, "hold_s": 0}, "the body: hold_s: must be above 0"),
        ({"width": 25, "hold_s": 3601}, "the body: hold_s: must be at most 3600"),
        ({"width": 25, "hold_s": float("nan")}, "the body: hold_s: must be a finite number"),
        ({"width": 25, "hold": 60}, "the body: unknown key hold; allowed here: width, family, model, hold_s"),
        (b" " * (BODY_LIMIT_BYTES + 1), f"Content-Length '4097' is not in 0 to {BODY_LIMIT_BYTES}"),
    ],
)
def test_a_bad_demand_is_refused_in_one_line(controller: Controller, body: object, problem: str) -> None:
    status, answer = controller.ask("POST", "/demand", body)
    assert status == 400
    assert answer["error"].startswith(problem)
    assert "\n" not in answer["error"]
    assert controller.demands == []


def test_a_demand_must_be_sent_as_json(controller: Controller) -> None:
    for headers in ({"Content-Type": "text/plain"}, {"Content-Type": "application/x-www-form-urlencoded"}, {}):
        status, answer = controller.ask("POST", "/demand", {"width": 25}, headers=headers)
        assert (status, answer["error"]) == (400, "send it with 'Content-Type: application/json'")
    headers = {"Content-Type": "application/json; charset=utf-8"}
    assert controller.ask("POST", "/demand", {"width": 25}, headers=headers)[0] == 202


def test_an_unknown_width_is_404_with_those_there_are(controller: Controller) -> None:
    there = "it has the widths 25 (fashion_w025), 50 (fashion_w050)"
    assert controller.ask("POST", "/demand", {"width": 33}) == (
        404,
        {"error": f"the repository has no width 33; {there}"},
    )
    assert controller.ask("POST", "/demand", {"model": "x"})[1] == {
        "error": f"the repository has no model 'x'; {there}"
    }
    with pytest.raises(ModelNotFoundError, match="it has the widths - none"):
        find_model([], width=25, name=None)


def test_what_the_controller_says_against_a_demand_is_returned(controller: Controller) -> None:
    controller.fault = ConfigError("repository gone")
    assert controller.ask("POST", "/demand", {"width": 25}) == (400, {"error": "repository gone"})
    controller.fault = CapacityError("too many")
    assert controller.ask("POST", "/demand", {"width": 25}) == (503, {"error": "too many"})
    controller.fault = ZeroDivisionError("bug")
    status, answer = controller.ask("POST", "/demand", {"width": 25})
    assert (status, answer) == (500, {"error": "the endpoint failed; its log says why"})


def test_a_controller_that_has_ended_takes_no_demand(controller: Controller) -> None:
    controller.loop.call_soon_threadsafe(controller.loop.stop)
    while controller.loop.is_running():
        pass
    controller.loop.close()
    assert controller.ask("POST", "/demand", {"width": 25}) == (503, {"error": "the controller does not respond"})


def test_a_demand_that_was_answered_with_failure_does_not_come_true_later(controller: Controller) -> None:
    release = threading.Event()
    controller.loop.call_soon_threadsafe(release.wait)
    assert controller.ask("POST", "/demand", {"width": 25}) == (503, {"error": "the controller does not respond"})
    release.set()
    assert controller.ask("POST", "/demand", {"width": 50})[0] == 202
    assert [model for model, _, _ in controller.demands] == [name(50)]


def own_address() -> str | None:
    """Return an address of this machine that is not loopback; None when it has none."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # sends nothing, only chooses a route
        except OSError:
            return None
        address: str = probe.getsockname()[0]
        return None if address.startswith("127.") else address


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 202),
        ({"Host": "localhost:8100"}, 202),
        ({"Host": "[::1]:8100"}, 202),
        ({"Host": "evil.example:8100"}, 403),
        ({"Host": "localhost.evil.example"}, 403),
        ({"Host": ""}, 403),
        ({"Host": "[::1"}, 403),
        ({"Origin": "http://127.0.0.1:8100"}, 403),
        ({"Origin": "null"}, 403),
    ],
)
def test_a_web_page_may_not_demand(controller: Controller, headers: dict[str, str], status: int) -> None:
    assert controller.ask("POST", "/demand", {"width": 25}, headers=JSON | headers)[0] == status
    assert len(controller.demands) == (status == 202)


def test_from_elsewhere_one_may_read_and_not_demand(loop: asyncio.AbstractEventLoop) -> None:
    controller = Controller(loop, address=f"0.0.0.0:{choose_free_port()}", report=full_report())
    with controller.endpoint() as endpoint:
        assert controller.ask("POST", "/demand", {"width": 25}, host="127.0.0.1")[0] == 202
        elsewhere = own_address()
        if elsewhere is not None:
            assert controller.ask("GET", "/status", host=elsewhere)[0] == 200
            status, answer = controller.ask("POST", "/demand", {"width": 25}, host=elsewhere)
            assert status == 403
            assert "from this machine only" in answer["error"]
        assert len(controller.demands) == 1
        for peer, status in {
            "10.1.2.3": "403", "::ffff:10.1.2.3": "403", "": "403", "x": "403", "fe80::1%eth0": "403",
            "127.0.0.9": "400", "::1": "400", "::ffff:127.0.0.1": "400",
        }.items():  # fmt: skip
            got: list[str] = []
            environ = {"REQUEST_METHOD": "POST", "PATH_INFO": "/demand", "REMOTE_ADDR": peer}
            endpoint.answer(environ, lambda status, headers, got=got: got.append(status))  # type: ignore[arg-type,misc]
            assert got[0].startswith(status), peer


def test_other_paths_and_methods_name_those_there_are(controller: Controller) -> None:
    status, answer = controller.ask("GET", "/")
    assert status == 404
    assert f"there is {ROUTES}" in answer["error"]
    assert controller.ask("POST", "/status")[0] == 405
    assert controller.ask("GET", "/demand")[0] == 405


def test_an_address_in_use_means_another_controller(controller: Controller) -> None:
    with pytest.raises(ConfigError) as caught, controller.endpoint():
        pass
    assert str(caught.value) == (
        f"the controller address {controller.address} of server 'gpu-0' is in use; does another controller run for "
        "this server? End it, or give the server another address in 'controller'"
    )


def test_a_closed_endpoint_frees_its_address(loop: asyncio.AbstractEventLoop) -> None:
    controller = Controller(loop)
    for _ in range(3):
        with controller.endpoint():
            assert controller.ask("GET", "/healthz")[0] == 200
    with pytest.raises(ConnectionRefusedError):
        controller.ask("GET", "/healthz")


@pytest.mark.parametrize("address", ["192.0.2.1:9100", "no-such-host.invalid:9100"])
def test_an_address_that_is_not_ours_is_refused(loop: asyncio.AbstractEventLoop, address: str) -> None:
    with pytest.raises(ConfigError, match=r"can't listen on the controller address .*; give the server an address of"):
        Controller(loop, address=address).endpoint().__enter__()


def test_ipv6_is_spoken(loop: asyncio.AbstractEventLoop) -> None:
    if not socket.has_ipv6:
        pytest.skip("this machine has no IPv6")
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        pytest.skip("this machine has no IPv6 loopback")
    controller = Controller(loop, address=f"[::1]:{choose_free_port()}")
    with controller.endpoint():
        assert controller.ask("POST", "/demand", {"width": 25}, host="::1")[0] == 202


def test_a_client_that_says_nothing_holds_up_nobody(controller: Controller) -> None:
    address, _, port = controller.address.rpartition(":")
    with socket.create_connection((address, int(port))):
        assert controller.ask("GET", "/healthz")[0] == 200


def test_requests_leave_no_line_behind(controller: Controller, capfd: pytest.CaptureFixture[str]) -> None:
    address, _, port = controller.address.rpartition(":")
    controller.ask("GET", "/healthz")
    with socket.create_connection((address, int(port))) as client:
        client.sendall(b"GARBAGE\r\n\r\n")
        client.recv(100)
    controller.ask("GET", "/healthz")
    assert capfd.readouterr() == ("", "")


def test_the_client_reads_what_the_endpoint_says(controller: Controller) -> None:
    controller.report = full_report()
    assert parse_page(fetch_status(controller.settings(), timeout_s=5)) == describe_status(full_report(), now_s=NOW_S)
    assert send_demand(controller.settings(), width=50, hold_s=5, timeout_s=5) == "fashion_w050"
    assert controller.demands[0][:2] == (name(50), 5)
    anywhere = ServerSettings(
        name=GPU_0, grpc="127.0.0.1:9", controller=f"0.0.0.0:{controller.address.rpartition(':')[2]}"
    )
    assert fetch_status(anywhere, timeout_s=5)["server"] == GPU_0


def refusal(call: Callable[[], object]) -> SlimError:
    with pytest.raises(SlimError) as caught:
        call()
    return caught.value


def test_the_client_says_why_there_is_no_answer(controller: Controller) -> None:
    gone = ServerSettings(name="gpu-1", grpc="127.0.0.1:9", controller=f"127.0.0.1:{choose_free_port()}")
    error = refusal(lambda: fetch_status(gone, timeout_s=5))
    assert isinstance(error, ServerUnavailableError)
    assert "Connection refused" in str(error)
    assert "is 'slimsched controller --server gpu-1' running?" in str(error)

    early = refusal(lambda: fetch_status(controller.settings(), timeout_s=5))
    assert str(early).endswith("says: the controller has not taken a step yet")

    controller.report = full_report()
    other = ServerSettings(name="gpu-1", grpc="127.0.0.1:9", controller=controller.address)
    error = refusal(lambda: fetch_status(other, timeout_s=5))
    assert isinstance(error, PermanentError)
    assert "answers for server 'gpu-0'; correct 'controller' in fleet.yaml" in str(error)

    error = refusal(lambda: send_demand(controller.settings(), width=33, hold_s=5, timeout_s=5))
    assert "says: the repository has no width 33" in str(error)

    without = ServerSettings(name="gpu-0", grpc="127.0.0.1:9")
    assert isinstance(refusal(lambda: fetch_status(without, timeout_s=5)), ConfigError)


def test_the_client_waits_no_longer_than_it_may() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        settings = ServerSettings(name="a", grpc="127.0.0.1:9", controller=f"127.0.0.1:{silent.getsockname()[1]}")
        error = refusal(lambda: fetch_status(settings, timeout_s=0.2))
    assert "no answer within 0.2 s" in str(error)


@pytest.mark.parametrize("page", [b"hello", b"[1]"])
def test_something_else_on_the_address_is_no_controller(page: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            client, _ = listener.accept()
            with client:
                client.recv(1000)
                client.sendall(b"HTTP/1.0 200 OK\r\n\r\n" + page)

        thread = threading.Thread(target=serve)
        thread.start()
        settings = ServerSettings(name="a", grpc="127.0.0.1:9", controller=f"127.0.0.1:{listener.getsockname()[1]}")
        refusal(lambda: fetch_status(settings, timeout_s=5))
        thread.join()
