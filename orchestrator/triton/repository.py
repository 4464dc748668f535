"""A model repository as its files describe it, and the configs that are made of them.

What is sent to Triton is always the whole config of the file with three things set: instance count, batching and the
nonce. Triton compares what was sent with what was sent before, so anything else would turn the next change of a
count into a full reload; in particular ``runtime``, which ModelConfig reports and no file has. What is not valid is
refused here, because Triton says no more than "failed to poll".

Files are read again only when they have changed: a call costs a few ``stat`` a model. So are the weights, which are
held against the digest that ``slimsched export`` wrote into the config.
"""

from __future__ import annotations

import copy
import hashlib
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from google.protobuf import json_format, text_format

from orchestrator.errors import ConfigError
from orchestrator.planner.host import Batching, RepositoryModel
from orchestrator.snapshot import Family, ModelName, Width
from orchestrator.triton.messages import ModelConfig

NONCE = "slim.nonce"
DIGEST = "slim.sha256"
CONFIG_FILE = "config.pbtxt"
DEFAULT_MODEL_FILE = "model.onnx"
EXPORT_AGAIN = "run 'slimsched export' again"
_BATCHING_FIELDS = ("preferred_batch_size", "max_queue_delay_microseconds")


@dataclass(frozen=True, slots=True)
class RepositoryEntry:
    """One width: what a plan knows of it, and the config that Triton gets.

    Attributes:
        config: The config of the file as JSON with protobuf's own field names, without what ``build_override`` sets.
    """

    model: RepositoryModel
    config: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class _Parsed:
    stamp: tuple[int, int]
    entry: RepositoryEntry | None  # None: no model of a slimmable family
    model_file: str
    sha256: str  # that its weights should have; empty: the config does not say


class Repository:
    """The widths of the families in a model repository; of one only, if it is named."""

    def __init__(self, path: Path, family: str | None = None) -> None:
        self.path = path
        self._family = family
        self._parsed: dict[str, _Parsed] = {}
        self._digests: dict[str, tuple[tuple[Path, int, int, int, int, int], str]] = {}

    def entries(self) -> tuple[RepositoryEntry, ...]:
        """Return the widths as the files are now, ascending in each family.

        Raises:
            ConfigError: The repository can't be used; names what and the remedy.
        """
        entries = [entry for entry in map(self._read, self._folders()) if entry is not None]
        chosen = [entry for entry in entries if self._family in (None, entry.model.family)]
        if not chosen:
            wanted = "any family" if self._family is None else f"family {self._family!r}"
            families = sorted({entry.model.family for entry in entries})
            others = f"it has {', '.join(families)}; " if families else ""
            raise ConfigError(
                f"repository {self.path} holds no width of {wanted}; {others}run 'slimsched export' into it, or set "
                "the server's 'repository' to the folder that its Triton serves"
            )
        return tuple(sorted(chosen, key=lambda entry: (entry.model.family, entry.model.width, entry.model.name)))

    def _folders(self) -> list[str]:
        try:
            with os.scandir(self.path) as found:
                return sorted(entry.name for entry in found if entry.is_dir())
        except OSError as exc:
            raise ConfigError(
                f"can't read repository {self.path} ({exc.strerror}); set the server's 'repository' to the folder "
                "that its Triton serves"
            ) from exc

    def _read(self, name: str) -> RepositoryEntry | None:
        path = self.path / name / CONFIG_FILE
        try:
            status = path.stat()
            stamp = (status.st_mtime_ns, status.st_size)
            parsed = self._parsed.get(name)
            if parsed is None or parsed.stamp != stamp:
                parsed = _parse(name, path.read_text(), stamp)
                self._parsed[name] = parsed
        except FileNotFoundError:
            return None
        except (OSError, UnicodeDecodeError) as exc:
            raise ConfigError(f"can't read {path} ({exc}); {EXPORT_AGAIN}") from exc
        if parsed.entry is None:
            return None
        path, weights = _stat_weights(self.path / name, parsed.model_file)
        damage = self._judge_weights(name, path, weights, parsed.sha256) if parsed.sha256 else ""
        files_stamp = f"{stamp[0]}-{stamp[1]}-{weights.st_mtime_ns}-{weights.st_size}"
        model = replace(parsed.entry.model, weights_bytes=weights.st_size, files_stamp=files_stamp, damage=damage)
        return replace(parsed.entry, model=model)

    def _judge_weights(self, name: str, path: Path, status: os.stat_result, wanted: str) -> str:
        """Return in what a file differs from its digest, empty when in nothing; it is read when it has changed."""
        key = (path, status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
        known, found = self._digests.get(name, (None, ""))
        if known != key:
            try:
                with path.open("rb") as file:
                    found = hashlib.file_digest(file, "sha256").hexdigest()
            except OSError as exc:
                raise ConfigError(f"can't read {path} ({exc}); {EXPORT_AGAIN}") from exc
            self._digests[name] = (key, found)
        if found == wanted:
            return ""
        return f"{path} has sha256 {found[:12]}…, its {CONFIG_FILE} says {wanted[:12]}…; {EXPORT_AGAIN}"


def build_override(entry: RepositoryEntry, *, instances: int, batching: Batching, nonce: str) -> dict[str, Any]:
    """Return the full config to load a model with, as Triton's load override takes it.

    Raises:
        ConfigError: Triton would refuse it.
    """
    check_change(entry.model, instances=instances, batching=batching)
    config: dict[str, Any] = copy.deepcopy(dict(entry.config))
    config["instance_group"][0]["count"] = instances
    if batching.preferred_sizes:
        config["dynamic_batching"]["preferred_batch_size"] = list(batching.preferred_sizes)
    if batching.delay_us:
        config["dynamic_batching"]["max_queue_delay_microseconds"] = batching.delay_us
    if nonce:
        config.setdefault("parameters", {})[NONCE] = {"string_value": nonce}
    return config


def check_change(model: RepositoryModel, *, instances: int, batching: Batching) -> None:
    """Check what a model is to run with; raises ConfigError when names the value and what is allowed."""
    sizes = batching.preferred_sizes
    if instances < 1:
        raise ConfigError(f"model {model.name} can't run with {instances} instances; give 1 or more, or unload it")
    if batching.delay_us < 0:
        raise ConfigError(f"model {model.name} can't delay batches by {batching.delay_us} µs; give 0 or more")
    if list(sizes) != sorted(set(sizes)) or any(not 1 <= size <= model.max_batch_size for size in sizes):
        raise ConfigError(
            f"model {model.name} can't prefer batches of {', '.join(map(str, sizes))}; give ascending sizes from 1 to "
            f"its max_batch_size {model.max_batch_size}"
        )


def normalise_batching(batching: Batching, max_batch_size: int) -> Batching:
    """Return the same batching in the one form that is used here.

    Triton writes the largest batch as preferred where none is, so that alone and nothing mean the same: nothing.
    """
    is_default = batching.preferred_sizes == (max_batch_size,)
    return replace(batching, preferred_sizes=()) if is_default else batching


def parse_batching(dynamic_batching: Mapping[str, Any], max_batch_size: int) -> Batching:
    """Return the batching that a config, as JSON, asks for, normalised."""
    batching = Batching(
        preferred_sizes=tuple(int(size) for size in dynamic_batching.get("preferred_batch_size", ())),
        delay_us=int(dynamic_batching.get("max_queue_delay_microseconds", 0)),
    )
    return normalise_batching(batching, max_batch_size)


def encode_config(config: ModelConfig) -> dict[str, Any]:
    """Return a config as the JSON that Triton's load override takes: protobuf's own field names."""
    encoded: dict[str, Any] = json_format.MessageToDict(config, preserving_proto_field_name=True)
    return encoded


def _parse(name: str, text: str, stamp: tuple[int, int]) -> _Parsed:
    if '"slim.family"' not in text:  # someone else's, which may have fields that we do not know
        return _Parsed(stamp, None, "", "")
    try:
        config = text_format.Parse(text, ModelConfig())
    except text_format.ParseError as exc:
        raise ConfigError(f"{CONFIG_FILE} of model {name}: {' '.join(str(exc).split())}; {EXPORT_AGAIN}") from exc
    encoded = encode_config(config)
    encoded.pop("runtime", None)
    encoded.get("parameters", {}).pop(NONCE, None)
    batching = encoded.setdefault("dynamic_batching", {})
    model = RepositoryModel(
        name=ModelName(name),
        family=Family(_require(name, config, "slim.family")),
        width=Width(_require_width(name, config)),
        accuracy=_require_accuracy(name, config),
        max_batch_size=_require_batches(name, config),
        weights_bytes=0,
        instances=_require_instances(name, config),
        batching=parse_batching(batching, config.max_batch_size),
    )
    check_change(model, instances=model.instances, batching=model.batching)
    for field in _BATCHING_FIELDS:
        batching.pop(field, None)
    del encoded["instance_group"][0]["count"]
    sha256 = config.parameters[DIGEST].string_value if DIGEST in config.parameters else ""
    model_file = config.default_model_filename or DEFAULT_MODEL_FILE
    return _Parsed(stamp, RepositoryEntry(model, encoded), model_file, sha256)


def _require(name: str, config: ModelConfig, key: str) -> str:
    if key not in config.parameters:
        raise ConfigError(f"{CONFIG_FILE} of model {name} lacks parameter {key}; {EXPORT_AGAIN}")
    value: str = config.parameters[key].string_value
    return value


def _require_width(name: str, config: ModelConfig) -> int:
    text = _require(name, config, "slim.width")
    width = int(text) if text.isascii() and text.isdigit() else 0
    if not 1 <= width <= 100:
        raise ConfigError(
            f"{CONFIG_FILE} of model {name}: slim.width {text!r} is no whole percentage from 1 to 100; {EXPORT_AGAIN}"
        )
    return width


def _require_accuracy(name: str, config: ModelConfig) -> float:
    text = _require(name, config, "slim.accuracy")
    try:
        accuracy = float(text)
    except ValueError:
        accuracy = -1.0
    if not 0 <= accuracy <= 1:
        raise ConfigError(
            f"{CONFIG_FILE} of model {name}: slim.accuracy {text!r} is no number from 0 to 1; {EXPORT_AGAIN}"
        )
    return accuracy


def _require_batches(name: str, config: ModelConfig) -> int:
    if config.max_batch_size < 1:
        raise ConfigError(
            f"{CONFIG_FILE} of model {name}: max_batch_size is {config.max_batch_size}, and requests can't be batched; "
            f"{EXPORT_AGAIN} with --max-batch-size 1 or more"
        )
    return int(config.max_batch_size)


def _require_instances(name: str, config: ModelConfig) -> int:
    groups = config.instance_group
    if len(groups) != 1 or groups[0].count < 1:
        found = f"{len(groups)} instance groups" if len(groups) != 1 else "an instance group without count"
        raise ConfigError(
            f"{CONFIG_FILE} of model {name} has {found}; write exactly one with its kind and a count of 1 or more, "
            "such as instance_group { count: 1 kind: KIND_CPU }"
        )
    return int(groups[0].count)


def _stat_weights(folder: Path, model_file: str) -> tuple[Path, os.stat_result]:
    """Return the newest version's model file, which Triton serves by default, and its status."""
    try:
        with os.scandir(folder) as found:
            versions = sorted(int(entry.name) for entry in found if entry.name.isascii() and entry.name.isdigit())
        if versions:
            path = folder / str(versions[-1]) / model_file
            status = path.stat()
            if stat.S_ISREG(status.st_mode):
                return path, status
    except OSError:
        pass
    raise ConfigError(f"model {folder.name} has no <version>/{model_file} in {folder}; {EXPORT_AGAIN}")
