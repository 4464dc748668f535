"""Decisions in words with their numbers, for the terminal; the log has them as ``name=value`` (see ``step_log``).

One form everywhere: ``w100: load refused, memory-budget: budget 300 MiB, used 250 MiB, needed 80 MiB``. The reasons are
the very words of the JSON and the metrics, so that what is read in one place can be searched for in another.
"""

from __future__ import annotations

from collections.abc import Mapping

from orchestrator.controller.status.document import (
    ControllerStatus,
    DoneAction,
    NoticeStatus,
    PlannedAction,
    RefusalStatus,
)
from orchestrator.planner import ActionKind, Batching

# Longest first where one ends another.
_UNITS = ("_per_s", "_bytes", "_ratio", "_ms", "_us", "_s", "_w", "_j")


def short_name(model: str, family: str | None) -> str:
    """Return a model's name without its family's: ``w025`` for ``fashion_w025``."""
    return model.removeprefix(f"{family}_") if family else model


def say_bytes(value_bytes: float) -> str:
    """Return a size in the unit that it reads best in."""
    for unit, power in (("GiB", 30), ("MiB", 20), ("KiB", 10)):
        if abs(value_bytes) >= 1 << power:
            value = value_bytes / (1 << power)
            return f"{value:.1f} {unit}" if abs(value) < 10 or power == 30 else f"{value:.0f} {unit}"
    return f"{value_bytes:.0f} B"


def say_duration(value_s: float) -> str:
    """Return a duration in the unit that it reads best in."""
    for limit_s, unit_s, unit in ((1e-3, 1e-6, "µs"), (1.0, 1e-3, "ms"), (120.0, 1.0, "s"), (7200.0, 60.0, "min")):
        if abs(value_s) < limit_s:
            value = value_s / unit_s
            return f"{value:.3g} {unit}" if abs(value) < 100 else f"{value:.0f} {unit}"
    return f"{value_s / 3600:.1f} h"


def say_age(value_s: float) -> str:
    """Return a time that has passed or is left, as exactly as people want it; clocks that disagree make it 0."""
    return f"{max(0.0, value_s):.1f} s" if value_s < 10 else say_duration(round(value_s))


def say_number(name: str, value: float | None) -> str:
    """Return a named number, its unit taken from the end of the name: ``needed 80 MiB`` for ``needed_bytes``."""
    unit = next((unit for unit in _UNITS if name.endswith(unit)), "")
    words = name.removesuffix(unit).replace("_", " ")
    return f"{words} {_say_value(value, unit)}"


def say_numbers(numbers: Mapping[str, float | None]) -> str:
    """Return named numbers in their order."""
    return ", ".join(say_number(name, value) for name, value in numbers.items())


def say_batching(batching: Batching) -> str:
    """Return how a model batches, short enough for a column."""
    sizes = "/".join(map(str, batching.preferred_sizes))
    wait = f"waits {say_duration(batching.delay_us / 1e6)}" if batching.delay_us else "no wait"
    return f"{wait}, {sizes}" if sizes else wait


def say_planned(action: PlannedAction, family: str | None) -> str:
    """Return a change and why it is made, ``w025: scale-up to 2 instances, queueing: waiting 3.2``."""
    match action.kind:
        case ActionKind.UNLOAD:
            what = action.kind
        case ActionKind.RELOAD:
            forced = "forced, " if action.is_forced else ""
            what = f"{action.kind} ({forced}{say_batching(action.batching)})"
        case ActionKind.LOAD if action.instances == 1:
            what = action.kind
        case _:
            what = f"{action.kind} to {action.instances} instances" if action.instances > 1 else f"{action.kind} to 1"
    numbers = f": {say_numbers(action.numbers)}" if action.numbers else ""
    return f"{short_name(action.model, family)}: {what}, {action.reason}{numbers}"


def say_done(done: DoneAction, family: str | None) -> str:
    """Return what was done, why, and what came of it."""
    took = say_duration(done.took_s)
    if done.is_under_way:
        outcome = f"under way for {took}"
    elif done.error is None:
        outcome = f"took {took}"
    else:
        outcome = f"FAILED after {took}: {done.error}"
    return f"{say_planned(done.action, family)}; {outcome}"


def say_refusal(refusal: RefusalStatus, family: str | None) -> str:
    """Return what was refused and why."""
    name = short_name(refusal.model, family)
    why = "; ".join(part for part in (say_numbers(refusal.numbers), refusal.detail) if part)
    return f"{name}: {refusal.kind} refused, {refusal.reason}{f': {why}' if why else ''}"


def say_notice(notice: NoticeStatus, family: str | None) -> str:
    """Return what an operator should know."""
    about = f"{short_name(notice.model, family)}: " if notice.model else ""
    numbers = f": {say_numbers(notice.numbers)}" if notice.numbers else ""
    return f"{about}{notice.kind}{numbers}"


def say_memory(status: ControllerStatus) -> str:
    """Return memory used, allowed, lost and there."""
    memory = status.memory
    used, total = memory.used_bytes, memory.total_bytes
    shown = "unknown" if used.value is None else say_bytes(used.value)
    why = f" ({used.reason})" if used.value is None else ""
    of = "" if total.value is None else f" (total {say_bytes(total.value)})"
    lost = f", residue {say_bytes(memory.residue_bytes)}" if memory.residue_bytes else ", no residue"
    return f"{shown}{why} / budget {say_bytes(memory.budget_bytes)}{of}{lost}"


def _say_value(value: float | None, unit: str) -> str:
    if value is None:
        return "unknown"
    match unit:
        case "_bytes":
            return say_bytes(value)
        case "_ratio":
            return f"{value:.0%}"
        case "_s" | "_ms" | "_us":
            return say_duration(value * {"_s": 1.0, "_ms": 1e-3, "_us": 1e-6}[unit])
        case "_per_s":
            return f"{value:.3g}/s" if abs(value) < 100 else f"{value:,.0f}/s"
        case "_w" | "_j":
            return f"{value:.4g} {unit[1:].upper()}"
        case _:
            return f"{value:,.0f}" if value == round(value) else f"{value:.3g}"
