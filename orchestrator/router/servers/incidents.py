"""What is done about a server that fails, is silent or looks wrong: it is ejected, tried, or asked a golden probe."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from orchestrator.background import BackgroundTasks
from orchestrator.config import RouterSettings
from orchestrator.errors import CapacityError, DeadlineError, ServerUnavailableError, SlimError, TransientError
from orchestrator.router.observer import RouterObserver
from orchestrator.router.servers.connection import ServerConnection
from orchestrator.router.servers.ejection_rules import plan_ejections
from orchestrator.router.servers.probing import Prober
from orchestrator.router.servers.service_times import ServiceTimes
from orchestrator.router.servers.watch import trial_sizes
from orchestrator.snapshot import ModelName, ServedModel, ServerName
from orchestrator.triton.infer_wire import Tensors
from orchestrator.triton.trial_items import blank_batch

log = logging.getLogger(__name__)

_DOUBT_PAUSE_S = 1.0  # between two looks at a model that is doubted: clients can make it look wrong, or fail
_LIFE_S = 0.05  # between two models that are tried on a suspect server, unless one has answered


def is_of_model(error: SlimError) -> bool:
    """Return whether a model has run and failed by itself, for which it or what it was asked may be to blame."""
    return type(error) is TransientError and error.executed


@dataclass(slots=True, eq=False)
class Incidents:
    """Sees to servers that something is wrong with; changed only on the event loop.

    Attributes:
        settings: The settings of the router.
        changed: Called whenever something may be sent that could not be sent before.
    """

    settings: RouterSettings
    times: ServiceTimes
    prober: Prober
    background: BackgroundTasks
    observer: RouterObserver
    changed: Callable[[], None]
    _proven_s: dict[tuple[ServerName, ModelName], float] = field(default_factory=dict)  # when it was last asked to be
    _sound: set[tuple[ServerName, ModelName]] = field(default_factory=set)  # answered blank items when last asked to
    _doubts: dict[tuple[ServerName, ModelName], tuple[float, asyncio.Task[None]]] = field(default_factory=dict)
    _trials: dict[ServerName, asyncio.Task[None]] = field(default_factory=dict)
    _readmissions: dict[ServerName, asyncio.TimerHandle] = field(default_factory=dict)

    def forget(self, name: ServerName) -> None:
        """Readmit a server no more that has gone, and remember nothing of it."""
        if (timer := self._readmissions.pop(name, None)) is not None:
            timer.cancel()
        self._doubts = {key: doubt for key, doubt in self._doubts.items() if key[0] != name}
        self._proven_s = {key: at_s for key, at_s in self._proven_s.items() if key[0] != name}
        self._sound = {key for key in self._sound if key[0] != name}

    # --- it fails, or is too slow ---

    def note_failure(self, server: ServerConnection, model: ServedModel, sent_s: float, error: SlimError) -> None:
        """Note that a batch that was sent at ``sent_s`` has failed.

        A model that has run and failed may have been asked for what no model can answer, such as an index beyond its
        table. So it is asked for blank items, and blamed where it fails at them too; or one caller could take it out.
        """
        if is_of_model(error) and blank_batch(model, 1) is not None:
            key, now_s = (server.name, model.name), asyncio.get_running_loop().time()
            if now_s >= self._proven_s.get(key, -math.inf) + _DOUBT_PAUSE_S:
                self._proven_s[key] = now_s
                self.background.start("proving", lambda: self._prove(server, model, sent_s, error))
        else:
            self.blame(server, model, sent_s, error)

    async def _prove(self, server: ServerConnection, model: ServedModel, sent_s: float, error: SlimError) -> None:
        try:
            for items in trial_sizes(model):
                if (blank := blank_batch(model, items)) is not None:
                    await server.infer(model, blank)
        except ServerUnavailableError as exc:
            self.blame(server, model, sent_s, exc)
        except CapacityError:
            return  # it has other work, so it answers
        except (SlimError, TimeoutError):
            self.blame(server, model, sent_s, error)
        else:
            self._sound.add((server.name, model.name))
            log.debug("model %s on %s fails at a request and answers blank items: %s", model.name, server.name, error)

    def is_sound(self, server: ServerName, model: ModelName) -> bool:
        """Return whether a model that fails is known to answer blank items, so that what it was asked is to blame."""
        return (server, model) in self._sound

    def blame(self, server: ServerConnection, model: ServedModel, sent_s: float, error: SlimError) -> None:
        """Take for a failure of the server that a batch which was sent at ``sent_s`` has failed."""
        self._sound.discard((server.name, model.name))
        # Such errors blame the server, not its load.
        if isinstance(error, TransientError) and not isinstance(error, CapacityError | DeadlineError):
            now_s = asyncio.get_running_loop().time()
            server.health.note_failure(sent_s=sent_s, now_s=now_s)
            if server.health.failures_in_row >= self.settings.ejection.failures_in_row:
                self.eject_outliers()
        server.note_failure(model, error)

    def eject_outliers(self) -> None:
        """Leave out for a time who fails or is far too slow, of the servers that this router drives."""
        loop, settings = asyncio.get_running_loop(), self.settings.ejection
        driven = {name: server.health for name, server in self.times.servers.items() if server.is_driven}
        planned = plan_ejections(driven, self.times.capacities_rps(), settings, now_s=loop.time())
        for name, reason in planned.items():
            server = self.times.servers[name]
            until_s = server.health.eject([model.name for model in server.served], settings, now_s=loop.time())
            log.warning("server %s is out for %.1f s: %s", name, until_s - loop.time(), reason)
            self.observer.on_ejection(name, reason)
            self._readmissions[name] = loop.call_at(until_s, self._readmit, server)
        self.changed()

    def _readmit(self, server: ServerConnection) -> None:
        self._readmissions.pop(server.name, None)
        server.health.readmit(now_s=asyncio.get_running_loop().time())
        server.check_soon.set()
        self.changed()

    # --- it is silent ---

    def note_overdue(self, server: ServerConnection, model: ModelName, sent_s: float) -> None:
        """Note that a batch that was sent at ``sent_s`` is overdue.

        Where its server has answered nothing since, the other models are tried, for it may be this one alone.
        """
        server.health.note_overdue(model, sent_s=sent_s)
        if server.health.is_suspect and server.name not in self._trials:
            self._trials[server.name] = self.background.start("looking for life", lambda: self._look_for_life(server))
            self._trials[server.name].add_done_callback(lambda _: self._trials.pop(server.name, None))

    def is_tried(self, name: ServerName) -> bool:
        """Return whether a server that is suspect is just being tried; if it lives, that is soon known."""
        return name in self._trials

    async def _look_for_life(self, server: ServerConnection) -> None:
        """Try the models of a server that are not suspect, the narrowest first, until any has answered something."""
        tried: list[asyncio.Task[None]] = []
        for model in sorted(server.models, key=lambda model: model.width):
            blank = blank_batch(model, 1)
            if blank is None or model.name in server.health.suspects:
                continue
            trial = partial(self._try_for_life, server, model, blank)
            tried.append(self.background.start("looking for life", trial))
            await asyncio.wait(tried, timeout=_LIFE_S, return_when=asyncio.FIRST_COMPLETED)
            if not server.health.is_suspect:
                return

    async def _try_for_life(self, server: ServerConnection, model: ServedModel, blank: Tensors) -> None:
        try:
            await server.infer(model, blank)
        except (ServerUnavailableError, TimeoutError):
            return
        except SlimError as exc:
            log.debug("trying %s on %s: %s", model.name, server.name, exc)
        server.health.is_suspect = False
        self.changed()

    # --- it looks wrong ---

    def doubt(self, server: ServerConnection, model: ServedModel) -> bool:
        """Have a model probed whose answer looks wrong; return whether it may be its fault, as far as is known yet."""
        key, now_s = (server.name, model.name), asyncio.get_running_loop().time()
        if key not in self._doubts or now_s >= self._doubts[key][0] + _DOUBT_PAUSE_S:
            self._doubts[key] = now_s, self.background.start("probing", lambda: self.prober.ask(server, model))
        return not self._doubts[key][1].done() or model.name in server.health.suspended
