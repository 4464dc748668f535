"""Limits with other settings than the defaults."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from orchestrator.planner.host import Limits


def with_settings(limits: Limits, **changes: Any) -> Limits:
    """Return limits whose settings are other ones, such too as a fleet file would be refused for."""
    return replace(limits, settings=limits.settings.model_copy(update=changes))
