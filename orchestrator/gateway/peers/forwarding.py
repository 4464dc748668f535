"""A request that this gateway has no server for goes one hop: to a peer that drives one, and from there no further.

It goes as it came, over KServe v2, but for its deadline, of which less is left. A second value of a parameter in one
message takes the place of the first, so nothing of the message is parsed or copied for it. Against loops there is the
address: peers listen at one of their own, and what comes there is answered or refused, never passed on.

Families are pure functions, so what a peer has not answered, because it died, is asked of another.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from orchestrator.errors import CapacityError, ConnectionLostError, DeadlineError, TransientError
from orchestrator.gateway.peers.links import PeerLink
from orchestrator.gateway.peers.sharing import Sharing
from orchestrator.gateway.protocol.messages import pb, serialise
from orchestrator.gateway.tracing import hop_noted
from orchestrator.http2.flow import Buffer
from orchestrator.request_options import RequestOptions
from orchestrator.router import Trace

log = logging.getLogger(__name__)

_ATTEMPTS: Final = 4
_LOOK_S: Final = 0.02
"""Between two looks at who drives what, while nobody does."""
_MOST_WAITING: Final = 1024
_COARSE_MS: Final = 20.0
"""Deadlines above are passed on in whole milliseconds: the peer keeps the forms of requests that it has seen."""


@dataclass(frozen=True, slots=True)
class Passed:
    """A request that is passed on.

    Attributes:
        message: The ModelInferRequest, serialised, in parts.
        options: What it asks for; of its deadline ``elapsed_s`` have passed, seconds.
        items: How many it has.
        elapsed_s: See ``options``; what the way back takes counts as passed.
        trace: What each hop is noted in, and peers are told; None: there is none.
    """

    message: Sequence[Buffer]
    options: RequestOptions
    items: int
    elapsed_s: float
    trace: Trace | None


class Forwarder:
    """Passes requests on to the peers of one gateway.

    Args:
        timeout_s: How long a request without a deadline may take.
        on_hop: Called for each request that goes to a peer.

    Attributes:
        sharing: What knows who has a server for a request.
    """

    def __init__(self, sharing: Sharing, *, timeout_s: float, on_hop: Callable[[], None] = lambda: None) -> None:
        self.sharing = sharing
        self._timeout_s = timeout_s
        self._on_hop = on_hop
        self._waiting = 0

    async def ask(self, passed: Passed) -> bytes | None:
        """Return a peer's answer to a request; None where this gateway's router is to have it, now or to refuse it.

        While a server goes from one gateway to another nobody drives it, and the request waits.

        Raises:
            SlimError: The peer refused it, it is too late, or peer after peer failed.
        """
        clock, options = asyncio.get_running_loop().time, passed.options
        until_s = clock() + self._left_s(passed)
        tried: list[PeerLink] = []
        attempts = 0
        while not self.sharing.is_local(options):
            link = self.sharing.choose(options, tried)
            if link is None:
                tried.clear()
                if until_s - clock() <= _LOOK_S or self._waiting >= _MOST_WAITING:
                    return None
                await self._wait()
                continue
            tried.append(link)
            attempts += 1
            try:
                return await self._pass_on(link, passed, until_s)
            except CapacityError:  # chance may have brought it much; another is tried once
                if attempts > 1 or self.sharing.choose(options, tried) is None:
                    raise
            except DeadlineError:
                raise
            except TransientError as exc:
                if attempts == _ATTEMPTS:
                    raise
                log.debug("%s, and is asked of another", exc)
                if isinstance(exc, ConnectionLostError) or not exc.executed:
                    link.note_failure()
        return None

    async def relieve(self, link: PeerLink, passed: Passed) -> bytes | None:
        """Return the peer's answer to a request; None where its time is over.

        Raises what ``ask`` does; the peer decides by what it has by then.
        """
        left_s = self._left_s(passed)
        if left_s <= 0:
            return None
        return await self._pass_on(link, passed, asyncio.get_running_loop().time() + left_s)

    def _left_s(self, passed: Passed) -> float:
        deadline_ms = passed.options.deadline_ms
        given_s = math.inf if deadline_ms is None else deadline_ms / 1e3
        return min(given_s - passed.elapsed_s, self._timeout_s)

    async def _pass_on(self, link: PeerLink, passed: Passed, until_s: float) -> bytes:
        self._on_hop()
        left_s = until_s - asyncio.get_running_loop().time()
        has_deadline = passed.options.deadline_ms is not None
        parts = (*passed.message, _deadline(left_s * 1e3)) if has_deadline else passed.message
        try:
            with hop_noted(passed.trace, link.address) as context:
                async with asyncio.timeout(left_s):
                    return await link.infer(parts, context, items=passed.items)
        except TimeoutError:
            raise DeadlineError(f"no answer within its deadline from gateway {link.address}") from None

    async def _wait(self) -> None:
        self._waiting += 1
        try:
            await asyncio.sleep(_LOOK_S)
        finally:
            self._waiting -= 1


def _deadline(left_ms: float) -> bytes:
    """Return a part of a ModelInferRequest that replaces its deadline."""
    left_ms = max(0.0, left_ms)
    request = pb.ModelInferRequest()
    request.parameters["slim_deadline_ms"].double_param = math.floor(left_ms) if left_ms > _COARSE_MS else left_ms
    return serialise(request)
