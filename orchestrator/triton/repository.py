"""A model repository as its files, and the fleet file, describe it, and the configs that are made of them.

What is sent to Triton is always the whole config of the file with three things set: instance count, batching and the
nonce. Triton compares what was sent with what was sent before, so anything else would turn the next change of a
count into a full reload; in particular ``runtime``, which ModelConfig reports and no file has. What is not valid is
refused here, because Triton says no more than "failed to poll".

Files are read again only when they have changed: a call costs a few ``stat`` a model. So are the weights, which are
held against the digest that ``slimsched export`` wrote into the config.

One model that can't be used leaves the others in charge: it is left out, and why is told (``Repository.misfits``). What
the fleet file describes may be of any backend, so its weights are all files of its newest version.
"""

from __future__ import annotations

import copy
import hashlib
import logging
import os
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from google.protobuf import json_format, text_format

from orchestrator.errors import ConfigError
from orchestrator.planner.host import Batching, RepositoryModel
from orchestrator.snapshot import ModelName
from orchestrator.triton.families import (
    DESCRIBED_REMEDY,
    Described,
    Identity,
    Interface,
    as_served,
    choose_interfaces,
    interface_of,
    misfits_among,
    read_identity,
)
from orchestrator.triton.messages import ModelConfig

log = logging.getLogger(__name__)

NONCE = "slim.nonce"
CONFIG_FILE = "config.pbtxt"
DEFAULT_MODEL_FILE = "model.onnx"
EXPORT_AGAIN = "run 'slimsched export', or 'import', again"
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
    entry: RepositoryEntry | None  # None: no model of a family
    model_file: str  # empty: all files of a version
    sha256: str  # that its weights should have; empty: the config does not say
    misfit: str = ""  # why it is no model of a family though it looks like one
    interface: Interface | None = None  # None where its config leaves it to Triton


class Repository:
    """The widths of the families in a model repository; of one only, if it is named.

    Attributes:
        misfits: Why models that look meant for a family are none, or can't be looked after, by name; as of the last
            look at the files.
    """

    def __init__(self, path: Path, family: str | None = None, described: Described | None = None) -> None:
        self.path = path
        self.misfits: Mapping[str, str] = {}
        self._family = family
        self._described = described or {}
        self._last: set[str] = set()  # names that it had when it was last looked at
        self._parsed: dict[str, _Parsed] = {}
        self._digests: dict[str, tuple[tuple[Path, int, int, int, int, int], str]] = {}

    def entries(self) -> tuple[RepositoryEntry, ...]:
        """Return the widths as the files are now, ascending in each family.

        Raises:
            ConfigError: The repository can't be used; names what and the remedy.
        """
        entries = self._usable_entries()
        chosen = [entry for entry in entries if self._family in (None, entry.model.family)]
        if not chosen and self.misfits:
            name, reason = next(iter(self.misfits.items()))
            raise ConfigError(f"repository {self.path} holds no width that can be used; model {name}: {reason}")
        if not chosen:
            wanted = "any family" if self._family is None else f"family {self._family!r}"
            families = sorted({entry.model.family for entry in entries})
            others = f"it has {', '.join(families)}; " if families else ""
            raise ConfigError(
                f"repository {self.path} holds no width of {wanted}; {others}run 'slimsched export' into it, or set "
                "the server's 'repository' to the folder that its Triton serves"
            )
        return tuple(sorted(chosen, key=lambda entry: (entry.model.family, entry.model.width, entry.model.name)))

    def _usable_entries(self) -> list[RepositoryEntry]:
        """Return the models that can be looked after, and note why others can't."""
        entries, misfits = [], {}
        folders = self._folders()
        for name in folders:
            try:
                entry = self._read(name)
            except ConfigError as exc:
                misfits[name] = str(exc)
            else:
                entries += [entry] if entry is not None else []
        for name in self._described:
            if name in folders and not (self.path / name / CONFIG_FILE).is_file():
                misfits[name] = f"it has no {CONFIG_FILE} in {self.path / name}, so it is served and not looked after"
        known = [parsed for name in folders if (parsed := self._parsed.get(name)) is not None]
        misfits |= _find_odd(known)
        self.misfits = dict(sorted(misfits.items()))
        self._tell_gone({entry.model.name for entry in entries} | misfits.keys())
        return [entry for entry in entries if entry.model.name not in misfits]

    def _tell_gone(self, now: set[str]) -> None:
        for name in sorted(self._last - now):
            path = self.path / name / CONFIG_FILE
            if path.is_file() and name not in self._described:
                log.warning(
                    "model %s is not looked after any more: %s names no slim.family; %s", name, path, EXPORT_AGAIN
                )
                continue
            log.warning(
                "model %s is not in repository %s any more and is not looked after; if it should be, put it back",
                name,
                self.path,
            )
        self._last = now

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
                parsed = _parse(name, path.read_text(), stamp, self._described)
                self._parsed[name] = parsed
        except FileNotFoundError:
            return None
        except (OSError, UnicodeDecodeError) as exc:
            raise ConfigError(f"can't read {path} ({exc}); {EXPORT_AGAIN}") from exc
        if parsed.misfit:
            raise ConfigError(parsed.misfit)
        if parsed.entry is None:
            return None
        if not parsed.model_file:
            try:
                return _weigh(parsed.entry, self.path / name, stamp)
            except OSError as exc:  # another user's, say, or moved away meanwhile
                raise ConfigError(f"can't read {exc.filename or self.path / name} ({exc.strerror or exc})") from exc
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
        config.setdefault("dynamic_batching", {})["preferred_batch_size"] = list(batching.preferred_sizes)
    if batching.delay_us:
        config.setdefault("dynamic_batching", {})["max_queue_delay_microseconds"] = batching.delay_us
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


def _parse(name: str, text: str, stamp: tuple[int, int], described: Described) -> _Parsed:
    identity = described.get(name)
    if identity is None and '"slim.family"' not in text:  # someone else's, which may have fields that we do not know
        return _Parsed(stamp, None, "", "")
    try:
        config = text_format.Parse(text, ModelConfig())
        return _parse_described(name, config, stamp, identity) if identity else _parse_own(name, config, stamp)
    except (ConfigError, text_format.ParseError, ValueError) as exc:
        remedy = DESCRIBED_REMEDY if identity else EXPORT_AGAIN
        misfit = f"{CONFIG_FILE} of model {name}: {' '.join(str(exc).split())}; {remedy}"
        return _Parsed(stamp, None, "", "", misfit)


def _parse_described(name: str, config: ModelConfig, stamp: tuple[int, int], identity: Identity) -> _Parsed:
    """Return a model that the fleet file describes; what its file leaves to Triton is left to it."""
    if config.HasField("ensemble_scheduling"):
        raise ConfigError("it is an ensemble, whose steps have the instances; it is served and not looked after")
    del config.instance_group[1:]
    if not config.instance_group:
        config.instance_group.add()
    config.instance_group[0].count = max(1, config.instance_group[0].count)
    entry = _make_entry(name, config, identity)
    interface = interface_of(as_served(config, identity)) if config.input and config.output else None
    return _Parsed(stamp, entry, "", "", interface=interface)


def _parse_own(name: str, config: ModelConfig, stamp: tuple[int, int]) -> _Parsed:
    """Return a model that describes itself."""
    identity = read_identity({key: value.string_value for key, value in config.parameters.items()})
    assert identity is not None, "it has slim.family"
    groups = config.instance_group
    if len(groups) != 1 or groups[0].count < 1:
        found = f"{len(groups)} instance groups" if len(groups) != 1 else "an instance group without count"
        raise ConfigError(
            f"it has {found}; write exactly one with its kind and a count of 1 or more, such as "
            "instance_group { count: 1 kind: KIND_CPU }"
        )
    interface = interface_of(as_served(config, identity)) if config.input and config.output else None
    model_file = config.default_model_filename or DEFAULT_MODEL_FILE
    return _Parsed(stamp, _make_entry(name, config, identity), model_file, identity.sha256 or "", interface=interface)


def _make_entry(name: str, config: ModelConfig, identity: Identity) -> RepositoryEntry:
    encoded = encode_config(config)
    encoded.pop("runtime", None)
    encoded.get("parameters", {}).pop(NONCE, None)
    batching = encoded.setdefault("dynamic_batching", {}) if config.max_batch_size > 0 else {}
    model = RepositoryModel(
        name=ModelName(name),
        family=identity.family,
        width=identity.width,
        accuracy=identity.accuracy,
        max_batch_size=max(1, config.max_batch_size),
        weights_bytes=0,
        instances=int(config.instance_group[0].count),
        batching=parse_batching(batching, config.max_batch_size),
    )
    check_change(model, instances=model.instances, batching=model.batching)
    for field in _BATCHING_FIELDS:
        batching.pop(field, None)
    del encoded["instance_group"][0]["count"]
    return RepositoryEntry(model, encoded)


def _find_odd(parsed: Iterable[_Parsed]) -> dict[str, str]:
    """Return why models take or give something else than most of their family, or are twins, by name."""
    known = [
        (one.entry.model.name, one.entry.model.family, one.entry.model.width, one.interface)
        for one in parsed
        if one.entry is not None and one.interface is not None
    ]
    return misfits_among(known, choose_interfaces((each[1:] for each in known), {}))


def _weigh(entry: RepositoryEntry, folder: Path, stamp: tuple[int, int]) -> RepositoryEntry:
    """Return the entry of a model of any backend with the size and the time of all files of its newest version."""
    versions = [path for path in folder.iterdir() if path.name.isascii() and path.name.isdigit()]
    if not versions:
        raise ConfigError(f"model {folder.name} has no version in {folder}; it is served and not looked after")
    statuses = [path.stat() for path in max(versions, key=lambda path: int(path.name)).rglob("*") if path.is_file()]
    size_bytes, newest_ns = sum(s.st_size for s in statuses), max((s.st_mtime_ns for s in statuses), default=0)
    files_stamp = f"{stamp[0]}-{stamp[1]}-{newest_ns}-{size_bytes}"
    return replace(entry, model=replace(entry.model, weights_bytes=size_bytes, files_stamp=files_stamp))


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
