"""What the benchmark looks at of a controller's /status and /metrics; the rest of them is left alone.

A reader of its own, because the benchmark stands beside the controller and not on it: it sees what any other program
on the network sees.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from orchestrator.errors import PermanentError

REFUSALS = "slim_controller_refusals{"


@dataclass(frozen=True, slots=True)
class DaemonView:
    """A status page.

    Attributes:
        steps: Steps so far.
        step_s: Time of the last step, without its actions.
        trouble: Why Triton could not be observed; None when it could.
        ready: Names of the models that serve.
        refusals: Kind, model and reason of each refusal.
        planned: Kind and model of each planned action.
        actions: Reason and model of the last actions that ended or are under way.
    """

    steps: int
    step_s: float
    trouble: str | None
    ready: tuple[str, ...]
    refusals: tuple[tuple[str, str, str], ...]
    planned: tuple[tuple[str, str], ...]
    actions: tuple[tuple[str, str], ...]


def parse_view(values: Any) -> DaemonView:
    """Return a status page's view; raises PermanentError when it is no status page."""
    try:
        return DaemonView(
            steps=int(values["steps"]),
            step_s=float(values["step_s"]),
            trouble=values["trouble"],
            ready=tuple(model["model"] for model in values["models"] if model["status"] == "ready"),
            refusals=tuple((r["kind"], r["model"], r["reason"]) for r in values["refusals"]),
            planned=tuple((a["kind"], a["model"]) for a in values["planned"]),
            actions=tuple((a["action"]["reason"], a["action"]["model"]) for a in values["actions"]),
        )
    except (KeyError, TypeError, ValueError) as exc:
        raise PermanentError(f"this is no controller's status page: {exc!r}") from exc


def refusal_series(metrics: str) -> tuple[str, ...]:
    """Return the series of a /metrics page that count refusals for memory, without their values."""
    lines = (line for line in metrics.splitlines() if line.startswith(REFUSALS) and 'reason="memory-budget"' in line)
    return tuple(sorted(line.rpartition(" ")[0] for line in lines))
