"""profile.json as text: strict in, canonical out, replaced as a whole.

Everything is checked before a number is used: types, limits, unknown keys, cells that are missing, values that
contradict each other. A refusal names the key, the value and what to do; a profile that is silently half right makes
every decision that rests on it half wrong.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from orchestrator.errors import ConfigError
from orchestrator.files import write_atomically
from orchestrator.profile.document import BatchProfile, ModelProfile, Origin, Profile, ServerProfile, batch_ladder
from orchestrator.validation import describe_problem

TAKE_AGAIN = "take it again with 'slimsched profile'"
_ADAPTER = TypeAdapter(Profile)
_JSON_NAMES = {"per_item_s": "item_s", "fixed_s": "group_s"}


def parse_profile(text: str | bytes, *, source: str = "profile.json") -> Profile:
    """Return the profile that JSON ``text`` spells; errors name ``source``.

    Raises:
        ConfigError: when it is cut off, has a key too many or too few, a value out of range, a batch size that is
            missing, or contradicts itself.
    """
    try:
        profile = _ADAPTER.validate_json(text, strict=True, extra="forbid")
    except ValidationError as exc:
        raise ConfigError(f"{source}: {describe_problem(exc, Profile)}; {TAKE_AGAIN}") from exc
    for path, problem in _contradictions(profile):
        raise ConfigError(f"{source}: {path}: {problem}; {TAKE_AGAIN}")
    return profile


def render_profile(profile: Profile) -> str:
    """Return the profile as JSON; ``parse_profile`` gives it back."""
    values = asdict(profile, dict_factory=_by_json_names)
    for batch in (b for server in values["servers"] for model in server["models"] for b in model["batches"]):
        for key in ("busy_s", "rested_s"):  # there when they were measured
            if batch[key] is None:
                del batch[key]
    return json.dumps(values, indent=1, allow_nan=False) + "\n"


def _by_json_names(fields: list[tuple[str, Any]]) -> dict[str, Any]:
    return {_JSON_NAMES.get(name, name): value for name, value in fields}


def read_profile(path: Path) -> Profile:
    """Return the profile in a file.

    Raises:
        ConfigError: when it can't be read, and as ``parse_profile``.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise ConfigError(
            f"no profile at {path}; 'slimsched profile --fleet fleet.yaml --out {path}' takes one"
        ) from None
    except OSError as exc:
        raise ConfigError(f"can't read {path} ({exc.strerror}); check its permissions") from exc
    return parse_profile(data, source=str(path))


def write_profile(profile: Profile, path: Path) -> None:
    """Replace the file by the profile; a reader, or a crash, finds the old file or the new one.

    Raises:
        ConfigError: when it can't be written, or would be refused when read.
    """
    text = render_profile(profile)
    parse_profile(text, source=f"the profile for {path}")
    try:
        write_atomically(path, text)
    except OSError as exc:
        raise ConfigError(f"can't write {path} ({exc.strerror}); give another place") from exc


def _contradictions(profile: Profile) -> Iterator[tuple[str, str]]:
    """Yield (key path, problem) of what no single limit can tell."""
    yield from _twice("servers", [server.name for server in profile.servers])
    for index, server in enumerate(profile.servers):
        path = f"servers[{index}]"
        yield from _server_contradictions(path, server)
        for at, model in enumerate(server.models):
            yield from _model_contradictions(f"{path}.models[{at}]", model, server.origin)


def _server_contradictions(path: str, server: ServerProfile) -> Iterator[tuple[str, str]]:
    if (server.origin is Origin.EMULATED) != (server.slowdown is not None) and server.origin is not Origin.SYNTHETIC:
        yield f"{path}.slowdown", f"{server.slowdown} does not go with origin {server.origin.value!r}"
    if server.triton_version is None and server.origin is not Origin.SYNTHETIC:
        yield f"{path}.triton_version", "null is allowed in synthetic profiles only"
    idle = server.idle
    if not (idle.power_w is None) == (idle.source is None) == bool(idle.reason):
        yield f"{path}.idle", "power_w and source are null together, and then there is a reason"
    yield from _twice(f"{path}.models", [model.name for model in server.models])


def _model_contradictions(path: str, model: ModelProfile, origin: Origin) -> Iterator[tuple[str, str]]:
    if model.sha256 is None and origin is not Origin.SYNTHETIC:
        yield f"{path}.sha256", "null is allowed in synthetic profiles only"
    found = [batch.items for batch in model.batches]
    wanted = list(batch_ladder(model.max_batch_size))
    if found != wanted:
        missing = ", ".join(str(items) for items in wanted if items not in found)
        what = f"batch sizes {missing} are missing" if missing else "there are others, or they are out of order"
        yield f"{path}.batches", f"{what}; it takes {', '.join(map(str, wanted))}, got {found}"
    if len({batch.busy_s is None for batch in model.batches}) > 1:
        yield f"{path}.batches", "busy_s is known of some batch sizes and not of others"
    for at, batch in enumerate(model.batches):
        yield from _batch_contradictions(f"{path}.batches[{at}]", batch, origin)


def _batch_contradictions(path: str, batch: BatchProfile, origin: Origin) -> Iterator[tuple[str, str]]:
    if (batch.n == 0) != (origin is Origin.SYNTHETIC):
        yield f"{path}.n", f"{batch.n} does not go with origin {origin.value!r}"
    if batch.p50_s > batch.p99_s:
        yield f"{path}.p99_s", f"{batch.p99_s} is below p50_s, {batch.p50_s}"
    if (batch.busy_s is None) != (batch.rested_s is None):
        yield f"{path}.busy_s", "it and rested_s are measured together; one of them is missing"
    if not (batch.energy_j is None) == (batch.energy_source is None) == bool(batch.energy_reason):
        yield f"{path}.energy_j", "it and energy_source are null together, and then there is an energy_reason"


def _twice(path: str, names: Sequence[str]) -> Iterator[tuple[str, str]]:
    for index, name in enumerate(names):
        if name in names[:index]:
            yield f"{path}[{index}].name", f"{name!r} is there twice"
