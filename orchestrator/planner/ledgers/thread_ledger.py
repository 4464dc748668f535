"""How many threads Triton has beyond those that it needs, of which a repair may leave some for good.

WORKAROUND(Triton 2.51): a model whose stub died with a request in hand leaves the threads of its old version behind
when it is reloaded, 36 for each instance as measured; only a restart of Triton ends them.

An instance that is a stub has about as many threads anyway, so a count says nothing by itself. It is held against the
fewest that were ever seen with as many models and instances, once nothing has changed for so long that old versions
have ended.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from orchestrator.planner.host import HostSnapshot

SETTLED_S = 10.0
"""How long nothing may have changed before a count is believed; eight stubs of an old version take as long to end."""

Load = tuple[int, int]
"""How many models are ready, and with how many instances in all."""


@dataclass(frozen=True, slots=True)
class ThreadLedger:
    """What was counted of one Triton process; immutable.

    Attributes:
        fewest: The fewest threads seen at each load, less what had been left behind when it was first seen.
        left_behind: The threads at the last count beyond the fewest of its load.
        load: The load as last seen; None when something moved, or the threads can't be seen.
        load_since_s: Since when it has been that, seconds on the controller's clock.
        server_id: The server process that this is about; None: unknown.
    """

    fewest: Mapping[Load, int] = field(default_factory=dict)
    left_behind: int = 0
    load: Load | None = None
    load_since_s: float = 0.0
    server_id: str | None = None

    def observe(self, snapshot: HostSnapshot, *, now_s: float) -> ThreadLedger:
        """Return the ledger as of a snapshot; a new process has left nothing behind."""
        if snapshot.server_id is not None and snapshot.server_id != self.server_id:
            return ThreadLedger(server_id=snapshot.server_id).observe(snapshot, now_s=now_s)
        threads = snapshot.server_threads
        load = None if threads is None else _load_of(snapshot)
        if threads is None or load is None or load != self.load:
            return replace(self, load=load, load_since_s=now_s)
        if now_s - self.load_since_s < SETTLED_S:
            return self
        # A load that is seen for the first time says nothing new of what was left behind before.
        fewest = min(threads, self.fewest.get(load, threads - self.left_behind))
        return replace(self, fewest={**self.fewest, load: fewest}, left_behind=threads - fewest)


def _load_of(snapshot: HostSnapshot) -> Load | None:
    """Return the load of a host on which nothing moves and nothing is dead; None of another one."""
    ready = [seen for seen in snapshot.models if seen.is_ready]
    is_moving = any(map(snapshot.is_moving, snapshot.models)) or snapshot.busy_models
    is_short = any(seen.live_instances not in (None, seen.loaded.instances) for seen in ready)
    if is_moving or is_short:
        return None
    return len(ready), sum(seen.loaded.instances for seen in ready)
