"""What of the status page's document goes into which table, and the lines above them; pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.controller.status.view import UNKNOWN, say_age, say_bytes, say_duration, say_numbers
from orchestrator.top.graphs import graph_rows, only_family, say_rate

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Column:
    """One column: what it is called, the value that it is sorted by, and that in words; None is unknown."""

    title: str
    value: Callable[[Row], Any]
    words: Callable[[Any], str] = str

    @property
    def descends(self) -> bool:
        """Whether its order begins with the largest: that of numbers, where words begin with A."""
        return self.words is not str


@dataclass(frozen=True, slots=True)
class Table:
    """One table.

    Attributes:
        rows: Returns its rows, in the document's own order.
        key: Returns what tells a row from the others.
        detail: Returns all that there is to say about one row.
    """

    columns: tuple[Column, ...]
    rows: Callable[[Row], Sequence[Row]]
    key: Callable[[Row], str]
    detail: Callable[[Row], str]


def say_part(value: float) -> str:
    """Return a ratio in percent."""
    return f"{value:.1%}" if 0 < value < 0.1 else f"{value:.0%}"


def _say_watts(value: float) -> str:
    return f"{value:.4g} W"


def _of(*path: str) -> Callable[[Row], Any]:
    def value(row: Row) -> Any:
        found: Any = row
        for key in path:
            found = found.get(key) if isinstance(found, Mapping) else None
        return found

    return value


def _share(end: str) -> Callable[[Row], float | None]:
    return lambda row: row[f"{end}_per_s"] / row["sent_per_s"] if row["sent_per_s"] else None


def _widths(row: Row) -> str:
    total = sum(width["answered_per_s"] for width in row["widths"])
    if not row["widths"]:
        return "passed through"
    return " ".join(
        f"{w['width']}:{say_part(w['answered_per_s'] / total) if total else UNKNOWN}" for w in row["widths"]
    )


def _in_time(width: Row) -> float | None:
    ran = width["answered_per_s"] + width["late_per_s"]
    return width["answered_per_s"] / ran if ran else None


def _late(width: Row) -> str:
    part = _in_time(width)
    return "" if part is None else f", {say_part(part)} in time"


def _seconds(value: float | None) -> str:
    return UNKNOWN if value is None else say_duration(value)


def _of_policy(document: Row) -> list[Row]:
    """Return who decided how often, and what was given up, with the policy as a whole beside each."""
    policy = document["policy"]
    decided = [] if policy is None else [{"reason": policy["name"], "per_s": policy["decisions_per_s"]}]
    found = {
        "policy decided": decided,
        "fallback decided": [] if policy is None else policy["fallbacks"],
        "shadow": [] if policy is None else policy["shadow_outcomes"],
        "given up for load": document["traffic"]["sheds"],
    }
    return [{"what": what, **each, "policy": policy or {}} for what, rows in found.items() for each in rows]


def _tell_policy(row: Row) -> str:
    policy = row["policy"]
    if not policy:
        return "nothing is known of the policy yet"
    shadow = f", shadow {policy['shadow']}" if policy["shadow"] else ""
    now = ", which decides now" if policy["is_paused"] else ""
    standing = policy.get("standing") or {"candidate": ""}
    rollout = f", {standing['candidate']} {standing['stage']}" if standing["candidate"] else ""
    times = f"p50 {_seconds(policy['p50_s'])}, p99 {_seconds(policy['p99_s'])} a decision"
    return f"{policy['name']}, fallback {policy['fallback']}{now}{shadow}{rollout}\n{times}"


def _quality(row: Row) -> float | None:
    total = sum(width["answered_per_s"] for width in row["widths"])
    return sum(width["quality"] * width["answered_per_s"] for width in row["widths"]) / total if total else None


def _state(row: Row) -> str:
    """Return how a server is and, of a fleet that gateways share, which of them drives it; 80 columns hold no more."""
    driver, condition = row.get("driver"), str(row["condition"])
    return condition if driver is None else f"{condition} · {driver or 'nobody'}"


def _what(row: Row) -> str:
    return f"{row['kind']} {row['model']}"


def _result(row: Row) -> str:
    return "under way" if row["is_under_way"] else f"failed: {row['error']}" if row["error"] else "done"


def _of_server(row: Row) -> str:
    control = row["controller"] or {}
    idle_w, joules = control.get("idle_w"), control.get("request_j") or {}
    lines = [
        row["reason"],
        f"left out: {', '.join(row['left_out'])}" if row["left_out"] else "",
        *(f"controller: {text}" for text in (control.get("reason"), control.get("trouble")) if text),
        *(f"refused: {_what(each)} ({each['reason']}) {_numbers(each)}" for each in control.get("refusals", ())),
        *(f"{each['kind']} {each['model'] or ''} {_numbers(each)}" for each in control.get("notices", ())),
    ]
    energy = [
        "" if idle_w is None else f"idle {_say_watts(idle_w)}, {control['idle_j']:,.0f} J so far",
        ", ".join(f"{model} {value:.3g}" for model, value in joules.items()) + " J a request" if joules else "",
    ]
    return "\n".join(filter(None, [*lines, *energy])) or f"{row['name']} is in order"


def _numbers(row: Row) -> str:
    return "; ".join(filter(None, (say_numbers(row.get("numbers") or {}), row.get("detail") or "")))


TABLES: Mapping[str, Table] = {
    "servers": Table(
        (
            Column("server", _of("name")),
            Column("state", _state),
            Column("ans/s", _of("answered_per_s"), say_rate),
            Column("batch", _of("batches_in_flight"), "{:.0f}".format),
            Column("load", _of("controller", "utilisation_ratio"), say_part),
            Column("memory", _of("controller", "used_bytes"), say_bytes),
            Column("power", _of("controller", "power_w"), _say_watts),
            Column("instances", lambda row: " ".join(f"{w}:{n}" for w, n in row["instances"])),
        ),
        lambda document: document["servers"],
        lambda row: row["name"],
        _of_server,
    ),
    "families": Table(
        (
            Column("family", _of("name")),
            Column("sent/s", _of("sent_per_s"), say_rate),
            Column("answered", _share("answered"), say_part),
            Column("late", _share("late"), say_part),
            Column("refused", _share("refused"), say_part),
            Column("failed", _share("failed"), say_part),
            Column("p95", _of("latency_p95_s"), say_duration),
            Column("quality", _quality, "{:.3f}".format),
            Column("widths", _widths),
        ),
        lambda document: document["families"],
        lambda row: row["name"],
        lambda row: "\n".join(
            f"{w['width']} %: quality {w['quality']:.4g}, "
            f"{UNKNOWN if w['item_s'] is None else say_duration(w['item_s'])} and "
            f"{UNKNOWN if w['item_j'] is None else format(w['item_j'], '.3g')} J an item, "
            f"{w['instances']} instances on {w['servers']} servers, {say_rate(w['answered_per_s'])} answers/s{_late(w)}"
            for w in row["widths"]
        ),
    ),
    "actions": Table(
        (
            Column("ago", _of("ago_s"), say_age),
            Column("server", _of("server")),
            Column("action", _what),
            Column("reason", _of("reason")),
            Column("took", _of("took_s"), say_duration),
            Column("result", _result),
        ),
        # A gateway of an earlier version does not say how long ago it was.
        lambda document: [{"ago_s": document["unix_s"] - row["ended_unix_s"], **row} for row in document["actions"]],
        lambda row: f"{row['server']} {row['ended_unix_s']} {_what(row)}",
        lambda row: f"{_what(row)} on {row['server']}, {row['reason']}: {_numbers(row)}\n{_result(row)}",
    ),
    "decisions": Table(
        (
            Column("ago", _of("ago_s"), say_age),
            Column("id", _of("id")),
            Column("family", _of("family")),
            Column("decision", _of("title")),
        ),
        lambda document: [
            {**row, "ago_s": document["unix_s"] - row["unix_s"]} for row in document["decisions"]["entries"]
        ],
        lambda row: row["id"],
        lambda row: "\n".join(row["lines"]),
    ),
    "widths": Table(
        (
            Column("family", _of("family")),
            Column("width", _of("width"), "{} %".format),
            Column("ans/s", _of("answered_per_s"), say_rate),
            Column("in time", _in_time, say_part),
            Column("quality", _of("quality"), "{:.4g}".format),
            Column("item", _of("item_s"), say_duration),
            Column("J an item", _of("item_j"), "{:.3g}".format),
            Column("servers", _of("servers"), "{}".format),
        ),
        lambda document: [
            {"family": family["name"], **width} for family in document["families"] for width in family["widths"]
        ],
        lambda row: f"{row['family']} {row['width']}",
        lambda row: f"{row['family']} at {row['width']} %: {row['instances']} instances on {row['servers']} servers",
    ),
    "policy": Table(
        (
            Column("what", _of("what")),
            Column("reason", _of("reason")),
            Column("per s", _of("per_s"), say_rate),
        ),
        _of_policy,
        lambda row: f"{row['what']} {row['reason']}",
        _tell_policy,
    ),
    "graphs": Table(
        (
            Column("graph", _of("name")),
            Column("now", _of("now")),
            Column("most", _of("most")),
            Column("last 10 min", _of("line")),
        ),
        graph_rows,
        lambda row: row["name"],
        lambda row: f"{row['name']}: " + (f"{row['least']} to {row['most']}" if row["most"] else "nothing is known"),
    ),
}
"""All there are, by name."""


def sort_rows(table: Table, document: Row, by: int | None, *, descending: bool) -> list[Row]:
    """Return a table's rows sorted by a column, what is unknown last; None: in the document's own order."""
    rows = list(table.rows(document))
    if by is None:
        return rows
    value = table.columns[by].value
    known = [row for row in rows if value(row) is not None]
    known.sort(key=value, reverse=descending)
    return known + [row for row in rows if value(row) is None]


def cells(table: Table, row: Row) -> list[str]:
    """Return a row in words."""
    found = [(column, column.value(row)) for column in table.columns]
    return [UNKNOWN if value is None else column.words(value) for column, value in found]


def say_alerts(document: Row, most: int) -> str:
    """Return what needs attention, a line each, the worst first; beyond ``most`` lines how many more there are."""
    lines = [alert["text"] for alert in document["alerts"]]
    if len(lines) > most:
        lines[most - 1 :] = [f"and {len(lines) - most + 1} more"]
    return "\n".join(lines)


def say_more(document: Row, name: str) -> str:
    """Return how many rows of a table the gateway leaves out; empty: none."""
    of = {"servers": "servers", "families": "families", "widths": "families"}.get(name)
    total = {"servers": "servers_total", "families": "families_found"}
    more = document[total[of]] - len(document[of]) if of else 0
    return f"and {more} more {of}" if more else ""


def headline(document: Row) -> str:
    """Return what runs: readiness, policy, processes, version."""
    policy = document["policy"]
    decides = "no router yet" if policy is None else policy["fallback" if policy["is_paused"] else "name"]
    ready = f"NOT READY: {document['unready']}" if document["unready"] else "ready"
    processes = "1 process" if document["workers"] == 1 else f"{document['workers']:.0f} processes"
    shared = f" · {len(document['gateways'])} gateways" if document["gateways"] else ""
    return f"{ready} · {decides} · {processes}{shared} · {document['version']}"


def figures(document: Row) -> str:
    """Return the numbers of now in two lines, and what was served for which power in a third where it is known."""
    traffic, energy = document["traffic"], document["energy"]

    def seconds(key: str) -> str:
        return UNKNOWN if traffic[key] is None else say_duration(traffic[key])

    ends = " ".join(f"{end} {say_rate(traffic[f'{end}_per_s'])}" for end in ("answered", "late", "refused", "failed"))
    power = "" if energy["power_w"] is None else _say_watts(energy["power_w"])
    joules = "" if energy["j_per_answer"] is None else f", {energy['j_per_answer']:.3g} J an answer"
    family = only_family(document)
    served = None if family is None else _quality(family)
    most = max((width["quality"] for width in family["widths"]), default=0.0) if family else 0.0
    quality = "" if served is None else f"quality {served:.3f} of at most {most:.3f}"
    third = " · ".join(filter(None, (quality, power + joules)))
    return (
        f"{say_rate(traffic['sent_per_s'])}/s: {ends}\n"
        f"p50 {seconds('latency_p50_s')}  p95 {seconds('latency_p95_s')}  p99 {seconds('latency_p99_s')} · "
        f"queue {traffic['queue_items']:.0f} items, p95 {seconds('queue_p95_s')} · "
        f"{traffic['in_flight']:.0f} in flight" + (third and f"\n{third}")
    )
