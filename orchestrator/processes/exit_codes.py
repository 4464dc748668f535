"""How a process ended, in words."""

from __future__ import annotations

import signal


def describe_exit_code(exit_code: int | None) -> str:
    """Return how a process ended, to be read on from its name; None when nobody is left who could know."""
    if exit_code is None:
        return "lost its guardian process and was stopped"
    if exit_code < 0:
        return f"was killed by {signal.Signals(-exit_code).name}"
    return f"exited with status {exit_code}"
