"""How long the servers of a router take: what was observed of each, and what follows from it."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from orchestrator.profile.fit import FADE_EVERY_S, EnergyTable, LatencyTable
from orchestrator.router.queue.request import BatchKey
from orchestrator.router.servers.connection import ServerConnection
from orchestrator.router.servers.health import TimedRun
from orchestrator.router.servers.profile_priors import ProfileStarts
from orchestrator.snapshot import BatchInFlight, ModelName, ServedModel, ServerName


@dataclass(slots=True)
class ServiceTimes:
    """What batches take and cost on servers; changed only on the event loop.

    Attributes:
        servers: The servers of the router now. Of others nothing is noted: another machine may go by their name.
        starts: Where models start that are new.
        on_slow: Called when a server took so long that it may be an outlier now.
        latency: What batches are expected to take, from all that was observed so far.
        energy: What batches cost in joules, as far as the profile knows.
        faded_s: When what was not observed was last let fade, on the event loop's clock.
    """

    servers: Mapping[ServerName, ServerConnection]
    starts: ProfileStarts
    on_slow: Callable[[], None]
    latency: LatencyTable = field(default_factory=LatencyTable)
    energy: EnergyTable = field(default_factory=EnergyTable)
    faded_s: float = -math.inf

    def begin(self, server: ServerConnection, model: ServedModel) -> bool:
        """Start a model that is new on a server; return whether its times are known from the profile."""
        self.latency, self.energy, has_entry = self.starts.begin(server.name, model, self.latency, self.energy)
        return has_entry

    def observe(self, server: ServerConnection, model: ModelName, items: int, service_s: float) -> None:
        """Note how long a server took for a batch."""
        if self.servers.get(server.name) is not server:
            return
        now_s = asyncio.get_running_loop().time()
        expected_s, settings = self.batch_s(server, model, items), server.settings.ejection
        if expected_s > 0:
            server.health.note_run(TimedRun(now_s, service_s, expected_s), settings)
            if service_s > settings.latency_factor * max(expected_s, settings.latency_floor_ms / 1e3):
                self.on_slow()
        self.latency = self.latency.observe(server.name, model, items, service_s, now_s=now_s)

    def fade(self, now_s: float) -> None:
        """Let what was not observed lately go back to where it began, at most every FADE_EVERY_S."""
        if now_s - self.faded_s >= FADE_EVERY_S:
            if self.faded_s > -math.inf:
                self.latency = self.latency.fade(now_s=now_s, since_s=self.faded_s)
            self.faded_s = now_s

    def finish(self, server: ServerConnection, batch: BatchInFlight, *, now_s: float) -> float:
        """Note that a batch was answered; return how long the server took for it, in seconds."""
        took_s, runs = server.finish(batch, now_s=now_s)
        for run in runs:
            self.observe(server, run.model, run.items, run.ended_s - run.began_s)
        return took_s

    def judge(self, server: ServerConnection, model: ModelName, ratio: float, allowed_ratio: float) -> None:
        """Note that an answer took ``ratio`` times what was expected, and that ``allowed_ratio`` would have done."""
        if self.servers.get(server.name) is server:
            now_s, prior = asyncio.get_running_loop().time(), server.settings.slack_margin
            self.latency = self.latency.judge(server.name, model, ratio, allowed_ratio, prior=prior, now_s=now_s)

    def batch_s(self, server: ServerConnection, name: ModelName, items: int) -> float:
        """Return how long a server is expected to take for a batch; 0 when nothing is known of that."""
        model = server.find(name)
        if model is None:
            return 0.0
        per_item_s, fixed_s = self.latency.line(server.name, model, server.served)
        return per_item_s * items + fixed_s

    def work_s(self, server: ServerConnection, model: ModelName | None = None) -> float:
        """Return how long a server takes for all that it has, one batch after another; 0 when unknown.

        See ``ServerConnection.held`` for ``model``.
        """
        return sum(self.batch_s(server, batch.model, batch.items) for batch in server.held(model))

    def elsewhere_s(self, key: BatchKey, items: int) -> float | None:
        """Return when a server that ``key`` does not avoid would have answered; None when there is none.

        It is the quickest one, at its quickest width; none that is suspect, but the others of a width suspect alone.
        """
        best_s: float | None = None
        for server in self.servers.values():
            health = server.health
            if not server.takes_batches or health.is_suspect or (server.name in key.avoid and not health.suspects):
                continue
            held_s = self.work_s(server)
            for model in server.models_of(key.family):
                if model.name not in health.suspects and key.allows(model) and items <= model.max_batch_size:
                    takes_s = held_s + self.batch_s(server, model.name, items)
                    best_s = takes_s if best_s is None else min(best_s, takes_s)
        return best_s

    def capacities_rps(self) -> dict[ServerName, float]:
        """Return the items a second of each server; one whose capacity is unknown counts as their mean."""
        rates_rps = {name: self._capacity_rps(server) for name, server in self.servers.items()}
        known = [rate_rps for rate_rps in rates_rps.values() if rate_rps > 0]
        mean_rps = sum(known) / len(known) if known else 1.0
        return {name: rate_rps or mean_rps for name, rate_rps in rates_rps.items()}

    def relative_cost(self, allows: Callable[[ServedModel], bool]) -> float:
        """Return how many items at a server's quickest model take as long as one at its quickest that ``allows`` takes.

        It is the mean of the servers of which that is known, at least 1; 1 where there is none.
        """
        pairs_rps = [(self._capacity_rps(s), self._capacity_rps(s, allows)) for s in self.servers.values()]
        costs = [most_rps / allowed_rps for most_rps, allowed_rps in pairs_rps if allowed_rps > 0]
        return sum(costs) / len(costs) if costs else 1.0

    def _capacity_rps(
        self, server: ServerConnection, allows: Callable[[ServedModel], bool] = lambda model: True
    ) -> float:
        """Return the items a second of full batches at the quickest model that may; 0 when nothing is known of it."""
        models = [model for model in server.served if allows(model)]
        times_s = [(model, self.batch_s(server, model.name, model.max_batch_size)) for model in models]
        return max((m.instances * m.max_batch_size / took_s for m, took_s in times_s if took_s > 0), default=0.0)
