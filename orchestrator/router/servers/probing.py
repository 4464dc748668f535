"""Asks every (server, width) a known item now and then, and takes out who answers it wrong.

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
from orchestrator.errors import SlimError
from orchestrator.router.observer import RouterObserver
from orchestrator.router.queue.request import Array
from orchestrator.router.servers.reference_consensus import ReferenceConsensus, read_scores
from orchestrator.router.servers.server_link import ServerLink
from orchestrator.snapshot import ServedModel

log = logging.getLogger(__name__)

_LOOK_S = 0.005  # between two looks for a quiet moment


class Prober:
    """Keeps the known answers of a fleet.

    Args:
        links: returns the servers as they are now.
        observer: is told of wrong answers.
    """

    def __init__(self, links: Callable[[], Iterable[ServerLink]], observer: RouterObserver) -> None:
        self._links = links
        self._observer = observer
        self._consensus: dict[str, ReferenceConsensus] = {}
        self._told: set[str] = set()  # disputes

    async def run(self, settings: Callable[[], ProbeSettings | None]) -> None:
        """Probe for ever."""
        while True:
            now = settings()
            if now is None:
                await asyncio.sleep(1.0)  # it may be switched on
            else:
                await asyncio.sleep(now.period_s / 2)  # what is new has just been asked
                await asyncio.gather(*(self.probe(link, now) for link in list(self._links())))

    async def probe(self, link: ServerLink, settings: ProbeSettings) -> None:
        """Ask one server for all its widths, spread over half a period; never raises."""
        models = link.models
        if not models:
            return
        turn_s = settings.period_s / 2 / len(models)
        loop = asyncio.get_running_loop()
        for model in models:
            ends_s = loop.time() + turn_s
            while link.in_flight and loop.time() < ends_s - turn_s / 2:
                await asyncio.sleep(_LOOK_S)
            if link.is_healthy and not link.is_suspect and model in link.models:
                try:
                    answer = await link.ask_known(model, items=1)
                except (SlimError, TimeoutError) as exc:
                    log.debug("probe of %s on %s: %s", model.name, link.name, exc)
                else:
                    self.check(link, model, answer, settings)
            await asyncio.sleep(max(0.0, ends_s - loop.time()))

    def check(self, link: ServerLink, model: ServedModel, answer: Array, settings: ProbeSettings) -> str | None:
        """Take an answer to the known item in; return what is wrong with it, None when nothing is known to be.

        Others may turn out to be wrong by it; they are taken out here, the one that answered by the caller's caller.
        """
        expected = math.prod(model.output.shape) if all(side > 0 for side in model.output.shape) else answer[:1].size
        rows = [read_scores(row.ravel(), expected) for row in answer]
        scores = rows[0] if rows and all(row is not None for row in rows) else None
        key = model.sha256 or f"{link.name}/{model.name}"
        serving = {other.name for other in self._links() for m in other.served if m.sha256 == model.sha256}
        consensus = self._consensus.get(key, ReferenceConsensus())
        consensus = consensus.without(consensus.votes.keys() - serving).cast(link.name, scores, settings.tolerance)
        if model.sha256 is None:
            consensus = ReferenceConsensus(consensus.votes)
        self._consensus[key] = consensus
        self._tell_dispute(key, consensus, model)
        wrong = consensus.wrong(settings.tolerance)
        for other in list(self._links()):
            if other.name in wrong:
                self._take_out(other, key)
        if link.name not in wrong:
            return None
        return "wrong answer to a known item" if scores is not None else "an answer that no network gives"

    def _take_out(self, link: ServerLink, key: str) -> None:
        for model in link.models:
            if (model.sha256 or f"{link.name}/{model.name}") == key:
                log.warning(
                    "model %s on %s answers a known item wrong and is out until it answers right; compare the file "
                    "with its slim.sha256",
                    model.name,
                    link.name,
                )
                self._observer.on_wrong_answer(link.name, model.width)
                link.suspend(model)

    def _tell_dispute(self, key: str, consensus: ReferenceConsensus, model: ServedModel) -> None:
        if not consensus.is_disputed:
            self._told.discard(key)
        elif key not in self._told:
            self._told.add(key)
            log.warning(
                "servers %s answer a known item of %s differently though they name the same file; a third would tell "
                "who is wrong",
                ", ".join(sorted(consensus.votes)),
                model.name,
            )
