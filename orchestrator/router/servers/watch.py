"""Who asks one server what it serves, for as long as the router runs, and tries the models that are new or were out.

A model is tried on blank items, each batch size once unmeasured and once measured, so that its times are known when it
is used; then it must answer the golden probe right, in batches of the same sizes. A model that is in the profile, and
was never out, needs no trial.

What counts is the shorter time of the two, blank and golden: a stall only ever adds. A server that looks slower than it
is gets nothing while others have room, so nothing would show that it is not; one that looks quicker is soon known.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from orchestrator.errors import ServerUnavailableError, SlimError
from orchestrator.router.servers.connection import ServerConnection
from orchestrator.snapshot import ModelName, ServedModel
from orchestrator.triton.trial_items import blank_batch

log = logging.getLogger(__name__)

_EMPTY_PAUSE_S = 0.5  # until a server that serves nothing yet is asked again: it may be the first
_TRIAL_ITEMS = 8  # far enough from 1 to separate the cost of an item from that of a batch


def trial_sizes(model: ServedModel) -> list[int]:
    """Return the batch sizes that a model is tried with, ascending."""
    return sorted({1, min(_TRIAL_ITEMS, model.max_batch_size)})


@dataclass(frozen=True, slots=True)
class ServerWatch:
    """Keeps what is known of one server up to date.

    Attributes:
        begin_model: Called with each model that is new there; returns whether its times are known from a profile.
        observe: Called with a model, a number of items and the seconds that they took.
        verify: Asks a model the golden probe; returns the seconds that it took by items, and raises WrongAnswerError
            when an answer is wrong.
    """

    server: ServerConnection
    begin_model: Callable[[ServerConnection, ServedModel], bool]
    observe: Callable[[ServerConnection, ModelName, int, float], None]
    verify: Callable[[ServerConnection, ServedModel], Awaitable[Mapping[int, float]]]

    async def run(self, changed: Callable[[], None], returned: Callable[[], None]) -> None:
        """Refresh for ever; call ``changed`` after each time, and ``returned`` when the server was out and is not."""
        server = self.server
        while True:
            was_usable = server.is_usable
            now_s, period_s = asyncio.get_running_loop().time(), server.settings.discovery_period_s
            if not server.served:
                period_s = min(period_s, _EMPTY_PAUSE_S)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(server.health.pause_s(period_s, now_s=now_s)):
                    await server.check_soon.wait()
            server.check_soon.clear()
            was_usable = was_usable and server.is_usable
            await self.refresh()
            if server.is_usable and not was_usable:
                returned()
            changed()

    async def refresh(self) -> None:
        """Ask the server what it serves, try what is due, and note whether it answered; never raises."""
        server, clock = self.server, asyncio.get_running_loop().time
        try:
            async with asyncio.timeout(server.settings.connect_timeout_s):
                served = await server.client.served_models()
            server.health.heard_s = clock()
            await self._try_models(served)
        except (SlimError, TimeoutError) as exc:
            server.note_unreachable(str(exc) or "no answer in time, see connect_timeout_s and group_timeout_s")
        except Exception as exc:
            log.exception("asking server %s failed unexpectedly", server.name)
            server.note_unreachable(f"{type(exc).__name__}: {exc}")
        else:
            if served != server.served:  # the same tuple for as long as it serves the same, for whoever compares
                server.served = served
            server.is_assumed = False
            if server.health.note_reachable(now_s=clock()):
                log.info("server %s serves %d models", server.name, len(served))

    async def _try_models(self, served: tuple[ServedModel, ...]) -> None:
        """Try the models that are new or were out; those that answer may be used from then on.

        Raises:
            SlimError, TimeoutError: The server answers nothing; where it does, a silent model stays out alone.
        """
        server, health, clock = self.server, self.server.health, asyncio.get_running_loop().time
        began_s = clock()
        health.keep(model.name for model in served)
        # Another number of instances makes no new model.
        known = set() if server.is_assumed else {(model.name, model.sha256) for model in server.served}
        for model in served:
            is_new = (model.name, model.sha256) not in known
            if is_new and not self.begin_model(server, model) and server.settings.warm_up:
                health.suspend([model.name])
            if not health.is_trial_due(model.name, now_s=clock()):
                continue
            try:
                blank_s = await self._warm_up(model)
                golden_s = await self.verify(server, model)
            except ServerUnavailableError:
                raise
            except TimeoutError:
                others = [other for other in served if other is not model]
                if health.heard_s <= began_s:  # nobody has asked the others meanwhile
                    if not others or not health.answered_s:  # a router that starts waits for one trial alone
                        raise
                    async with asyncio.timeout(server.settings.connect_timeout_s):
                        await self._warm_up(min(others, key=lambda other: other.name in health.suspended))
                health.back_off(model.name, now_s=clock())
                log.warning("model %s on %s leaves blank items unanswered", model.name, server.name)
            except SlimError as exc:
                health.back_off(model.name, now_s=clock())
                log.warning("model %s on %s stays out, as a trial showed: %s", model.name, server.name, exc)
            else:
                for items, took_s in blank_s.items():
                    self.observe(server, model.name, items, min(took_s, golden_s.get(items, took_s)))
                health.restore(model.name)

    async def _warm_up(self, model: ServedModel) -> dict[int, float]:
        """Run a model on blank items, each batch size once unmeasured; return the seconds of a second one by items."""
        clock, took_s = asyncio.get_running_loop().time, dict[int, float]()
        for items in trial_sizes(model):
            blank = blank_batch(model, items)
            if blank is None:
                break
            await self.server.infer(model, blank)
            began_s = clock()
            await self.server.infer(model, blank)
            took_s[items] = clock() - began_s
        return took_s
