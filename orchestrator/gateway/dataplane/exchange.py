"""One request of a family from its reading to its end: through this gateway's router, or through another gateway's.

Of several gateways that share a fleet, one that drives no server for a request passes it on, and does so too with what
its router gives back because the server has gone to another. What its router refuses for load is tried once at a peer
that has less to do: chance brings one gateway more than another within less time than servers move in.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Generic, Protocol, TypeVar

from orchestrator.errors import CapacityError, DeadlineError, ServerUnavailableError
from orchestrator.gateway.peers.forwarding import Forwarder, Passed
from orchestrator.gateway.protocol.family import FamilyModel, FamilyRequest, WantedOutputs, read_decision
from orchestrator.gateway.protocol.messages import Message
from orchestrator.gateway.statuses import outcome_of
from orchestrator.http2.flow import Buffer
from orchestrator.router import Answer, CallbackSink, Transit

ResponseT = TypeVar("ResponseT")

Decision = tuple[str, str, float | None]
"""What a request ran on: width, server, and seconds in the queue; empty and None when it ran on none."""


@dataclass(frozen=True, slots=True)
class Form(Generic[ResponseT]):
    """How one request is read, and its answer written.

    Attributes:
        read: Returns what a ModelInferRequest asks of a family.
        write: Returns the response to the request of an id, of an answer and the outputs that are wanted.
        relay: Returns the response that a peer has serialised.
        message: Returns the request, serialised, in parts.
    """

    read: Callable[[Message, FamilyModel], FamilyRequest]
    write: Callable[[str, FamilyModel, Answer, WantedOutputs], ResponseT]
    relay: Callable[[bytes], ResponseT]
    message: Callable[[], Sequence[Buffer]]


class Note(Protocol):
    """Counts and times how a request ended, in a word of ``statuses``."""

    def __call__(self, outcome: str, decision: Decision = ("", "", None), answer: Answer | None = None) -> None:
        """Do so, once; the answer is that of this gateway's own router."""


@dataclass(slots=True, eq=False)
class Exchange(Generic[ResponseT]):
    """A request that was read; ``begin`` it, and ``cancel`` it when its caller gives up.

    Attributes:
        wanted: What it asks of the family.
        form: How its answer is written.
        transit: What of its time passes outside the router.
        submit: Gives it to the router; raises SlimError.
        forwarder: What passes it on to other gateways; None where that must not be.
        note: Called once with how it ended.
        callback: Called once with the response, or with the error; not when it is cancelled, or ``begin`` raises.
    """

    family: FamilyModel
    wanted: FamilyRequest
    form: Form[ResponseT]
    transit: Transit
    submit: Callable[[FamilyRequest, FamilyModel, CallbackSink, Transit], None]
    forwarder: Forwarder | None
    note: Note
    callback: Callable[[ResponseT | Exception], None]
    _hop: asyncio.Task[None] | None = field(default=None, init=False)
    _sink: CallbackSink | None = field(init=False)
    """None once it has ended, so that nothing is a cycle."""

    def __post_init__(self) -> None:
        self._sink = CallbackSink(self._finish)

    def begin(self) -> None:
        """Have it answered here or elsewhere; raises SlimError, and calls nothing back then."""
        forwarder = self.forwarder
        try:
            if forwarder is not None:
                forwarder.sharing.count(self.wanted.options, self.wanted.items)
            if forwarder is not None and not forwarder.sharing.is_local(self.wanted.options):
                self._pass_on(forwarder)
            else:
                self._give_to_router()
        except BaseException:
            self._sink = None
            raise

    def cancel(self) -> None:
        """Withdraw it, unless it has ended."""
        sink, self._sink = self._sink, None
        if sink is not None:
            sink.cancel()
            if self._hop is not None:
                self._hop.cancel()
            self.note("cancelled")

    def _give_to_router(self) -> None:
        assert self._sink is not None
        self.submit(self.wanted, self.family, self._sink, self.transit)

    def _finish(self, outcome: Answer | Exception) -> None:
        self._sink = None
        if isinstance(outcome, Exception):
            if self.forwarder is None or self._hop is not None or not self._goes_on(self.forwarder, outcome):
                self.note(outcome_of(outcome), _decision_of(outcome))
                self.callback(outcome)
            return
        try:
            self.callback(self.form.write(self.wanted.id, self.family, outcome, self.wanted.outputs))
            self.note("ok", (str(outcome.width), outcome.server, outcome.queue_s), outcome)
        except Exception as exc:  # a bug of ours, and the client learns that it is one
            self.note(outcome_of(exc))
            self.callback(exc)

    def _goes_on(self, forwarder: Forwarder, error: Exception) -> bool:
        """Return whether what the router has refused is passed on; it was certainly not run."""
        options = self.wanted.options
        was_not_run = isinstance(error, ServerUnavailableError) and not error.executed
        if was_not_run and not forwarder.sharing.is_local(options):
            self._sink = CallbackSink(self._finish)
            self._pass_on(forwarder)
            return True
        was_load = isinstance(error, CapacityError)
        link = forwarder.sharing.choose_relief(options, was_load=was_load) if was_not_run or was_load else None
        if link is None:
            return False
        self._sink = CallbackSink(self._finish)
        relay = self._relay(partial(forwarder.relieve, link), error)
        self._hop = asyncio.create_task(relay, name="passing a request on")
        return True

    def _pass_on(self, forwarder: Forwarder) -> None:
        self._hop = asyncio.create_task(self._relay(forwarder.ask, None), name="passing a request on")

    # A cancel ends this task at its one await, so that it goes on only while nothing else has ended the request.
    async def _relay(self, ask: Callable[[Passed], Awaitable[bytes | None]], refusal: Exception | None) -> None:
        wanted, transit = self.wanted, self.transit
        elapsed_s = transit.return_s + asyncio.get_running_loop().time() - transit.arrived_s
        try:
            passed = Passed(self.form.message(), wanted.options, wanted.items, elapsed_s, transit.trace)
            answer = await ask(passed)
            if answer is None and refusal is not None:
                raise refusal
            if answer is None:
                self._give_to_router()
                return
            decision, response = read_decision(answer), self.form.relay(answer)
        except Exception as exc:
            self._finish(exc if refusal is None else refusal)
            return
        self._sink = None
        self.note("ok", decision)
        self.callback(response)


def _decision_of(error: Exception) -> Decision:
    """Return where a request that failed was sent: of one that is late that is known."""
    if not isinstance(error, DeadlineError) or error.sent_to is None:
        return "", "", None
    server, width = error.sent_to
    return str(width), server, None
