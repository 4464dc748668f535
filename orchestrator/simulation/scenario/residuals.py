"""What batches took over what was expected of them: factors out of files, and out of decisions that were recorded.

A scenario resamples such factors (``hosts: residuals``), so that its noise is that of a real fleet, with its tail.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from orchestrator.errors import ConfigError
from orchestrator.validation import quote_value

MOST_FACTORS = 1_000_000


def read_factors(path: Path) -> tuple[float, ...]:
    """Return the factors that a path holds: of a file, one a line, or those of a decision log or a directory of them.

    Blank lines and those that begin with # say nothing.

    Raises:
        ConfigError: when it can't be read, holds none, or one that is not above 0.
    """
    is_folder = os.path.isdir(path)
    if is_folder or path.suffix == ".jsonl":
        logs = sorted(path.glob("*.jsonl*")) if is_folder else [path]
        if recorded := recorded_factors(logs):
            return tuple(recorded)
        names = ", ".join(map(str, logs)) or "no file"
        raise ConfigError(
            f"{names}: no batch that an idle server was sent and answered; log more (router.decision_log.sample_ratio)"
        )
    found: list[float] = []
    for number, line in enumerate(_read_lines(path), start=1):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        try:
            factor = float(text)
        except ValueError:
            factor = math.nan
        if not 0 < factor < math.inf:
            raise ConfigError(
                f"{path}, line {number}: {quote_value(text)} is no factor; give one number a line, finite and above 0"
            )
        found.append(factor)
        if len(found) > MOST_FACTORS:
            raise ConfigError(f"{path} holds more than {MOST_FACTORS} factors; keep a sample of them")
    if not found:
        raise ConfigError(f"{path} holds no factor; at least one line with a number")
    return tuple(found)


def recorded_factors(paths: Sequence[Path]) -> list[float]:
    """Return actual over expected times of the batches in decision logs, over their mean, in the order of writing.

    So they say how much times vary; how long batches take is for the widths of a scenario to say. Batches that failed
    or whose server had others already are left out: what those took is waiting as well. So is a line that was cut off.

    Raises:
        ConfigError: when a log can't be read.
    """
    found = [factor for path in paths for factor in map(_factor_of, _records(path)) if factor is not None]
    if not found:
        return []
    mean = math.fsum(found) / len(found)
    return [factor / mean for factor in found]


def _factor_of(record: dict[str, Any]) -> float | None:
    try:
        choice, outcome = record["choice"], record["outcome"]
        if choice is None or outcome["error"] is not None:
            return None
        wanted = choice["server"], choice["width"]
        chosen = next(c for c in record["candidates"] if (c["server"], c["width"]) == wanted)
        expected_s = chosen["item_s"] * outcome["items"] + chosen["group_s"]
        is_idle = chosen["server_items"] == 0
        factor = outcome["service_s"] / expected_s if is_idle and expected_s > 0 else 0.0
    except (ArithmeticError, KeyError, TypeError, StopIteration):
        return None
    return factor if 0 < factor < math.inf else None


def _records(path: Path) -> Iterator[dict[str, Any]]:
    for line in _read_lines(path):
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(record, dict):
            yield record


def _read_lines(path: Path) -> Iterator[str]:
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            yield from file
    except OSError as exc:
        raise ConfigError(f"can't read {path} ({exc.strerror})") from exc
