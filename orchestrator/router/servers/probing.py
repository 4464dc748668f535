"""Golden probes: every (server, width) is asked the same item now and then, and who answers it wrong is taken out.

One item a width and period, a width at a time on each server, at a moment when the server has nothing to do if one
comes within half of its turn, and else all the same: that a width was answered recently says nothing, because wrong
answers look fine. What is wrong is decided by orchestrator.router.servers.reference_consensus.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable, Iterable

from orchestrator.config import ProbeSettings
from orchestrator.errors import SlimError, WrongAnswerError
from orchestrator.router.observer import RouterObserver
from orchestrator.router.queue.request import Array, golden_batch
from orchestrator.router.servers.connection import ServerConnection
from orchestrator.router.servers.reference_consensus import ReferenceConsensus, read_scores
from orchestrator.router.servers.watch import trial_sizes
from orchestrator.snapshot import ServedModel

log = logging.getLogger(__name__)

_LOOK_S = 0.005  # between two looks for a quiet moment
_SWITCHED_OFF_S = 1.0  # between two looks whether probing has been switched on


class Prober:
    """Asks golden probes, and keeps what the servers, which ``servers`` returns as they are now, have answered."""

    def __init__(self, servers: Callable[[], Iterable[ServerConnection]], observer: RouterObserver) -> None:
        self._servers = servers
        self._observer = observer
        self._consensus: dict[str, ReferenceConsensus] = {}
        self._logged_disputes: set[str] = set()

    async def run(self, settings: Callable[[], ProbeSettings | None]) -> None:
        """Probe for ever."""
        while True:
            now = settings()
            if now is None:
                await asyncio.sleep(_SWITCHED_OFF_S)
            else:
                await asyncio.sleep(now.period_s / 2)  # what is new has just been asked
                await asyncio.gather(*(self._probe(server, now) for server in list(self._servers())))

    async def _probe(self, server: ServerConnection, settings: ProbeSettings) -> None:
        """Ask one server for all its widths, spread over half a period; never raises."""
        models = server.models
        if not models:
            return
        turn_s = settings.period_s / 2 / len(models)
        loop = asyncio.get_running_loop()
        for model in models:
            ends_s = loop.time() + turn_s
            while server.in_flight and loop.time() < ends_s - turn_s / 2:
                await asyncio.sleep(_LOOK_S)
            golden = golden_batch(model.input, 1)
            if golden is not None and server.is_usable and not server.health.is_suspect and model in server.models:
                try:
                    answer = await server.infer(model, golden)
                except (SlimError, TimeoutError) as exc:
                    log.debug("probe of %s on %s: %s", model.name, server.name, exc)
                else:
                    self._check(server, model, answer, settings)
            await asyncio.sleep(max(0.0, ends_s - loop.time()))

    async def verify(self, server: ServerConnection, model: ServedModel) -> None:
        """Ask a model that is tried the golden probe, alone and in a batch.

        Raises:
            WrongAnswerError: An answer is wrong.
            SlimError, TimeoutError: As ServerConnection.infer.
        """
        for items in trial_sizes(model):
            golden, settings = golden_batch(model.input, items), server.settings.probes
            if golden is None or settings is None:
                return
            problem = self._check(server, model, await server.infer(model, golden), settings)
            if problem is not None:
                raise WrongAnswerError(problem)

    def _check(
        self, server: ServerConnection, model: ServedModel, answer: Array, settings: ProbeSettings
    ) -> str | None:
        """Take in an answer to the golden probe; return what is wrong with it, None when nothing is known to be.

        By it any server, the one that answered included, may turn out to be wrong, and is taken out.
        """
        expected = math.prod(model.output.shape) if all(side > 0 for side in model.output.shape) else answer[:1].size
        rows = [read_scores(row.ravel(), expected) for row in answer]
        scores = rows[0] if rows and all(row is not None for row in rows) else None
        key = _weights_of(server, model)
        serving = {other.name for other in self._servers() for m in other.served if m.sha256 == model.sha256}
        consensus = self._consensus.get(key, ReferenceConsensus())
        consensus = consensus.without(consensus.answers.keys() - serving)
        consensus = consensus.after_answer(server.name, scores, settings.tolerance)
        if model.sha256 is None:
            consensus = ReferenceConsensus(consensus.answers)
        self._consensus[key] = consensus
        self._log_dispute(key, consensus, model)
        wrong = consensus.wrong(settings.tolerance)
        for other in [server for server in self._servers() if server.name in wrong]:
            self._take_out(other, key)
        if server.name not in wrong:
            return None
        return "wrong answer to the golden probe" if scores is not None else "an answer that no network gives"

    def _take_out(self, server: ServerConnection, key: str) -> None:
        for model in server.models:
            if _weights_of(server, model) == key:
                log.warning(
                    "model %s on %s answers the golden probe wrong and is out until it answers right; compare the "
                    "file with its slim.sha256",
                    model.name,
                    server.name,
                )
                self._observer.on_wrong_answer(server.name, model.width)
                server.health.back_off(model.name, now_s=asyncio.get_running_loop().time())
                server.check_soon.set()

    def _log_dispute(self, key: str, consensus: ReferenceConsensus, model: ServedModel) -> None:
        """Log once that servers contradict each other."""
        if not consensus.is_disputed:
            self._logged_disputes.discard(key)
        elif key not in self._logged_disputes:
            self._logged_disputes.add(key)
            log.warning(
                "servers %s answer the golden probe of %s differently though they name the same file; a third would "
                "tell who is wrong",
                ", ".join(sorted(consensus.answers)),
                model.name,
            )


def _weights_of(server: ServerConnection, model: ServedModel) -> str:
    """Return what tells weights apart: their hash, or the server and model where there is none."""
    return model.sha256 or f"{server.name}/{model.name}"
