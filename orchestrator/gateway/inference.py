"""Inferences of families: from a request that was read, through the router, to an answer that is counted.

Two ways lead through it. gRPC's single calls are most of the traffic, so they are begun where they come and answered
where the router answers them, in bytes, without a task. HTTP and streams await ``infer`` and get a message.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from orchestrator.errors import ConfigError, ServerUnavailableError
from orchestrator.gateway.auth.callers import Caller, Guard, Ticket
from orchestrator.gateway.metrics.gateway_metrics import GatewayMetrics
from orchestrator.gateway.metrics.outcomes import outcome_of
from orchestrator.gateway.ports import InferenceRouter, RoutedAnswer
from orchestrator.gateway.protocol.family import (
    FamilyModel,
    FamilyRequest,
    build_response,
    read_request,
    require_version,
)
from orchestrator.gateway.protocol.family_requests import FamilyRequests
from orchestrator.gateway.protocol.family_responses import FamilyResponses
from orchestrator.gateway.protocol.messages import Message
from orchestrator.http2.grpc.unary_call import Answerer
from orchestrator.router import Answer, Reply


class FamilyInference:
    """Answers inferences of families.

    Args:
        router: that runs them.
        metrics: to count in.
        guard: that says what a caller may.
        require_open: raises when no more requests are taken.
    """

    def __init__(
        self, router: InferenceRouter, metrics: GatewayMetrics, guard: Guard, require_open: Callable[[], None]
    ) -> None:
        self._router = router
        self._metrics = metrics
        self._guard = guard
        self._require_open = require_open
        self._requests = FamilyRequests()
        self._responses = FamilyResponses()

    async def infer(self, family: FamilyModel, request: Message, caller: Caller) -> Message:
        """Return the ModelInferResponse to a ModelInferRequest.

        Raises:
            SlimError: why there is none.
        """
        self._metrics.begin()
        began_s = time.perf_counter()
        outcome, answer = "ok", None
        try:
            self._require_open()
            require_version(family, request.model_version)
            wanted = read_request(request, family)
            self._check(wanted, caller)
            try:
                answer = await self._router.infer(wanted.batch, **_wishes_of(wanted, family))
            except ConfigError as exc:
                raise self._judge(exc, family) from exc
            return build_response(wanted.id, family, answer, wanted.classes)
        except BaseException as exc:
            outcome = outcome_of(exc)
            raise
        finally:
            self._note(family, outcome, answer, caller, began_s)

    def find(self, message: bytes, families: Mapping[str, FamilyModel]) -> tuple[FamilyModel, FamilyRequest] | None:
        """See FamilyRequests."""
        return self._requests.find(message, families)

    def begin(
        self,
        family: FamilyModel,
        asked: FamilyRequest | bytes,
        caller: Caller,
        ticket: Ticket,
        call: Answerer,
    ) -> None:
        """Take a call that asks for a family, and answer it when the router does.

        Args:
            family: in question.
            asked: a ModelInferRequest, serialised or as ``find`` found it.
            caller: that makes the call.
            ticket: to be closed when it has ended, unless this raises.
            call: to be answered.

        Raises:
            SlimError: why it is not taken.
        """
        self._metrics.begin()
        began_s = time.perf_counter()
        try:
            self._require_open()
            wanted = self._requests.read(asked, family) if isinstance(asked, bytes) else asked
            self._check(wanted, caller)
        except BaseException as exc:
            self._note(family, outcome_of(exc), None, caller, began_s)
            raise

        def end(outcome: str, answer: RoutedAnswer | None = None) -> None:
            ticket.close()
            self._note(family, outcome, answer, caller, began_s)

        def tell(told: Answer | Exception) -> None:
            if isinstance(told, Exception):
                end(outcome_of(told))
                call.refuse(told)
                return
            try:
                call.answer(self._responses.render(wanted.id, family, told, wanted.classes))
                end("ok", told)
            except Exception as exc:  # a bug of ours, which the client is told as such
                end(outcome_of(exc))
                call.refuse(exc)

        def abort() -> None:
            reply.cancel()
            end("cancelled")

        reply = Reply(tell)
        call.on_abort = abort
        try:
            self._router.submit(wanted.batch, reply, **_wishes_of(wanted, family))
        except ConfigError as exc:
            judged = self._judge(exc, family)
            self._note(family, outcome_of(judged), None, caller, began_s)
            raise judged from exc
        except BaseException as exc:
            self._note(family, outcome_of(exc), None, caller, began_s)
            raise

    def _check(self, wanted: FamilyRequest, caller: Caller) -> None:
        """Raise what a caller may not ask for."""
        self._guard.require_priority(caller, wanted.wishes.priority)
        self._guard.charge_items(caller, len(wanted.batch))

    def _judge(self, error: ConfigError, family: FamilyModel) -> ConfigError | ServerUnavailableError:
        """Return what a client is told in place of what the router refuses."""
        try:
            self._router.models(family.name)
        except ConfigError:  # not the client's fault: the family is known but has left all servers
            return ServerUnavailableError(f"family '{family.name}' is on no server now", executed=False)
        return error

    def _note(
        self, family: FamilyModel, outcome: str, answer: RoutedAnswer | None, caller: Caller, began_s: float
    ) -> None:
        self._metrics.end()
        self._metrics.time(
            family.name,
            outcome,
            tenant=caller.tenant,
            width="" if answer is None else str(answer.width),
            server="" if answer is None else answer.server,
            latency_s=time.perf_counter() - began_s,
            queue_s=None if answer is None else answer.queue_s,
        )


def _wishes_of(wanted: FamilyRequest, family: FamilyModel) -> dict[str, Any]:
    wishes = wanted.wishes
    return {
        "deadline_ms": wishes.deadline_ms,
        "min_accuracy": wishes.min_accuracy,
        "width": wishes.width,
        "family": family.name,
        "priority": wishes.priority,
        "max_joules": wishes.max_joules,
        "preference": wishes.preference,
    }
