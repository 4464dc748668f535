"""What a decision weighed, in words, from the record of it in the decision log."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from orchestrator.decision import Reason
from orchestrator.policies.registry import has_width_rule, parse_policy
from orchestrator.policies.rules.brownout import LONGEST_DRAIN_S, reserve_of
from orchestrator.profile.margin import CONFIDENCE

Record = Mapping[str, Any]

_EXPLAINED = "brownout"
"""The width rule whose choice of the widest width below its ceiling can be explained."""


def describe_decision(record: Record) -> list[str]:
    """Return all that can be said of a decision in sentences: what it was about, what it weighed, and its shadow."""
    queue = record["queue"]
    stood_in = "" if record["fault"] is None else f", standing in ({record['fault']})"
    at = _utc(record["at"])
    lines = [
        f"{record['id']} of {record['family']}, {at}, decided by {record['policy']}{stood_in}: {record['reason']}",
        f"{queue['items']} items wait, a head of {queue['head_items']} due in {_ms(queue['head_slack_s'])}; "
        f"nine of ten due in {_ms(queue['tail_slack_s'])}; priority {queue['priority']}",
        *explain(record),
    ]
    lines += _describe_rollout(record)
    if (shadow := record.get("shadow")) is not None:
        own = shadow["choice"]
        instead = f"{own['items']} items to {own['server']} at {own['width']} %" if own is not None else "nothing now"
        lines.append(
            f"{shadow['policy']}, in the shadow, would have sent {instead} ({shadow['fault'] or shadow['outcome']})"
        )
    return lines


def _describe_rollout(record: Record) -> Iterator[str]:
    """Yield since when what was in force was, and why, and what was to follow it; nothing where that is not told."""
    if (in_force := record.get("in_force")) is not None:
        yield f"{in_force['policy']} was in force since {_utc(in_force['since'])}: {in_force['why']}"
    if (rollout := record.get("rollout")) is not None:
        since = _utc(rollout["since"])
        yield f"{rollout['candidate']} was to follow it, {rollout['stage']} since {since}: {rollout['why']}"


def _utc(unix_s: float) -> str:
    return f"{time.strftime('%Y-%m-%d %H:%M:%S', time.gmtime(unix_s))} UTC"


def describe_outcome(outcome: Record) -> str:
    """Return in a line what came of the batch that a decision sent."""
    if outcome["error"] is not None:
        return f"it failed: {outcome['error']}"
    requests = outcome["requests"]
    in_time = sum(request["in_time"] for request in requests)
    return (
        f"{outcome['items']} items of {len(requests)} requests ran for {_ms(outcome['service_s'])}; {in_time} in time"
    )


def explain(record: Record) -> Iterator[str]:
    """Yield sentences about a decision that sent something: what was expected, why not wider, and who came second."""
    choice, candidates = record["choice"], record["candidates"]
    chosen = next((c for c in candidates if choice is not None and _key(c) == _key(choice)), None)
    if chosen is None:
        return
    slack_s, margin = record["queue"]["head_slack_s"], _margin(chosen, record)
    wait_s, expected_s = chosen["wait_s"], chosen["wait_s"] + chosen["item_s"] * choice["items"] + chosen["group_s"]
    waiting = f", {_ms(wait_s)} of them behind what it had" if wait_s > 0 else ""
    yield (
        f"{choice['server']} at {choice['width']} % was expected to answer in {_ms(expected_s)}{waiting}, "
        f"and {CONFIDENCE * 100:g} times in 100 within {_ms(expected_s * margin)}; the head was due in {_ms(slack_s)}."
    )
    name, _, width_rule = record["policy"].partition(",")[0].partition(":")
    if width_rule != _EXPLAINED or not has_width_rule(name):
        return
    yield _why_not_wider(chosen, candidates, record)
    yield from _describe_second(chosen, candidates)


def _describe_second(chosen: Record, candidates: Sequence[Record]) -> Iterator[str]:
    """Yield what the runner-up lacked: another server at the same width, or else the next narrower width."""
    others = [c for c in candidates if c["server"] != chosen["server"] and c["width"] == chosen["width"]]
    narrower = [c for c in candidates if c["width"] < chosen["width"]]
    if not others:
        others = [c for c in narrower if c["width"] == max(each["width"] for each in narrower)]
    second = min(others, key=lambda c: c["head_completion_s"], default=None)
    if second is None:
        return
    name, later_s = second["server"], second["head_completion_s"] - chosen["head_completion_s"]
    when = f"{_ms(abs(later_s))} {'later' if later_s > 0 else 'sooner'}"
    if second["width"] == chosen["width"]:
        yield f"{name}, the next best at {second['width']} %, would have answered the head {when}."
    else:
        yield f"{name} at {second['width']} %, the next best, would have answered the head {when}, less accurately."


def _why_not_wider(chosen: Record, candidates: Sequence[Record], record: Record) -> str:
    wider = [c for c in candidates if c["width"] > chosen["width"]]
    if not wider:
        return "No server serves a wider width that the request allows."
    width = min(c["width"] for c in wider)
    quickest = min((c for c in wider if c["width"] == width), key=lambda c: c["completion_s"] * _margin(c, record))
    most_s, drain_s = quickest["completion_s"] * _margin(quickest, record), quickest["drain_s"]
    tail_slack_s = record["queue"]["tail_slack_s"]
    if most_s > record["queue"]["head_slack_s"]:
        return f"{width} % might have been too late: {quickest['server']} would have taken up to {_ms(most_s)}."
    if drain_s > LONGEST_DRAIN_S:
        return f"At {width} % all servers together would have taken {_ms(drain_s)} for what waited."
    reserve = reserve_of(parse_policy(record["policy"]).numbers)
    if drain_s * reserve * max(1.0, _margin(quickest, record)) > tail_slack_s:
        return (
            f"At {width} % all servers together would have taken {_ms(drain_s)} for what waited, of which nine of ten "
            f"were due in {_ms(tail_slack_s)}; only part of that may be used."
        )
    if record["reason"] == Reason.BELOW_CEILING:
        return (
            f"{width} % would have been in time, but late or refused requests, or the load, had ruled it out for now."
        )
    return f"{width} % would have been in time as well."


def _key(candidate: Record) -> tuple[Any, Any]:
    return candidate["server"], candidate["width"]


def _margin(candidate: Record, record: Record) -> float:
    margin: float | None = candidate.get("margin")
    return float(record["slack_margin"]) if margin is None else margin


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:.1f} ms"
