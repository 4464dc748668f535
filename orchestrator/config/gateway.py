"""The gateway's section of fleet.yaml."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationInfo, field_validator

from orchestrator.config.section import Address, CollectorUrl, Name, Section
from orchestrator.validation import Distinct


class TlsSettings(Section):
    """TLS of both transports; the metrics address stays plain. All files are PEM, and read again when they change."""

    certificate: Path
    """The gateway's own, followed by those between it and its authority."""
    key: Path
    """Private key of the certificate, without a passphrase."""
    client_ca: Path | None = None
    """Authorities; a client must show a certificate of one of them. None: clients show none."""
    minimum_version: Literal["1.2", "1.3"] = "1.2"
    """Older handshakes are refused. Every client of the last ten years speaks 1.2."""

    @field_validator("minimum_version", mode="before")
    @classmethod
    def _number_is_version(cls, version: object) -> object:
        return str(version) if isinstance(version, float) else version  # YAML takes 1.3 for a number

    def _contradictions(self) -> Iterator[str]:
        if self.client_ca is not None and self.client_ca == self.key:
            yield f"client_ca and key are both {self.key}; give the authorities' certificates"


class ClientLimitSettings(Section):
    """What one client, or all together, may take of a gateway process."""

    max_connections: int = Field(default=1000, ge=1)
    """Most connections of each transport. One more takes the place of an idle one, of the address that has the most."""
    max_concurrent_streams: int = Field(default=1024, ge=1, le=2**31 - 1)
    """gRPC calls of one connection under way at a time; a further one waits at the client."""
    max_header_kib: float = Field(default=16.0, ge=1, le=1024)
    """Largest size of a request's headers, all together; those of usual clients are below 1."""
    header_timeout_s: float = Field(default=10.0, gt=0)
    """Longest wait for a TLS handshake, and for a request's headers to come whole."""
    stall_timeout_s: float = Field(default=30.0, gt=0)
    """Longest wait for a body to grow, by a 64th where much is held, and for a client to take more of its answer."""
    idle_timeout_s: float = Field(default=300.0, gt=0)
    """Longest life of an HTTP connection without a request; gRPC clients are pinged instead."""
    max_held_mib: float = Field(default=512.0, gt=0)
    """Most that is held of bodies that have not come whole or are not parsed, decompressed if they are, of all clients
    together, over each transport; more is refused, to the connection, over HTTP the address, that holds the most."""

    def _contradictions(self) -> Iterator[str]:
        if self.idle_timeout_s < self.header_timeout_s:
            yield (
                f"idle_timeout_s {self.idle_timeout_s:g} is below header_timeout_s {self.header_timeout_s:g}, which a "
                "new connection has for its first request; raise it"
            )


class AuthSettings(Section):
    """Who may call the gateway."""

    tokens_file: Path
    """Tenants, digests of their tokens, and quotas; see docs/gateway.md#tokens-and-tenants. Read again when it
    changes."""
    open_health: bool = True
    """Whether health needs no token; load balancers rarely have one."""
    open_status: bool = True
    """Whether the status page needs no token; otherwise it needs that of a tenant with ``sees_status``. Health and
    metrics at its address never do: probes and Prometheus rarely have one."""


class PassthroughModelSettings(Section):
    """What a model that is passed through may take, where it is less than others may."""

    name: str = Field(min_length=1)
    """Its name in Triton."""
    timeout_s: float | None = Field(default=None, gt=0)
    """Instead of ``pass_on_timeout_s``, which None leaves in force."""
    max_calls: int | None = Field(default=None, ge=1)
    """Most calls under way in each gateway process; None: its share of ``pass_on_calls``."""


class TracingSettings(Section):
    """Spans of requests, sent to a collector of OpenTelemetry; needs the extra ``otel``."""

    endpoint: CollectorUrl = "http://127.0.0.1:4318/v1/traces"
    """Where spans go, by OTLP over HTTP."""
    sample_ratio: float = Field(default=0.01, ge=0, le=1)
    """Part of the requests without a trace context that are traced; of others their caller has decided."""
    service_name: str = Field(default="slim-scheduler-gateway", min_length=1)
    """What spans are called by in the collector."""


class PeerSettings(Section):
    """The other gateways over the same fleet: each Triton is then driven by one of them at a time."""

    listen: Address = "127.0.0.1:8083"
    """Where the others ask this gateway; what comes there needs no token, so only gateways may reach it. Worker N has
    the port N above it."""
    addresses: tuple[Address, ...] = Field(min_length=1)
    """Where all of them listen; each address of a host name, such as a headless service's, is a gateway. This one may
    be among them."""
    name: Name | None = None
    """What this gateway is called, which none of the others may be; None: what its host is called, in Kubernetes its
    pod."""


class GatewaySettings(Section):
    """The addresses of the gateway, and what it takes from a client."""

    grpc: Address | None = "127.0.0.1:8081"
    """KServe v2 over gRPC, ``host:port``; None: not offered. 8000 to 8002 are left to a Triton of the same machine."""
    http: Address | None = Field(default="127.0.0.1:8080", validate_default=True)
    """KServe v2 over HTTP, ``host:port``; None: not offered."""
    metrics: Address | None = Field(default="127.0.0.1:8082", validate_default=True)
    """Status page, health and Prometheus metrics, ``host:port``; None: not offered."""
    max_message_mib: float = Field(default=64.0, gt=0, le=2047)
    """A larger request is refused, before and after decompression; Triton's own bound over HTTP from 25.06 on."""
    tls: TlsSettings | None = None
    """Certificates of both transports; None: both are plain."""
    limits: ClientLimitSettings = ClientLimitSettings()
    auth: AuthSettings | None = None
    """Tokens of callers; None: whoever reaches the gateway may use it."""
    access_log: bool = False
    """Whether the log has a line for each inference that ends: request id, tenant, model, outcome, times, server, width
    and decision id. Some ten microseconds a request, and as much on disk as the log is kept."""
    tracing: TracingSettings | None = None
    """Spans of requests for OpenTelemetry; None: none are made."""
    pass_on_timeout_s: float | None = Field(default=300.0, gt=0)
    """How long the caller of a model that is forwarded waits for its answer, if its own deadline is not earlier: a
    server that hangs would keep it for ever. None: any time. Streams end with their clients."""
    pass_on_calls: int = Field(default=2048, ge=2)
    """Places for calls and streams of models that are forwarded, in each gateway process. A model may have as many as
    are left free: one alone half, two a third each."""
    pass_on_models: Annotated[tuple[PassthroughModelSettings, ...], Distinct(("name",))] = ()
    """Models that may take less."""
    stream_window: int = Field(default=256, ge=1)
    """Requests of one stream under way at a time; the stream is read no further until one of them is answered."""
    statistics_period_s: float = Field(default=10.0, gt=0)
    """Between two readings of the servers' statistics, so that little is lost to a reload that sets them back."""
    lame_duck_s: float = Field(default=0.0, ge=0)
    """How long a stopping gateway says that it is not ready and serves on as before, ahead of ``drain_s``: for load
    balancers that probe, and send new connections until then. 0 where clients are told by HTTP/2 itself."""
    drain_s: float = Field(default=20.0, ge=0)
    """How long a stopping gateway waits for what it has accepted, and for what it has sent; it ends within a second of
    that."""
    workers: int = Field(default=1, ge=1, le=256)
    """Processes that answer. More help only where cores are idle while one process is busy: Python runs on one core a
    process. Each Triton is driven by one of them, and what others get for it goes a hop, so one is best as long as it
    is enough."""
    nice: int | None = Field(default=-5, ge=-20, le=19)
    """Niceness of the event loops' threads, where it is allowed (root, CAP_SYS_NICE, ``Nice=`` of systemd) and the
    gateway was not started with another than 0. Every request waits for them, and other work on the machine would keep
    them from a core for longer than a deadline. None: as it was started."""
    peers: PeerSettings | None = None
    """Other gateways over the same fleet; None: there are none, and this one drives every Triton."""

    def _contradictions(self) -> Iterator[str]:
        if self.limits.max_held_mib < self.max_message_mib:
            yield (
                f"limits.max_held_mib {self.limits.max_held_mib:g} is below max_message_mib {self.max_message_mib:g}, "
                "so that the largest message could never come; raise it"
            )
        for model in self.pass_on_models:
            if model.max_calls is not None and model.max_calls > self.pass_on_calls // 2:
                yield (
                    f"pass_on_models[{model.name}].max_calls {model.max_calls} is above half of pass_on_calls "
                    f"{self.pass_on_calls}, which is the most that one model can have; lower it or raise pass_on_calls"
                )
        if self.grpc is None and self.http is None:
            yield "grpc and http are both null; give one of them an address"

    @field_validator("http", "metrics", "peers")
    @classmethod
    def _has_its_own_address(
        cls, value: Address | PeerSettings | None, info: ValidationInfo
    ) -> Address | PeerSettings | None:
        address = value.listen if isinstance(value, PeerSettings) else value
        if address is not None and address in (info.data.get(other) for other in ("grpc", "http", "metrics")):
            raise ValueError(f"the address {address} is used twice; grpc, http, metrics and peers need one each")
        return value
