"""From what fleet.yaml says, and what it leaves to the host, to the limits of one host's plans.

Everything that depends on the host (its memory, its CPUs) or on the repository (its widths) is settled here, so that a
plan has nothing left to assume. What can't be settled is refused with the key that settles it.

When the file is read again, or the repository holds other widths, limits and timings take effect with the next step
and nothing that was learned is lost. What the connections were opened with does not: an address that moved under a
running controller would leave two of them on one Triton.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from orchestrator.config import ControllerSettings, FleetSettings, ServerSettings
from orchestrator.config.effective import by_key
from orchestrator.errors import ConfigError
from orchestrator.planner.host import HostSnapshot, Limits, RepositoryModel
from orchestrator.planner.resident import resident_models
from orchestrator.snapshot import Family, ServerName

log = logging.getLogger(__name__)

MIB = 1 << 20
BUDGET_RATIO = {"gpu": 0.9, "cpu": 0.5}
"""Share of the memory there is that may be used without a budget in the settings; a host also runs other things."""
CONTAINER_BUDGET_RATIO = 0.8
"""Share of what a container may use in which Triton is alone; the kernel counts its files and shared memory too."""
UNMEASURED_INSTANCE_MIB = {"gpu": 1024.0, "cpu": 128.0}
GPU_MAX_INSTANCES = 4
UNKNOWN_CPUS = 2
BUDGET_OF_DEADLINE_RATIO = 0.5
_FIXED_CONTROLLER_KEYS = ("controller.family",)
_FOR_OTHERS = {"device_class", "emulated_slowdown", "power"}
"""What a server's entry says to gateways and to profiles, and no controller reads."""

Load = Callable[[], tuple[FleetSettings, ServerSettings]]
Resolve = Callable[[ServerSettings, FleetSettings], Limits]


def resolve_limits(
    server: ServerSettings,
    settings: ControllerSettings,
    models: tuple[RepositoryModel, ...],
    *,
    memory_total_bytes: float | None,
    cpus: int | None,
    deadline_ms: float,
    family_weights: Mapping[str, float] | None = None,
) -> Limits:
    """Return the limits of a server's plans.

    The repository's models come in any order and may be of several families. ``memory_total_bytes`` is of the device on
    GPU and of the host on CPU, ``cpus`` are those that Triton may use, both None while unknown; ``deadline_ms`` is of
    requests that bring none; a family that ``family_weights`` does not name counts for 1.

    Raises:
        ConfigError: when a width is not in the repository, when nothing says how much memory may be used, or when
            more may be used than there is.
    """
    if not models:
        raise ConfigError(f"the repository of server {server.name} holds no width; export a family to it")
    minimum, wanted = resident_models(settings, models)
    _warn_of_unknown(server, settings, models)
    unmeasured_mib = settings.unmeasured_instance_mib or UNMEASURED_INSTANCE_MIB[server.device]
    default_instances = GPU_MAX_INSTANCES if server.device == "gpu" else cpus or UNKNOWN_CPUS
    return Limits(
        memory_budget_bytes=_budget_bytes(server, memory_total_bytes),
        minimum=minimum,
        # The minimum first: whoever reads the order of what is wanted finds there what must be.
        wanted=tuple(dict.fromkeys((*minimum, *wanted))),
        max_instances=server.limits.max_instances or default_instances,
        utilisation_ceiling_ratio=server.limits.utilisation_ceiling,
        unmeasured_instance_bytes=int(unmeasured_mib * MIB),
        leak_limit_bytes=int(settings.leak_limit_mib * MIB),
        deadline_budget_s=(settings.deadline_budget_ms or BUDGET_OF_DEADLINE_RATIO * deadline_ms) / 1e3,
        # A horizon of 0 means that no gain is ever worth a reload, which is what ``batching: false`` asks for.
        batching_horizon_s=settings.batching_horizon_s if settings.batching else 0.0,
        weights={Family(family): weight for family, weight in (family_weights or {}).items()},
        has_shared_runtime=server.device == "gpu",
        settings=settings,
    )


def check_budget(limits: Limits, snapshot: HostSnapshot, *, server: ServerName, may_be_resuming: bool = False) -> None:
    """Refuse a budget in which the minimum set can't fit.

    What is held against the budget is what would be left with the minimum set alone, one instance each: the memory in
    use, less the sizes of all other instances where these are seen, plus an estimate of what is missing. Nothing is
    refused while memory is unknown, or while something of a size that can't be seen could be taken away.

    A daemon that was killed is started again by systemd and the like, and must not be refused for memory that has
    grown meanwhile: the plan sheds what it can and then gives notice. A first start looks just like that to whoever
    remembers nothing, so with ``may_be_resuming``

    - a host with the minimum set alone is only warned of: there is nothing that its plan could do wrong;
    - a host with the whole minimum set and more, as one that was killed while it shed, has ``memory_margin_ratio`` of
      the budget for what has grown. Beyond that the budget is taken for a mistake, as on a Triton that ``local up``
      has just filled.

    A refusal that only leaves old settings in force is strict. The snapshot's rates are not looked at.

    Raises:
        ConfigError: names the budget, what is in use, what is needed and the remedy.
    """
    used_bytes = snapshot.memory_used_bytes
    surplus_bytes = _surplus_bytes(limits, snapshot)
    if used_bytes is None or surplus_bytes is None:
        return
    ready = {seen.name for seen in snapshot.models if seen.is_ready}
    missing = [name for name in limits.minimum if name not in ready]
    needed_bytes = int(len(missing) * limits.unmeasured_instance_bytes * (1 + limits.settings.memory_margin))
    floor_bytes = max(0, used_bytes - surplus_bytes) + needed_bytes
    may_have_grown = may_be_resuming and not missing
    allowance_bytes = int(limits.memory_budget_bytes * limits.settings.memory_margin) if may_have_grown else 0
    if floor_bytes <= limits.memory_budget_bytes + allowance_bytes:
        return
    given_back = f", of which about {_mib(surplus_bytes)} can be given back," if surplus_bytes else ""
    loading = f"loading {', '.join(missing)} takes about {_mib(needed_bytes)} more" if missing else "all is loaded"
    problem = (
        f"servers[{server}].limits.memory_budget_mib: a budget of {_mib(limits.memory_budget_bytes)} can't hold the "
        f"minimum set: {_mib(used_bytes)} are in use{given_back} and {loading}; raise it to at least "
        f"{-(-floor_bytes // MIB)}, or name fewer controller.minimum_widths"
        + (", or lower controller.unmeasured_instance_mib if a width takes less" if missing else "")
    )
    if may_have_grown and surplus_bytes == 0:
        log.warning("%s; it is left as it is, because a controller may have been killed here", problem)
        return
    raise ConfigError(problem)


class SettingsFile:
    """The fleet file of a controller that was started with ``fleet`` for one server of it.

    The function ``load`` returns both as the file has them now, and ``resolve`` settles the limits; either raises
    ConfigError for settings that can't be kept to.
    """

    def __init__(self, load: Load, server: ServerSettings, fleet: FleetSettings, *, resolve: Resolve) -> None:
        self._load = load
        self._server = server
        self._fleet = fleet
        self._resolve = resolve

    def reload(self) -> tuple[Limits, tuple[str, ...]]:
        """Return the limits by what the file says now, and its changes in words; when refused the old settings stay.

        Raises:
            ConfigError: when the file can't be used, or asks for what only a restart can give.
        """
        fleet, server = self._load()
        before, after = _keys(self._server, self._fleet), _keys(server, fleet)
        # A family that one of the two does not name has no keys there.
        changed = [key for key in {**before, **after} if before.get(key) != after.get(key)]
        for key in changed:
            # Before anything is resolved: a moved address is refused whatever else the file says.
            if _needs_restart(key, self._server.name):
                raise ConfigError(
                    f"{key} changed from {before.get(key)} to {after.get(key)}; that needs a restart of the controller"
                )
        limits = self._resolve(server, fleet)
        self._server, self._fleet = server, fleet
        return limits, tuple(f"{key} {before.get(key)} → {after.get(key)}" for key in changed)


def _surplus_bytes(limits: Limits, snapshot: HostSnapshot) -> int | None:
    """Return what all but one instance of each model of the minimum set take; None where that can't be seen."""
    surplus_bytes = 0
    for seen in snapshot.models:
        instances = seen.loaded.instances if seen.live_instances is None else seen.live_instances
        surplus = max(0, instances - (seen.name in limits.minimum)) if seen.is_ready else 0
        if surplus and seen.instance_bytes is None:
            return None
        surplus_bytes += surplus * (seen.instance_bytes or 0)
    return surplus_bytes


def _warn_of_unknown(server: ServerSettings, settings: ControllerSettings, models: Iterable[RepositoryModel]) -> None:
    """Warn of families in the settings that this repository has not; another server's may have them."""
    there = {str(model.family) for model in models}
    for family in sorted(settings.families.keys() - there):
        log.warning(
            "controller.families.%s: the repository of server %s has no such family; it has %s",
            family,
            server.name,
            ", ".join(sorted(there)),
        )


def _budget_bytes(server: ServerSettings, memory_total_bytes: float | None) -> int:
    where, ratio = f"device {server.limits.gpu}" if server.device == "gpu" else "the host", BUDGET_RATIO[server.device]
    budget_mib, limit_mib = server.limits.memory_budget_mib, server.limits.memory_limit_mib
    if server.device == "cpu" and limit_mib is not None:
        # What is read may be the limit of this controller's own container.
        memory_total_bytes, where, ratio = limit_mib * MIB, "Triton's container", CONTAINER_BUDGET_RATIO
    if budget_mib is not None:
        if memory_total_bytes is not None and budget_mib * MIB > memory_total_bytes:
            raise ConfigError(
                f"servers[{server.name}].limits.memory_budget_mib: {budget_mib:.12g} is more than the "
                f"{_mib(memory_total_bytes)} of {where}; lower it, or leave it out for "
                f"{ratio:.0%} of that"
            )
        return int(budget_mib * MIB)
    if memory_total_bytes is None:
        raise ConfigError(
            f"servers[{server.name}].limits.memory_budget_mib is not set and the memory of {where} can't be read; "
            "set it to what Triton may use"
        )
    return int(memory_total_bytes * ratio)


def _mib(amount_bytes: float) -> str:
    return f"{amount_bytes / MIB:,.0f} MiB"


def _needs_restart(key: str, server: str) -> bool:
    limits = f"servers[{server}].limits."
    if key.startswith(limits):
        return key in (f"{limits}gpu_index", f"{limits}gpu_uuid")
    return key.startswith("servers[") or key in _FIXED_CONTROLLER_KEYS


def _keys(server: ServerSettings, fleet: FleetSettings) -> dict[str, Any]:
    """Return every setting of a server's controller by its key path."""
    values = {
        f"servers[{server.name}]": server.model_dump(mode="json", exclude=_FOR_OTHERS),
        "controller": fleet.controller.model_dump(mode="json"),
        "router": fleet.router.model_dump(include={"deadline_ms", "family_weights"}),
    }
    return {key: value for key, value in by_key(values).items() if value != {}}
