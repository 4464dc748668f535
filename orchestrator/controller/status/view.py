"""The status page on a terminal: a section a server, readable at 80 columns and up.

The table holds only what fits a line: long reasons (Triton's, of a failed load) go below it, where they wrap.

Decisions have one form everywhere: ``w100: load refused, memory-budget: budget 300 MiB, used 250 MiB, needed 80 MiB``.
The reasons are the very words of the JSON and the metrics, so that what is read in one place can be searched for in
another. The log has the numbers as ``name=value`` (see ``report``).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from orchestrator.controller.status.document import (
    ControllerStatus,
    DoneAction,
    ModelState,
    NoticeStatus,
    PlannedAction,
    RefusalStatus,
    short_name,
)
from orchestrator.planner.actions import ActionKind
from orchestrator.planner.host import Batching

SHOWN_ACTIONS = 5
_SILENT_S = 60.0
"""Without a step, after which a controller that answers is in trouble: a step takes milliseconds, an action seconds."""
UNKNOWN = "–"
Line = tuple[str, str, str]
"""A label, a text and its style."""
_STATUS_STYLES = {"ready": "green", "failed": "bold red", "absent": "dim", "loading": "yellow", "unloading": "yellow"}
# Longest first where one ends another.
_UNITS = ("_per_s", "_bytes", "_ratio", "_ms", "_us", "_s", "_w", "_j")


def render_status(status: ControllerStatus, *, now_unix_s: float, device_class: str | None = None) -> RenderableType:
    """Return the section of one server, with ages as of when its page was asked for.

    ``now_unix_s`` is this machine's wall-clock time, which counts only where the page does not say its age.
    """
    now_unix_s = status.asked_unix_s(now_unix_s=now_unix_s)
    parts: list[RenderableType] = [_title(status, now_unix_s, device_class)]
    if status.models:
        parts.append(_models(status))
    parts.append(_lines(status, now_unix_s))
    return Group(*parts)


def find_troubles(status: ControllerStatus, *, now_unix_s: float) -> list[str]:
    """Return what an operator should look at on one server, in words; empty while all is in order.

    ``now_unix_s`` is as in ``render_status``.
    """
    silent_s = status.asked_unix_s(now_unix_s=now_unix_s) - status.unix_s
    return [
        *([] if status.trouble is None else [status.trouble]),
        *([f"no step for {say_age(silent_s)}"] if silent_s > _SILENT_S else []),
        *(say_notice(notice, status.family) for notice in status.notices),
        *(f"{m.label} has failed: {m.status_reason}" for m in status.models if m.status == "failed"),
        *(f"a config of {m.label} is quarantined: {m.quarantine[-1].reason}" for m in status.models if m.quarantine),
    ]


def render_unreachable(
    server: str, reason: str | None, misfits: Mapping[str, str] | None, *, device_class: str | None = None
) -> RenderableType:
    """Return the section of a server whose controller says nothing, with what its Triton says of misfits.

    ``reason`` says why; None: it has no controller. ``misfits`` are None where the Triton does not answer.
    """
    controller = ("controller", reason or "the fleet file names none", "bold red" if reason else "")
    triton = [("Triton", "it does not answer", "bold red")] if misfits is None else _left_out(misfits)
    return _section(server if device_class is None else f"{server} ({device_class})", [controller, *triton])


def render_gateway(document: str | Mapping[str, Any], *, now_unix_s: float) -> RenderableType:
    """Return the section of the gateway: who decides and the alerts of its status page, or why there is none.

    Ages are by the gateway's clock, or ``now_unix_s`` where the document has no time.
    """
    if isinstance(document, str):
        return _section("gateway", [("status page", document, "yellow")])
    now_unix_s = document.get("unix_s", now_unix_s)
    styles = {"bad": "bold red", "warn": "bold yellow"}
    alerts = [("alert", alert["text"], styles.get(alert["level"], "")) for alert in document["alerts"]]
    return _section("gateway", [*_of_policy(document, now_unix_s), *(alerts or [("alerts", "none", "")])])


def _of_policy(document: Mapping[str, Any], now_unix_s: float) -> Iterator[Line]:
    """Yield what is in force since when and why, and what is to follow it; nothing where that is not told."""
    standing = (document.get("policy") or {}).get("standing")
    if standing is None:
        return
    age = say_age(now_unix_s - standing["since_unix_s"])
    yield "policy", f"{standing['policy']}, in force for {age}: {standing['why']}", ""
    if standing["candidate"]:
        age = say_age(now_unix_s - standing["candidate_since_unix_s"])
        style = "yellow" if standing["stage"] == "returned" else ""
        yield "rollout", f"{standing['candidate']}, {standing['stage']} for {age}: {standing['candidate_why']}", style


def _section(title: str, lines: list[Line]) -> RenderableType:
    return Group(Text(title, style="bold"), _grid(lines))


def render_plan(status: ControllerStatus) -> RenderableType:
    """Return what the plan of this step would do and why, for a dry run."""
    rows = [("would", say_planned(action, status.family), "") for action in status.planned]
    return _grid([*(rows or [("would", "change nothing", "")]), *_trouble(status), *_warnings(status)])


def render_done(status: ControllerStatus) -> RenderableType:
    """Return what was done and why, and what was refused, for a single run."""
    rows: list[Line] = [
        ("did", say_done(done, status.family), "red" if done.error is not None else "") for done in status.actions
    ]
    return _grid([*(rows or [("did", "nothing", "")]), *_trouble(status), *_warnings(status)])


def _title(status: ControllerStatus, now_unix_s: float, device_class: str | None) -> Text:
    names = status.families or ((status.family,) if status.family else ())  # older controllers named one
    family = f" · {', '.join(names)}" if names else ""
    step = f" · step {status.steps:,}, {say_age(now_unix_s - status.unix_s)} ago"
    kind = "" if device_class is None else f" ({device_class})"
    return Text.assemble((status.server, "bold"), kind, family, (step, "dim"))


def _models(status: ControllerStatus) -> Table:
    table = Table(box=SIMPLE_HEAD, collapse_padding=True, pad_edge=False)
    table.add_column("width", no_wrap=True)
    table.add_column("state", no_wrap=True)
    table.add_column("inst.", no_wrap=True)
    table.add_column("batching", overflow="fold")
    for name in ("items/s", "busy", "waiting"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("note", overflow="fold")
    for model in status.models:
        table.add_row(
            model.label,
            Text(model.status, style=_STATUS_STYLES.get(model.status, "")),
            _instances(model),
            UNKNOWN if model.batching is None else say_batching(model.batching),
            _number(model.rates.items_per_s, ",.0f"),
            _number(model.rates.busy_instances, ".2f"),
            _number(model.waiting_requests, ".1f"),
            "; ".join(_notes(model)),
        )
    return table


def _instances(model: ModelState) -> str:
    is_settled = model.desired_instances in (None, model.instances)
    return f"{model.instances}" if is_settled else f"{model.instances} → {model.desired_instances}"


def _number(value: float | None, form: str) -> str:
    return UNKNOWN if value is None else format(value, form)


def _notes(model: ModelState) -> Iterator[str]:
    if model.is_changing:
        yield "changing"
    if model.is_canonical is False:
        yield "differs from its files"
    if model.live_instances is not None and model.live_instances < model.instances:
        yield f"{model.live_instances} of {model.instances} alive"
    if model.rates.failures_per_s:
        yield f"{model.rates.failures_per_s:.3g} errors/s"
    if model.request_j is not None:
        yield f"{model.request_j:.3g} J a request"
    if model.demanded_for_s is not None:
        yield f"demanded {say_age(model.demanded_for_s)}"
    if model.quarantine:
        yield f"quarantined {say_age(max(entry.for_s for entry in model.quarantine))}"


def _lines(status: ControllerStatus, now_unix_s: float) -> Table:
    rows: list[Line] = [
        *_trouble(status),
        ("memory", say_memory(status), ""),
        ("load", _load(status), ""),
        *([("driver", status.driver, "")] if status.driver else []),
        *_failures(status),
        *_warnings(status),
    ]
    for done in reversed(status.actions[-SHOWN_ACTIONS:]):
        style = "red" if done.error is not None else "yellow" if done.is_under_way else ""
        rows.append((f"{say_age(now_unix_s - done.ended_unix_s)} ago", say_done(done, status.family), style))
    return _grid(rows)


def _trouble(status: ControllerStatus) -> list[Line]:
    return [] if status.trouble is None else [("trouble", status.trouble, "bold red")]


def _load(status: ControllerStatus) -> str:
    """Return utilisation, power and energy; what is unknown for one reason is said once."""
    utilisation, power, energy = status.utilisation_ratio, status.power_w, status.energy_j
    known, unknown = [], dict[str, list[str]]()
    for name, reading in (("utilisation", utilisation), ("power", power), ("energy", energy)):
        if reading.value is None:
            unknown.setdefault(reading.reason, []).append(name)
    if utilisation.value is not None:
        known.append(f"utilisation {utilisation.value:.0%} (ceiling {status.utilisation_ceiling_ratio:.0%})")
    if power.value is not None:
        known.append(f"power {power.value:.1f} W ({power.source})")
    if energy.value is not None:
        known.append(f"energy {energy.value:,.0f} J ({energy.source})")
    if status.idle_w is not None and status.idle_j is not None:
        known.append(f"idle {status.idle_w:.1f} W, {status.idle_j:,.0f} J since the controller started")
    return " · ".join([*known, *(f"{', '.join(names)} unknown ({why})" for why, names in unknown.items())])


def _failures(status: ControllerStatus) -> Iterator[Line]:
    for model in status.models:
        if model.status_reason:
            yield ("Triton", f"{model.label}: {model.status_reason}", "red")
        for entry in model.quarantine:
            config = f"{_count(entry.instances, 'instance')} ({say_batching(entry.batching)})"
            when = f"{_count(entry.failures, 'failure')}, next try in {say_age(entry.for_s)}"
            why = "" if entry.reason == model.status_reason else f": {entry.reason}"
            yield ("quarantine", f"{model.label} with {config}: {when}{why}", "red")


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _warnings(status: ControllerStatus) -> list[Line]:
    refusals = [("refused", say_refusal(refusal, status.family), "yellow") for refusal in status.refusals]
    return [
        *_left_out(status.misfits),
        *refusals,
        *(("notice", say_notice(notice, status.family), "bold yellow") for notice in status.notices),
    ]


def _left_out(misfits: Mapping[str, str]) -> list[Line]:
    return [("left out", f"{model}: {reason}", "bold yellow") for model, reason in misfits.items()]


def _grid(rows: list[Line]) -> Table:
    """Return lines with a hanging indent behind their labels."""
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    for label, text, style in rows:
        grid.add_row(label, Text(text, style=style))
    return grid


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
    why = "; ".join(part for part in (say_numbers(notice.numbers), notice.detail) if part)
    return f"{about}{notice.kind}{f': {why}' if why else ''}"


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
