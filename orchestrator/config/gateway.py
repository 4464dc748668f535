"""The gateway's section of fleet.yaml."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, field_validator, model_validator

from orchestrator.config.section import ADDRESS, Section, check_port


class AuthSettings(Section):
    """Who may call."""

    tokens_file: Path
    """Tenants, digests of their tokens, and quotas; see orchestrator.config.tenants. Read again when it changes."""
    open_health: bool = True
    """Whether health needs no token; load balancers rarely have one."""


class GatewaySettings(Section):
    """Where the gateway listens and what it takes from a client."""

    grpc: str | None = Field(default="127.0.0.1:8081", pattern=ADDRESS)
    """KServe v2 over gRPC, ``host:port``; None: not offered. 8000 to 8002 are left to a Triton of the same machine."""
    http: str | None = Field(default="127.0.0.1:8080", pattern=ADDRESS)
    """KServe v2 over HTTP, ``host:port``; None: not offered."""
    metrics: str | None = Field(default="127.0.0.1:8082", pattern=ADDRESS)
    """Prometheus metrics, ``host:port``; None: not offered."""
    max_message_mib: float = Field(default=64.0, gt=0, le=2047)
    """A larger request is refused, before and after decompression; Triton's own bound over HTTP from 25.06 on."""
    auth: AuthSettings | None = None
    """None: whoever reaches the gateway may use it."""
    stream_window: int = Field(default=256, ge=1)
    """Requests of one stream under way at a time; the stream is read no further until one of them is answered."""
    statistics_period_s: float = Field(default=10.0, gt=0)
    """Between two readings of the servers' statistics, so that little is lost to a reload that sets them back."""
    drain_s: float = Field(default=20.0, ge=0)
    """How long a stopping gateway waits for what it has accepted."""
    workers: int = Field(default=1, ge=1, le=256)
    """Processes that answer. One core's worth of Python is enough for some two thousand requests a second; more help
    only where cores are idle while one process is busy, and each has a router that knows only its own requests."""

    @field_validator("grpc", "http", "metrics")
    @classmethod
    def _port_is_one(cls, address: str | None) -> str | None:
        return check_port(address)

    @model_validator(mode="after")
    def _listens_somewhere(self) -> GatewaySettings:
        if self.grpc is None and self.http is None:
            raise ValueError("grpc and http are both null; give one of them an address")
        given = [address for address in (self.grpc, self.http, self.metrics) if address is not None]
        for address in given:
            if given.count(address) > 1:
                raise ValueError(f"the address {address} is used twice; grpc, http and metrics need one each")
        return self
