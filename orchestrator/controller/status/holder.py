"""Keeps and answers for who drives the Triton of one controller; the rules are orchestrator.ownership.record.

Gateways of other machines ask, so requests are not bound to this machine as demands are. Who may ask is who may call
Triton: where that is restricted by a protocol key, a claim carries the same header as a call. Web pages are refused,
because a browser inside the network would let anyone speak.

The record is kept in memory, and asked for in the endpoint's threads: a renewal that waited for the controller's loop,
or for a disk, could come too late.
"""

from __future__ import annotations

import hmac
import math
import threading
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Any, Literal
from wsgiref.types import WSGIEnvironment

from pydantic import BaseModel, ConfigDict, Field, model_validator

from orchestrator.config.section import Name
from orchestrator.ownership import GatewayName, Holding

Reply = tuple[HTTPStatus, dict[str, Any]]


class HolderRequest(BaseModel):
    """What a gateway asks for; ``term`` and ``successor`` are as in ``Holding``."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    ask: Literal["claim", "renew", "release"]
    gateway: Name = Field(max_length=253)
    term: int | None = Field(default=None, ge=1)
    successor: Name | None = Field(default=None, max_length=253)

    @model_validator(mode="after")
    def _says_what_it_has_to(self) -> HolderRequest:
        if (self.term is None) != (self.ask == "claim"):
            raise ValueError(
                "to renew and release give the 'term' that the claim was answered with; to claim give none"
            )
        if self.successor is not None and self.ask != "release":
            raise ValueError("only a release has a successor; leave it out")
        return self


class HolderKeeper:
    """The record of who drives one Triton; may be used by any thread.

    Args:
        clock: The time in seconds, which never goes back.
        first_term: See ``Holding``; such as the time of day in seconds.
        headers: The headers that whoever asks must send, by name; empty where anyone may ask.
    """

    def __init__(self, clock: Callable[[], float], *, first_term: int, headers: Mapping[str, str]) -> None:
        self._clock = clock
        self._headers = {f"HTTP_{name.upper().replace('-', '_')}": value for name, value in headers.items()}
        self._lock = threading.Lock()
        self._holding = Holding(clock(), first_term)

    def begin(self) -> None:
        """Note that the address was had just now, until when an earlier keeper may have granted claims there."""
        self._holding = Holding(self._clock(), self._holding.first_term)

    def trouble(self, environ: WSGIEnvironment) -> str | None:
        """Return why a request is not taken, by its headers; None when it is."""
        if "HTTP_ORIGIN" in environ:
            return "holders are not taken from web pages; send the request without 'Origin'"
        for name, value in self._headers.items():
            if not hmac.compare_digest(environ.get(name, "").encode(), value.encode()):
                return "the protocol key of this Triton is missing or wrong; send its header as with a call"
        return None

    def show(self) -> Reply:
        """Return who holds the Triton now, with the seconds that this lasts unless it is renewed."""
        with self._lock:
            return HTTPStatus.OK, _describe(self._holding, self._clock())

    def answer(self, request: HolderRequest) -> Reply:
        """Return the holder after a request, with status 409 where it is not granted."""
        gateway = GatewayName(request.gateway)
        successor = None if request.successor is None else GatewayName(request.successor)
        with self._lock:
            now_s = self._clock()
            if request.term is None:
                granted = self._holding.claim(gateway, now_s=now_s)
            elif request.ask == "renew":
                granted = self._holding.renew(gateway, request.term, now_s=now_s)
            else:
                granted = self._holding.release(gateway, request.term, successor, now_s=now_s)
            self._holding = granted or self._holding
            told = _describe(self._holding, now_s)
        if granted is not None:
            return HTTPStatus.OK, told
        holder = told["holder"] or "nobody yet"
        remedy = f"claim it again in {told['wait_s']:g} s"
        return HTTPStatus.CONFLICT, {
            "error": f"{request.ask} is not granted, {holder} has the Triton; {remedy}",
            **told,
        }


def _describe(holding: Holding, now_s: float) -> dict[str, Any]:
    """Return the holder, None when nobody is known to be, its term, and for how long nobody else gets the Triton."""
    held = holding.held(now_s=now_s)
    wait_s = math.ceil(1e3 * holding.wait_s(now_s=now_s)) / 1e3
    return {"holder": held and held.holder, "term": held and held.term, "wait_s": wait_s}
