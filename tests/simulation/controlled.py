"""Fleets with controllers that are quick enough to be seen at work within seconds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from orchestrator.config import ControllerSettings, LimitSettings
from orchestrator.simulation.scenario.fleet import SimulatedServer
from orchestrator.simulation.scenario.settings import ScenarioSettings

MIB = 1 << 20
INSTANCE_MIB = 100


def quick_controller(**more: Any) -> ControllerSettings:
    quick = {"period_s": 0.1, "grow_after_s": 0.1, "cooldown_s": 0.1, "idle_s": 0.4, "unload_after_s": 1.0}
    return ControllerSettings.model_validate({**quick, **more})


def with_controllers(
    settings: ScenarioSettings,
    fleet: Sequence[SimulatedServer],
    *,
    budget_mib: float = 1000.0,
    contention: float = 0.0,
    utilisation_ceiling: float = 1.0,
    **more: Any,
) -> tuple[ScenarioSettings, tuple[SimulatedServer, ...]]:
    """Return a scenario and its fleet with a controller for each server; every instance takes INSTANCE_MIB."""
    limits = LimitSettings(memory_budget_mib=budget_mib, utilisation_ceiling=utilisation_ceiling)
    controlled = [
        replace(
            server,
            models=tuple(
                replace(model, instance_bytes=INSTANCE_MIB * MIB, load_s=0.15, scale_s=0.05, unload_s=0.05)
                for model in server.models
            ),
            contention=contention,
            limits=limits,
        )
        for server in fleet
    ]
    return settings.model_copy(update={"controller": quick_controller(**more)}), tuple(controlled)
