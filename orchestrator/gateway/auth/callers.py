"""Who calls, and whether they may: the one place where tokens and quotas are checked, for both transports.

A token is 256 random bits, so one round of SHA-256 keeps it as safe as a slow hash would, at a microsecond a request.
The digest of what a client sends is compared with every known digest in constant time, and no match ends the search, so
the time says nothing about the tokens. Nothing of a token is kept, logged or passed through: from here on a call has a
tenant's name. Quotas are checked before anything of a request but its model's name is read; items, once its shape is.
Of several gateways over one fleet each gives away its part of every quota, which changes with what comes where.
"""

from __future__ import annotations

import hashlib
import hmac
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from orchestrator.config import TenantSettings
from orchestrator.config.tenants import DIGEST_PREFIX
from orchestrator.errors import CapacityError, PermanentError
from orchestrator.http2.grpc.wire import Metadata
from orchestrator.token_bucket import FULL, Rate, TokenBucket, take

_LATELY_S = 0.5
"""Over which demands are averaged: several times what gateways need to tell each other."""
_LEAST_PART = 0.01
"""Of a quota, so that a tenant that comes to a gateway anew is let in, and its demand counts at the others."""
OPEN_METHODS = frozenset({"ServerLive", "ServerReady"})
"""Health, which load balancers ask without a token."""
_CONCURRENCY_RETRY_S = 1.0  # when a slot is free again can't be known; answers take less


class UnauthenticatedError(PermanentError):
    """The call brings no token, or one that nobody has."""


class ForbiddenError(PermanentError):
    """The call is one that this caller may not make."""


class QuotaError(CapacityError):
    """The tenant has had its share; the request was not accepted."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Who makes a call.

    Attributes:
        metadata: The metadata to pass to servers, without credentials.
        tenant: The tenant's name; None when nobody has to say who they are, and for the gateway's own calls.
        address: Where the call comes from; empty for the gateway's own calls.
        is_peer: Whether another gateway makes it, for a caller whom it has admitted.
        digest: SHA-256 of its token, which may be dropped while its stream is open; empty where there is none.
    """

    metadata: Metadata = ()
    tenant: str | None = None
    address: str = ""
    is_peer: bool = False
    digest: bytes = field(default=b"", repr=False, compare=False)

    @property
    def owner(self) -> str:
        """Who shares fairly with others: the tenant, or who calls from an address."""
        return self.address if self.tenant is None else self.tenant


ANYONE = Caller()


@dataclass(slots=True)
class _Quota:
    """What a tenant may take of one thing, and has left of it.

    Attributes:
        rate: The whole quota; None for an unbounded one.
        part: What of it this gateway gives away, above 0 to 1.
        left: What may be taken now.
        come_per_s: What was asked for lately, refused or not.
        come: What was asked for since that was worked out.
    """

    what: str
    rate: Rate | None = None
    part: float = 1.0
    left: TokenBucket = FULL
    come_per_s: float = 0.0
    come: float = 0.0

    def charge(self, tenant: str, count: int, *, now_s: float) -> None:
        """Take so much; raises QuotaError, or ForbiddenError when it is too much at any time."""
        self.come += count
        if self.rate is None:
            return
        what = f"{self.what} of tenant '{tenant}'"
        if count > self.rate.burst:
            burst = f"{self.rate.burst:g}"
            raise ForbiddenError(f"{count} {what} are more than the {burst} that may come at once; send fewer")
        rate = self.rate if self.part == 1.0 else self.rate.share(self.part)
        # What is more than the part of a burst, though not than the whole, is had of what comes back later.
        now_taken = min(count, rate.burst)
        self.left, wait_s = take(self.left, rate, now_taken, now_s=now_s)
        if not wait_s:
            self.left = replace(self.left, tokens=self.left.tokens - (count - now_taken))
        else:
            per_s = f"{self.rate.per_s:g}/s"
            raise QuotaError(f"the {what} are above {per_s}; come again in {wait_s:.3g} s", retry_after_s=wait_s)


@dataclass(slots=True)
class _Account:
    """What a tenant may and has taken."""

    settings: TenantSettings
    requests: _Quota
    items: _Quota
    concurrent: float = math.inf
    running: int = 0
    wanted: int = 0
    models: frozenset[str] | None = None


class Ticket:
    """One inference under way; close it once."""

    __slots__ = ("_account",)

    def __init__(self, account: _Account | None) -> None:
        self._account = account
        if account is not None:
            account.running += 1

    def close(self) -> None:
        """Count it as under way no more."""
        if self._account is not None:
            self._account.running -= 1
            self._account = None

    def __enter__(self) -> None:
        """Nothing more is counted here."""

    def __exit__(self, *exc_info: object) -> None:
        self.close()


class Guard:
    """Knows tenants by their tokens and counts what they take.

    Args:
        tenants: All tenants; None lets everybody do everything.
        is_health_open: Whether health needs no token.
        is_status_open: Whether the status page needs none.
        clock: Returns seconds on a clock that never goes back.

    Attributes:
        is_on: Whether anybody has to say who they are.
    """

    def __init__(
        self,
        tenants: Sequence[TenantSettings] | None = None,
        *,
        is_health_open: bool = True,
        is_status_open: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.is_on = tenants is not None
        self._is_health_open = is_health_open
        self._is_status_open = is_status_open or tenants is None
        self._weighed_s = clock()
        self._clock = clock
        self._accounts: dict[str, _Account] = {}
        self._digests: tuple[tuple[bytes, str], ...] = ()
        self._known: frozenset[tuple[bytes, str]] = frozenset()
        if tenants is not None:
            self.replace(tenants)

    def replace(self, tenants: Sequence[TenantSettings]) -> None:
        """Take other tenants from now on; those that stay keep what they have taken, calls under way go on."""
        accounts = {}
        for tenant in tenants:
            account = self._accounts.get(tenant.name) or _Account(tenant, _Quota("requests"), _Quota("items"))
            account.settings = tenant
            account.requests.rate = self._rate(tenant.requests_per_s, tenant.requests_burst)
            account.items.rate = self._rate(tenant.items_per_s, tenant.items_burst)
            account.concurrent = math.inf if tenant.concurrent_requests is None else tenant.concurrent_requests
            account.models = None if tenant.models is None else frozenset(tenant.models)
            accounts[tenant.name] = account
        self._accounts = accounts
        self._digests = tuple(
            (bytes.fromhex(digest.removeprefix(DIGEST_PREFIX)), tenant.name)
            for tenant in tenants
            for digest in tenant.tokens
        )
        self._known = frozenset(self._digests)

    def _rate(self, per_s: float | None, burst: int | None) -> Rate | None:
        if per_s is None:
            return None
        return Rate(per_s, max(1.0, per_s) if burst is None else burst)

    # --- of several gateways ---

    @property
    def quotas(self) -> Mapping[str, tuple[float | None, float | None, float | None]]:
        """The whole quotas of each tenant: requests a second, items a second, requests under way; None for unbounded.

        Tenants without any are left out.
        """
        found = {
            name: (each.settings.requests_per_s, each.settings.items_per_s, each.settings.concurrent_requests)
            for name, each in self._accounts.items()
        }
        return {name: quotas for name, quotas in found.items() if quotas != (None, None, None)}

    @property
    def demands(self) -> Mapping[str, tuple[float, float, float]]:
        """What each of these tenants asked for lately, as in ``quotas``, refused or not, when it was last weighed."""
        accounts = ((name, self._accounts[name]) for name in self.quotas)
        return {
            name: (each.requests.come_per_s, each.items.come_per_s, float(max(each.running, each.wanted)))
            for name, each in accounts
        }

    def weigh(self) -> None:
        """Work out what is asked for a second, over the last second or so; to be called some times a second."""
        now_s = self._clock()
        passed_s, self._weighed_s = max(1e-3, now_s - self._weighed_s), now_s
        weight = 1 - math.exp(-passed_s / _LATELY_S)
        for account in self._accounts.values():
            account.wanted = account.running
            for quota in (account.requests, account.items):
                quota.come_per_s += weight * (quota.come / passed_s - quota.come_per_s)
                quota.come = 0.0

    def take_parts(self, parts: Mapping[str, tuple[float, float, float]]) -> None:
        """Give away only so much of each quota from now on, 0..1 each, by tenant."""
        for name, (requests, items, concurrent) in parts.items():
            account = self._accounts.get(name)
            if account is None:
                continue
            account.requests.part, account.items.part = max(_LEAST_PART, requests), max(_LEAST_PART, items)
            most = account.settings.concurrent_requests
            account.concurrent = math.inf if most is None else max(1, int(most * concurrent + 1e-9))

    # --- who calls, and what for ---

    def identify(self, method: str, metadata: Metadata, address: str = "") -> Caller:
        """Return who makes a call of a method, from an address.

        Raises:
            UnauthenticatedError: The metadata has no ``authorization``, several, or one that nobody has.
        """
        if not self.is_on or (self._is_health_open and method in OPEN_METHODS):
            return Caller(metadata, address=address)
        given = [value for key, value in metadata if key == "authorization"]
        found = self._find(given[0]) if len(given) == 1 else None
        if found is None:
            what = "the token is not known" if given else "a token is missing"
            raise UnauthenticatedError(f"{what}; send the header 'authorization: Bearer TOKEN'")
        digest, tenant = found
        rest = tuple(pair for pair in metadata if pair[0] != "authorization")
        return Caller(rest, tenant, address, digest=digest)

    def require_status(self, metadata: Metadata) -> None:
        """Raise UnauthenticatedError or ForbiddenError when whoever has this metadata may not see the status page."""
        if self._is_status_open:
            return
        caller = self.identify("", metadata)
        if not self._account(caller).settings.sees_status:
            raise ForbiddenError(
                f"tenant '{caller.tenant}' may not see the status page; take another's token, or give this one "
                "'sees_status: true' in the tokens file"
            )

    def _find(self, authorization: str | bytes) -> tuple[bytes, str] | None:
        """Return the digest and the tenant of a header's value, in a time that does not depend on it."""
        value = authorization.encode(errors="replace") if isinstance(authorization, str) else authorization
        # perf_analyzer's -H 'authorization: Bearer …' begins with a blank over gRPC, which trims nothing.
        scheme, _, token = value.strip().partition(b" ")
        given = hashlib.sha256(token.strip()).digest()
        found = None
        for digest, tenant in self._digests:
            if hmac.compare_digest(digest, given):
                found = digest, tenant
        return found if scheme.lower() == b"bearer" else None

    def may_use(self, caller: Caller, model: str) -> bool:
        """Return whether a model is there for a caller."""
        if caller.tenant is None:
            return True
        models = self._account(caller).models
        return models is None or model in models

    def sees_all(self, caller: Caller) -> bool:
        """Return whether every model is there for a caller."""
        return caller.tenant is None or self._account(caller).models is None

    def require_model(self, caller: Caller, model: str) -> None:
        """Raise ForbiddenError when a model is not there for a caller."""
        if not self.may_use(caller, model):
            raise ForbiddenError(f"tenant '{caller.tenant}' may not use model '{model}'")

    def admit(self, caller: Caller, model: str | None) -> Ticket:
        """Return what counts a request as under way until it is closed, as a context or by hand; None is no model's.

        Raises ForbiddenError when the tenant may not use the model, and QuotaError, which says when to come again, when
        too many are under way, or have come.
        """
        if caller.tenant is None:
            return Ticket(None)
        if model is not None:
            self.require_model(caller, model)
        account = self._account(caller)
        account.wanted = max(account.wanted, account.running + 1)
        if account.running >= account.concurrent:
            raise QuotaError(
                f"tenant '{caller.tenant}' has {account.running} requests under way, the most it may; wait for one",
                retry_after_s=_CONCURRENCY_RETRY_S,
            )
        self.charge_request(caller)
        return Ticket(account)

    def charge_request(self, caller: Caller) -> None:
        """Count one request against its rate; raises QuotaError."""
        if caller.tenant is None:
            return
        self._account(caller).requests.charge(caller.tenant, 1, now_s=self._clock())

    def charge_items(self, caller: Caller, count: int) -> None:
        """Count items against their rate; raises QuotaError when too many now, ForbiddenError when at any time."""
        if caller.tenant is None:
            return
        self._account(caller).items.charge(caller.tenant, count, now_s=self._clock())

    def require_priority(self, caller: Caller, priority: int) -> None:
        """Raise ForbiddenError when a priority is above what a caller may ask for; 0 is the default, for everybody."""
        if caller.tenant is None or priority == 0:
            return
        highest = self._account(caller).settings.highest_priority
        if priority < highest:
            raise ForbiddenError(
                f"priority {priority} is above what tenant '{caller.tenant}' may ask for; give {highest} or more, or 0"
            )

    def _account(self, caller: Caller) -> _Account:
        """Return a caller's account; one whose token or tenant went while its stream was open has nothing more."""
        account = self._accounts.get(caller.tenant or "")
        if account is None or (caller.digest and (caller.digest, caller.tenant) not in self._known):
            raise UnauthenticatedError("the token is no longer known")
        return account
