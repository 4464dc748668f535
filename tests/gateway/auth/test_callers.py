"""Tokens and quotas, without a transport."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.cli import main
from orchestrator.config import TenantSettings, load_tenants, parse_tenants
from orchestrator.errors import ConfigError
from orchestrator.gateway.auth import callers as module
from orchestrator.gateway.auth.callers import Caller, ForbiddenError, Guard, QuotaError, UnauthenticatedError

SECRET = "s3cret-of-vision"
OTHER = "other-of-vision"


def digest(token: str) -> str:
    return "sha256:" + hashlib.sha256(token.encode()).hexdigest()


def tenant(name: str = "vision", token: str = SECRET, **more: Any) -> TenantSettings:
    return TenantSettings(name=name, tokens=(digest(token),), **more)


def bearer(token: str) -> tuple[tuple[str, str], ...]:
    return (("x-trace", "1"), ("authorization", f"Bearer {token}"))


class Clock:
    now_s = 50.0

    def __call__(self) -> float:
        return self.now_s


# --- who ---


def test_a_token_is_a_tenant_and_goes_no_further() -> None:
    guard = Guard([tenant(), tenant("audio", "a"), TenantSettings(name="shut", tokens=())])
    caller = guard.identify("ModelInfer", bearer(SECRET))
    assert caller == Caller((("x-trace", "1"),), "vision")
    assert guard.identify("ModelInfer", (("authorization", b" bearer  a "),)).tenant == "audio"


@pytest.mark.parametrize(
    "metadata",
    [
        (),
        bearer(""),
        bearer(SECRET + "x"),
        bearer(SECRET[:-1]),
        bearer(digest(SECRET)),
        (("authorization", SECRET),),
        (("authorization", f"Basic {SECRET}"),),
        (("authorization", f"Bearer {SECRET}\udcff"),),
        (*bearer(SECRET), *bearer(SECRET)),
    ],
)
def test_whoever_has_no_known_token_is_refused_without_an_echo(metadata: Any) -> None:
    with pytest.raises(UnauthenticatedError) as caught:
        Guard([tenant()]).identify("ModelInfer", metadata)
    assert SECRET[:-1] not in str(caught.value)


@given(st.binary(max_size=80))
def test_no_other_bytes_open(token: bytes) -> None:
    guard = Guard([tenant()])
    with pytest.raises(UnauthenticatedError):
        guard.identify("ModelInfer", (("authorization", b"Bearer " + token),))


def test_health_is_open_unless_closed() -> None:
    for method in ("ServerLive", "ServerReady"):
        assert Guard([tenant()]).identify(method, ()).tenant is None
        with pytest.raises(UnauthenticatedError):
            Guard([tenant()], is_health_open=False).identify(method, ())
    with pytest.raises(UnauthenticatedError):
        Guard([tenant()]).identify("ModelReady", ())


def test_without_tenants_everybody_may_do_everything() -> None:
    guard = Guard()
    caller = guard.identify("ModelInfer", bearer("whatever"))
    assert caller.tenant is None
    for _ in range(1000):
        guard.admit(caller, "any")
        guard.charge_items(caller, 10**6)
    guard.require_priority(caller, 1)


def test_a_match_is_found_in_the_same_number_of_comparisons_as_a_miss(monkeypatch: pytest.MonkeyPatch) -> None:
    compared = []

    class Counting:
        @staticmethod
        def compare_digest(a: bytes, b: bytes) -> bool:
            compared.append(a)
            return a == b

    guard = Guard([tenant(str(n), f"t{n}") for n in range(20)])
    monkeypatch.setattr(module, "hmac", Counting)
    counts = []
    for token in ("t0", "t19", "nobody"):
        compared.clear()
        with contextlib.suppress(UnauthenticatedError):
            guard.identify("ModelInfer", bearer(token))
        counts.append(len(compared))
    assert counts == [20, 20, 20]


# --- how much ---


def test_a_burst_then_the_rate() -> None:
    clock = Clock()
    guard = Guard([tenant(requests_per_s=10, requests_burst=3)], clock=clock)
    caller = Caller(tenant="vision")
    for _ in range(3):
        guard.admit(caller, "m").close()
    with pytest.raises(QuotaError) as caught:
        guard.admit(caller, "m")
    assert caught.value.retry_after_s == pytest.approx(0.1)
    clock.now_s += 0.1
    guard.admit(caller, "m").close()
    with pytest.raises(QuotaError):
        guard.admit(caller, "m")


def test_places_are_given_back_whatever_happens() -> None:
    guard = Guard([tenant(concurrent_requests=2)])
    caller = Caller(tenant="vision")
    with guard.admit(caller, "m"):
        ticket = guard.admit(caller, "m")
        with pytest.raises(QuotaError, match="2 requests under way"):
            guard.admit(caller, "m")
        ticket.close()
        ticket.close()
        with pytest.raises(KeyError), guard.admit(caller, "m"):
            raise KeyError
        guard.admit(caller, "m")
        with pytest.raises(QuotaError):
            guard.admit(caller, "m")


def test_items_have_a_rate_of_their_own_and_a_batch_beyond_the_burst_never_fits() -> None:
    clock = Clock()
    guard = Guard([tenant(items_per_s=8, items_burst=16)], clock=clock)
    caller = Caller(tenant="vision")
    guard.charge_items(caller, 16)
    with pytest.raises(QuotaError) as caught:
        guard.charge_items(caller, 4)
    assert caught.value.retry_after_s == pytest.approx(0.5)
    with pytest.raises(ForbiddenError, match="more than the 16"):
        guard.charge_items(caller, 17)
    clock.now_s += 0.5
    guard.charge_items(caller, 4)


def test_one_tenant_is_not_felt_by_another() -> None:
    guard = Guard([tenant(requests_per_s=1), tenant("audio", "a", requests_per_s=1)])
    guard.admit(Caller(tenant="vision"), "m")
    with pytest.raises(QuotaError):
        guard.admit(Caller(tenant="vision"), "m")
    guard.admit(Caller(tenant="audio"), "m")


def test_models_and_priorities_are_bounded() -> None:
    guard = Guard([tenant(models=("fashion",), highest_priority=3)])
    caller = Caller(tenant="vision")
    guard.admit(caller, "fashion")
    with pytest.raises(ForbiddenError, match="may not use model 'plus'"):
        guard.admit(caller, "plus")
    for priority in (0, 3, 99):
        guard.require_priority(caller, priority)
    for priority in (1, 2):
        with pytest.raises(ForbiddenError, match="give 3 or more"):
            guard.require_priority(caller, priority)


def test_of_several_gateways_each_gives_away_its_part_of_a_quota() -> None:
    guard = Guard([tenant(requests_per_s=100, requests_burst=8, concurrent_requests=3)], clock=Clock())
    guard.take_parts({"vision": (0.25, 0.25, 0.25), "unknown": (1.0, 1.0, 1.0)})
    caller = Caller(tenant="vision")
    guard.admit(caller, "m")
    with pytest.raises(QuotaError, match="under way"):
        guard.admit(caller, "m")
    guard.charge_request(caller)
    with pytest.raises(QuotaError, match=r"come again in 0\.04 s"):
        guard.charge_request(caller)


def test_a_batch_that_is_more_than_a_gateways_part_of_a_burst_is_let_in_and_paid_for_afterwards() -> None:
    clock = Clock()
    guard = Guard([tenant(items_per_s=100, items_burst=32)], clock=clock)
    guard.take_parts({"vision": (0.25, 0.25, 0.25)})
    caller = Caller(tenant="vision")
    guard.charge_items(caller, 32)
    with pytest.raises(QuotaError, match=r"come again in 1\.28 s"):
        guard.charge_items(caller, 32)
    clock.now_s += 1.28
    guard.charge_items(caller, 32)
    with pytest.raises(ForbiddenError, match="more than the 32"):
        guard.charge_items(caller, 33)


def test_other_tenants_are_taken_and_what_was_taken_is_kept() -> None:
    clock = Clock()
    guard = Guard([tenant(requests_per_s=1, concurrent_requests=1)], clock=clock)
    caller = guard.identify("ModelInfer", bearer(SECRET))
    ticket = guard.admit(caller, "m")
    guard.replace([tenant(token=OTHER, requests_per_s=1, concurrent_requests=1)])
    with pytest.raises(UnauthenticatedError):
        guard.identify("ModelInfer", bearer(SECRET))
    with pytest.raises(QuotaError, match="under way"):
        guard.admit(guard.identify("ModelInfer", bearer(OTHER)), "m")
    ticket.close()
    with pytest.raises(QuotaError, match="above 1/s"):
        guard.admit(guard.identify("ModelInfer", bearer(OTHER)), "m")


@pytest.mark.parametrize(
    "left",
    [[tenant("audio", "a")], [TenantSettings(name="vision", tokens=())], [tenant(token=OTHER), tenant("b", SECRET)]],
    ids=["without_the_tenant", "without_tokens", "with_the_token_at_another_tenant"],
)
def test_a_caller_whose_token_is_dropped_while_its_stream_is_open_has_nothing_more(left: list[TenantSettings]) -> None:
    guard = Guard([tenant()])
    caller = guard.identify("ModelInfer", bearer(SECRET))
    guard.replace([tenant(), tenant("audio", "a")])
    guard.admit(caller, "m").close()
    guard.replace(left)
    uses: list[Callable[[], object]] = [
        lambda: guard.admit(caller, "m"),
        lambda: guard.charge_request(caller),
        lambda: guard.charge_items(caller, 1),
        lambda: guard.may_use(caller, "m"),
        lambda: guard.sees_all(caller),
        lambda: guard.require_priority(caller, 1),
    ]
    for use in uses:
        with pytest.raises(UnauthenticatedError, match="the token is no longer known"):
            use()


# --- the file and the command ---


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("tenants: []", "tenants"),
        ("[]", "it starts with 'tenants:'"),
        (f"tenants: [{{name: a, tokens: [{SECRET}]}}]", "tenants[0].tokens[0]"),
        (f"tenants: [{{name: a, tokens: [], {SECRET}: 1}}]", "unknown key in tenants[0]; allowed here: name, tokens"),
        (f"tenants: [{{name: a, tokens: []}}]\n{SECRET}: 1", "unknown key in the file; allowed here: tenants"),
        (f"tenants: [{{name: '{SECRET} {SECRET}', tokens: []}}]", "tenants[0].name"),
        (f"tenants:\n  - {{name: a\n{SECRET}: [", "no YAML: see line"),
        (f"tenants: {SECRET}", "tenants"),
        (f"tenants: [{{name: a, tokens: [{digest('x')}, {digest('x')}]}}]", "tenants[0].tokens[1]: is there twice"),
        ("tenants: [{name: a, tokens: []}, {name: a, tokens: []}]", "tenants[1].name: is there twice"),
        ("tenants: [{name: a, tokens: [], items_burst: 5}]", "items_burst bounds nothing without items_per_s"),
        ("tenants: [{name: a, tokens: [], requests_per_s: .nan}]", "requests_per_s"),
        ("tenants: [{name: a, tokens: [], requests_per_s: 0}]", "requests_per_s"),
        ("tenants: [{name: a, tokens: [], models: []}]", "models"),
        ("[" * 5000, "no YAML"),
        ("tenants: 2026-02-30", "no YAML"),
        (f"tenants: !!int {SECRET}", "no YAML"),
    ],
)
def test_what_is_wrong_in_the_file_is_named_and_not_quoted(text: str, problem: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_tenants(text)
    assert problem in str(caught.value)
    assert "\n" not in str(caught.value)
    error: BaseException | None = caught.value
    while error is not None:
        assert SECRET not in str(error), "a pasted token would be in the log"
        error = error.__cause__


def test_files_that_cannot_be_read_are_told_in_a_line(tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    (tmp_path / "large").write_bytes(b"#" * (2**20 + 1))
    for name, problem in (("absent", "slimsched token new"), ("binary", "UTF-8"), ("large", "larger"), (".", "read")):
        with pytest.raises(ConfigError, match=problem):
            load_tenants(tmp_path / name)


def test_a_new_token_fits_the_file_that_its_lines_make() -> None:
    found = CliRunner().invoke(main, ["token", "new", "vision"])
    assert found.exit_code == 0
    first, _, *lines = found.output.splitlines()
    token = first.rpartition(" ")[2]
    tenants = parse_tenants("tenants:\n" + "\n".join(lines))
    assert Guard(tenants).identify("ModelInfer", bearer(token)).tenant == "vision"
    assert token not in "\n".join(lines)
    assert len(token) >= 43
    again = CliRunner().invoke(main, ["token", "new", "vision"]).output
    assert token not in again
    refused = CliRunner().invoke(main, ["token", "new", "no good"])
    assert refused.exit_code == 1
    assert refused.output.startswith("Error: ")
