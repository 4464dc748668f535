"""Golden probes: every (server, width) in use is asked the same item now and then; who answers it wrong is taken out.

A width that has answered callers since it was last asked is asked once a period: that it answered says nothing, because
wrong answers look fine. What nobody uses is left alone, so that a controller sees that it is idle, and so that a busy
server is not kept by a wide width from what it answers instead. It is asked within a period after its next use. Once a
server has answered one width wrong, it is asked for all of them.

One item, a width at a time on each server, at a moment when the server has nothing to do if one comes within half of
its turn. A probe counts in its server's load while it runs, so that nobody is sent behind it who has less time. Servers
take their turns one after another, so that not all of them run the same width at once.

A server can say that it is ready, answer in time, and answer wrong: a file that was damaged or mixed up, a device that
computes nonsense. Nothing that is measured shows it, so its answer is held against those of the other servers that
serve the same file (``slim.sha256``) and are asked the same item, which two families of one file need not be:

- What more than half of them answer, and at least two, is the reference.
- Without such a majority an older reference stands: one that a majority gave, or that a server alone gave twice.
- A server alone gives the reference by its first answer after the load.
- Where two that were never asked before contradict each other nobody can say who is wrong; that is logged, and both
  stay.

An answer of the wrong shape, or one that is not finite, is wrong whatever the others say. Models without a hash are
only held against that, because two of them need not be the same network. Each output is compared by itself, and only
those of floating-point numbers: whole numbers and texts are mostly picked, and sound servers whose scores differ in
their last digits may pick differently.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from orchestrator.config import ProbeSettings
from orchestrator.errors import SlimError, WrongAnswerError
from orchestrator.router.observer import RouterObserver
from orchestrator.router.queue.request import Array
from orchestrator.router.servers.connection import ServerConnection
from orchestrator.router.servers.watch import trial_sizes
from orchestrator.snapshot import BatchInFlight, ServedModel, ServerName, TensorSpec
from orchestrator.triton.infer_wire import Tensors
from orchestrator.triton.trial_items import golden_batch

log = logging.getLogger(__name__)

_WRONG = "wrong answer to the golden probe"
_UNLIKE_ANY = "an answer that no network gives"
_UNREADABLE: Tensors = ()
"""What stands for an answer that can't be read; it has no outputs."""

Scores = tuple[float, ...]

_Question = tuple[Hashable, ...]

_LOOK_S = 0.005  # between two looks for a quiet moment
_SWITCHED_OFF_S = 1.0  # between two looks whether probing has been switched on


@dataclass(frozen=True, slots=True)
class ReferenceConsensus:
    """The answers of servers that serve one file; each method returns the next state.

    Attributes:
        answers: The last answer of each server; None for one that no network gives.
        reference: The right answer, as far as it is known.
        is_settled: Whether the reference outlives a contradiction.
    """

    answers: Mapping[ServerName, Scores | None] = field(default_factory=dict)
    reference: Scores | None = None
    is_settled: bool = False

    def after_answer(
        self, server: ServerName, scores: Scores | None, tolerance: float, *, is_alone: bool
    ) -> ReferenceConsensus:
        """Return the consensus after a server's answer, with the reference that follows.

        ``is_alone`` is whether no other server that may be sent requests serves the file, answered or not.
        """
        is_repeated = is_alone and self.answers.get(server) is not None
        after = replace(self, answers={**self.answers, server: scores})
        return after._settle(tolerance, is_repeated=is_repeated)

    def without(self, servers: Iterable[ServerName]) -> ReferenceConsensus:
        """Return the consensus without servers that no longer serve the file; the reference stays."""
        gone = set(servers)
        return replace(self, answers={name: scores for name, scores in self.answers.items() if name not in gone})

    def wrong(self, tolerance: float) -> frozenset[ServerName]:
        """Return the servers whose last answer is wrong."""
        return frozenset(
            name
            for name, scores in self.answers.items()
            if scores is None or (self.reference is not None and not agree(scores, self.reference, tolerance))
        )

    @property
    def is_disputed(self) -> bool:
        """Whether servers contradict each other and nobody can say who is wrong."""
        return self.reference is None and sum(scores is not None for scores in self.answers.values()) > 1

    def _settle(self, tolerance: float, *, is_repeated: bool) -> ReferenceConsensus:
        answers = [scores for _, scores in sorted(self.answers.items()) if scores is not None]
        if not answers:
            return self
        agreeing = [sum(agree(scores, other, tolerance) for other in answers) for scores in answers]
        most = max(agreeing)
        if most >= 2 and most > len(answers) / 2:
            if self.reference is not None and sum(agree(s, self.reference, tolerance) for s in answers) == most:
                return replace(self, is_settled=True)
            return replace(self, reference=answers[agreeing.index(most)], is_settled=True)
        if self.is_settled:
            return self
        if len(answers) > 1:
            return replace(self, reference=None)
        if self.reference is None or not agree(answers[0], self.reference, tolerance):
            return replace(self, reference=answers[0])
        return replace(self, is_settled=is_repeated)


def agree(scores: Scores, reference: Scores, tolerance: float) -> bool:
    """Return whether no score is off by more than ``tolerance`` times the largest score of the two."""
    if len(scores) != len(reference):
        return False
    largest = max((abs(score) for score in (*scores, *reference)), default=0.0)
    return all(abs(one - other) <= tolerance * largest for one, other in zip(scores, reference, strict=True))


def read_answer(output: Array, spec: TensorSpec) -> Scores | None:
    """Return the scores of the first item of an output; None when any item has none that a network gives."""
    expected = math.prod(spec.shape) if all(side > 0 for side in spec.shape) else output[:1].size
    rows = [read_scores(row.ravel(), expected) for row in output]
    return rows[0] if rows and all(row is not None for row in rows) else None


def read_scores(values: Iterable[float], expected: int) -> Scores | None:
    """Return the scores of one item; None when they are not ``expected`` finite numbers."""
    scores = tuple(float(value) for value in values)
    return scores if len(scores) == expected and all(map(math.isfinite, scores)) else None


async def _serves_another(server: ServerConnection, model: ServedModel) -> bool:
    """Ask a server whether it serves a model no more, or another export of it."""
    try:
        served = await server.client.served_models()
    except (SlimError, TimeoutError):
        return False
    return not any((other.name, other.sha256) == (model.name, model.sha256) for other in served)


class Prober:
    """Asks golden probes, and keeps what the servers, which ``servers`` returns as they are now, have answered.

    ``changed`` is called whenever a probe has left room on a server.
    """

    def __init__(
        self,
        servers: Callable[[], Iterable[ServerConnection]],
        observer: RouterObserver,
        changed: Callable[[], None],
    ) -> None:
        self._servers = servers
        self._observer = observer
        self._changed = changed
        self._consensus: dict[tuple[_Question, str], ReferenceConsensus] = {}  # by question and output
        self._logged_disputes: set[_Question] = set()

    async def run(self, settings: Callable[[], ProbeSettings | None]) -> None:
        """Probe all servers for ever, while the settings ask for it."""
        while True:
            now = settings()
            if now is None:
                await asyncio.sleep(_SWITCHED_OFF_S)
            else:
                await asyncio.sleep(now.period_s / 2)  # what is new has just been asked
                servers = list(self._servers())
                parts = [index / len(servers) for index in range(len(servers))]
                await asyncio.gather(*(self._probe(*one, now) for one in zip(servers, parts, strict=True)))

    async def _probe(self, server: ServerConnection, part: float, settings: ProbeSettings) -> None:
        """Ask one server for all its widths, spread over half a period, from a part of a turn on; never raises."""
        models = server.models
        turn_s = settings.period_s / 2 / (len(models) + 1)
        loop = asyncio.get_running_loop()
        await asyncio.sleep(part * turn_s)
        for model in models:
            ends_s = loop.time() + turn_s
            while server.in_flight and server.health.was_used(model.name) and loop.time() < ends_s - turn_s / 2:
                await asyncio.sleep(_LOOK_S)
            is_due = server.health.was_used(model.name) and model in server.models
            if is_due and server.is_driven and server.is_usable and not server.health.is_suspect:
                await self.ask(server, model)
            await asyncio.sleep(max(0.0, ends_s - loop.time()))

    async def ask(self, server: ServerConnection, model: ServedModel) -> None:
        """Ask one model the golden probe now, and take out whoever turns out to be wrong; never raises."""
        golden, settings = golden_batch(model, 1), server.settings.probes
        if golden is None or settings is None:
            return
        probe = BatchInFlight(model.name, 1, asyncio.get_running_loop().time())
        server.in_flight.append(probe)
        try:
            answer = await server.infer(model, golden)
        except WrongAnswerError as exc:
            log.warning("%s: %s", server.name, exc)
            answer = _UNREADABLE
        except (SlimError, TimeoutError) as exc:
            log.debug("probe of %s on %s: %s", model.name, server.name, exc)
            return
        finally:
            server.release(probe)
            self._changed()
        server.health.probed_s[model.name] = probe.sent_s
        await self._check(server, model, answer, settings)

    async def verify(self, server: ServerConnection, model: ServedModel) -> dict[int, float]:
        """Ask a model that is tried the golden probe, alone and in a batch; return the seconds that it took by items.

        Raises:
            WrongAnswerError: An answer is wrong.
            SlimError, TimeoutError: As ServerConnection.infer.
        """
        clock, took_s = asyncio.get_running_loop().time, dict[int, float]()
        for items in trial_sizes(model):
            golden, settings = golden_batch(model, items), server.settings.probes
            if golden is None or settings is None:
                break
            began_s = clock()
            answer = await server.infer(model, golden)
            took_s[items] = clock() - began_s
            problem = await self._check(server, model, answer, settings)
            if problem is not None:
                raise WrongAnswerError(problem)
        return took_s

    async def _check(
        self, server: ServerConnection, model: ServedModel, answer: Tensors, settings: ProbeSettings
    ) -> str | None:
        """Take in an answer to the golden probe; return what is wrong with it, None when nothing is known to be.

        By it any server, the one that answered included, may turn out to be wrong, and is taken out. One that serves
        another export by now than was known is right, and its answer is of no use.
        """
        if not answer:
            answer = tuple(np.empty((0, 0), np.float32) for _ in model.outputs)
        read = [
            (spec, read_answer(output, spec))
            for spec, output in zip(model.outputs, answer, strict=True)
            if output.dtype.kind == "f"
        ]
        judged = [self._judge(server, model, spec, scores, settings) for spec, scores in read]
        is_wrong = any(server.name in each.wrong(settings.tolerance) for each in judged)
        if is_wrong and await _serves_another(server, model):
            server.check_soon.set()
            return None
        question, problems = _question_of(server, model), list[str]()
        for spec, scores in read:
            consensus = self._judge(server, model, spec, scores, settings)  # anew: others may have answered meanwhile
            self._consensus[question, spec.name] = consensus
            self._log_dispute(question, consensus, model)
            wrong = consensus.wrong(settings.tolerance)
            for other in [server for server in self._servers() if server.name in wrong]:
                self._take_out(other, question)
            if server.name in wrong:
                problems.append(_WRONG if scores is not None else _UNLIKE_ANY)
        return problems[0] if problems else None

    def _judge(
        self,
        server: ServerConnection,
        model: ServedModel,
        spec: TensorSpec,
        scores: Scores | None,
        settings: ProbeSettings,
    ) -> ReferenceConsensus:
        """Return what is known of an output's answers after another one."""
        question = _question_of(server, model)

        def is_asked(other: ServerConnection, models: Iterable[ServedModel]) -> bool:
            return any(m.sha256 == model.sha256 and _question_of(other, m) == question for m in models)

        serving = {other.name for other in self._servers() if is_asked(other, other.served)}
        consensus = self._consensus.get((question, spec.name), ReferenceConsensus())
        consensus = consensus.without(consensus.answers.keys() - serving)
        is_alone = not any(
            other is not server and other.health.is_healthy and is_asked(other, other.models)
            for other in self._servers()
        )
        consensus = consensus.after_answer(server.name, scores, settings.tolerance, is_alone=is_alone)
        return ReferenceConsensus(consensus.answers) if model.sha256 is None else consensus

    def _take_out(self, server: ServerConnection, question: _Question) -> None:
        for model in server.models:
            if _question_of(server, model) == question:
                log.warning(
                    "model %s on %s answers the golden probe wrong and is out until it answers right; compare the "
                    "file with its slim.sha256, and restart that Triton where they agree",
                    model.name,
                    server.name,
                )
                self._observer.on_wrong_answer(server.name, model.width)
                server.health.back_off(model.name, now_s=asyncio.get_running_loop().time())
                server.health.probed_s.clear()
                server.check_soon.set()

    def _log_dispute(self, key: _Question, consensus: ReferenceConsensus, model: ServedModel) -> None:
        """Log once that servers contradict each other."""
        if not consensus.is_disputed:
            self._logged_disputes.discard(key)
        elif key not in self._logged_disputes:
            self._logged_disputes.add(key)
            log.warning(
                "servers %s answer the golden probe of %s differently though they name the same file; a third would "
                "show who is wrong",
                ", ".join(sorted(consensus.answers)),
                model.name,
            )


def _question_of(server: ServerConnection, model: ServedModel) -> _Question:
    """Return what has one right answer: weights, by server and model where they have no hash, and the item asked."""
    weights = model.sha256 or f"{server.name}/{model.name}"
    return weights, tuple(spec.shape for spec in model.inputs), model.usual_item, model.fills
