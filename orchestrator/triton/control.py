"""``ModelControl`` over a real Triton: what is loaded, and how that is changed.

Truth is read from Triton, nothing is remembered of what was done. Loads are always the canonical full config of
the files (see ``repository``), never a plain load, which after an override does nothing and says that it did.

``judge_versions`` reads the repository index; ``describe_running`` reads the config that a model runs with. Triton
fills defaults into that (names, version policy, preferred batch, pinned memory, ``runtime``), so a model counts as
canonical when all that its file sets is found again, not when the two are equal. Two lists must be of one length,
though, and ``parameters`` have the same keys: more than the file has came from elsewhere.

Facts of Triton 2.51 that shape it, proven in tests/triton/test_real_control.py: a load returns when the new version
serves, and answers a failed reload with the reason while the old one goes on; a load whose caller has gone goes on in
the server; an unload returns at once, and the index says UNLOADING until the last stub is gone, a second or so.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from orchestrator.config import FleetSettings, ServerSettings
from orchestrator.errors import ConfigError, DeadlineError, ModelNotFoundError, PermanentError, TransientError
from orchestrator.planner.host import Batching, LoadedModel, ModelStatus, RepositoryModel
from orchestrator.planner.rates import Counters
from orchestrator.snapshot import ModelName
from orchestrator.triton.client import IndexEntry, TritonClient
from orchestrator.triton.counters import read_counters
from orchestrator.triton.errors import NOT_EXPLICIT, RESTRICTED
from orchestrator.triton.families import Described, describe_models
from orchestrator.triton.messages import ModelConfig
from orchestrator.triton.protocol_key import HEADER_PREFIX, read_protocol_key
from orchestrator.triton.repository import (
    NONCE,
    Repository,
    RepositoryEntry,
    build_override,
    encode_config,
    normalise_batching,
    parse_batching,
)

POLL_FAILURE = "failed to poll from model repository"
INDEX_PERIOD_S = 0.05
PROBE = "slimsched-preflight-no-such-model"  # unloading a name that Triton doesn't know does nothing
UNLOADED = "unloaded"
PYTHON_RUNTIME = "model.py"
# One answering version is enough, and a version that comes or goes is more than one that failed.
_PRECEDENCE = (ModelStatus.READY, ModelStatus.LOADING, ModelStatus.UNLOADING)


class TritonControl:
    """One Triton in explicit mode, and its repository; to be used from one event loop.

    Args:
        repository: The folder that the Triton serves, as seen from here.
        family: The only family to look after; None: every one in the repository.
        described: What the fleet file says of models.
        protocol_key: As for TritonClient.
        timeout_s: The time limit of every call but loads, which take as long as they take.
        unload_timeout_s: The time from the answer to an unload until the model is gone; requests in flight end first.
    """

    def __init__(
        self,
        address: str,
        metrics_url: str,
        repository: Path,
        *,
        family: str | None = None,
        described: Described | None = None,
        protocol_key: tuple[str, str] | None = None,
        timeout_s: float = 5.0,
        unload_timeout_s: float = 10.0,
    ) -> None:
        self.client = TritonClient(address, timeout_s=timeout_s, protocol_key=protocol_key)
        self.protocol_key = protocol_key
        self.repository = Repository(repository, family, described)
        self._metrics_url = metrics_url
        self._timeout_s = timeout_s
        self._unload_timeout_s = unload_timeout_s

    def repository_models(self) -> tuple[RepositoryModel, ...]:
        """Return the widths, as ``ModelControl`` says."""
        return tuple(entry.model for entry in self.repository.entries())

    def misfits(self) -> Mapping[str, str]:
        """Return why models are left out, as ``ModelControl`` says."""
        return self.repository.misfits

    async def loaded_models(self) -> tuple[LoadedModel, ...]:
        """Return where each of them stands, as ``ModelControl`` says."""
        entries = self.repository.entries()
        versions = group_versions(await self.client.index())
        reads = (self._read(entry, versions.get(entry.model.name, ())) for entry in entries)
        return tuple(await asyncio.gather(*reads))

    async def counters(self) -> Mapping[ModelName, Counters]:
        """Return their counters, as ``ModelControl`` says."""
        return await read_counters(self._metrics_url, timeout_s=self._timeout_s)

    async def apply(self, model: ModelName, *, instances: int, batching: Batching, nonce: str) -> None:
        """Load or change a model, as ``ModelControl`` says.

        Raises:
            ConfigError: Triton would refuse the config, or the weights are not those that it names; nothing was sent.
            ModelNotFoundError: The repository has no such model.
            PermanentError: The load failed, with Triton's reason; what served before still does. Or other weights came
                in while it was loaded; then it was unloaded again.
            TransientError: Triton could not read the config, or runs something else than was asked for.
        """
        entry = self._find(model)
        if entry.model.damage:
            raise ConfigError(f"model {model} is not loaded: {entry.model.damage}")
        config = build_override(entry, instances=instances, batching=batching, nonce=nonce)
        try:
            await self.client.load_model(model, config=config)
        except TransientError as exc:
            if POLL_FAILURE not in str(exc):
                raise
            raise TransientError(f"{exc}; the reason is in Triton's log, in the line with 'Poll failed'") from exc
        if damage := self._find(model).model.damage:
            await self.unload(model)
            raise PermanentError(f"model {model} is unloaded, its weights changed while it was loaded: {damage}")
        running = describe_running(entry, await self.client.model_config(model))
        asked = (instances, normalise_batching(batching, entry.model.max_batch_size), nonce)
        found = (running.instances, running.batching, running.nonce)
        for name, wanted, actual in zip(("instances", "batching", "nonce"), asked, found, strict=True):
            if actual != wanted:
                raise TransientError(
                    f"Triton at {self.client.address}: model {model} was loaded with {name} {wanted!r} and runs with "
                    f"{actual!r}; something else changes it too"
                )

    async def unload(self, model: ModelName) -> None:
        """Unload a model, as ``ModelControl`` says.

        Raises:
            ModelNotFoundError: The repository has no such model.
            DeadlineError: The model was not gone in time.
        """
        self._find(model)
        await self.client.unload_model(model)
        loop = asyncio.get_running_loop()
        deadline_s = loop.time() + self._unload_timeout_s
        while states := await self._states_left(model):
            if loop.time() > deadline_s:
                raise DeadlineError(
                    f"Triton at {self.client.address}: model {model} is still {' and '.join(states)} "
                    f"{self._unload_timeout_s:g} s after its unload; requests in flight end first"
                )
            await asyncio.sleep(INDEX_PERIOD_S)

    async def close(self) -> None:
        """Close the connection to the Triton."""
        await self.client.close()

    async def _read(self, entry: RepositoryEntry, versions: Sequence[IndexEntry]) -> LoadedModel:
        status, reason = judge_versions(versions)
        if status is not ModelStatus.READY:
            return LoadedModel(entry.model.name, status, reason)
        try:
            return describe_running(entry, await self.client.model_config(entry.model.name))
        except ModelNotFoundError:  # unloaded since the index was read
            return LoadedModel(entry.model.name, ModelStatus.ABSENT)

    async def _states_left(self, model: ModelName) -> list[str]:
        # A version that failed stays UNAVAILABLE with its reason; an unload does not clear it, and need not.
        return sorted({e.state for e in await self.client.index() if e.name == model} - {"UNAVAILABLE", ""})

    def _find(self, name: ModelName) -> RepositoryEntry:
        entries = self.repository.entries()
        for entry in entries:
            if entry.model.name == name:
                return entry
        names = ", ".join(entry.model.name for entry in entries)
        raise ModelNotFoundError(f"repository {self.repository.path} has no model {name!r}; it has: {names}")


def open_control(server: ServerSettings, fleet: FleetSettings) -> TritonControl:
    """Return the control of a server as the fleet file describes it; who asks closes it.

    Raises:
        ConfigError: when its repository or metrics are not set, or its protocol key file can't be used.
    """
    if server.repository is None:
        raise ConfigError(
            f"servers[{server.name}].repository is not set; give the folder that its Triton serves, as seen from here"
        )
    if server.metrics is None:
        raise ConfigError(
            f"servers[{server.name}].metrics is not set; give the URL of its Triton's metrics, such as "
            "http://127.0.0.1:8002/metrics"
        )
    return TritonControl(
        server.grpc,
        server.metrics,
        server.repository,
        family=fleet.controller.family,
        described=describe_models(fleet.families),
        protocol_key=read_protocol_key(server.protocol_key_file),
    )


async def check_control(control: TritonControl) -> None:
    """Check, without changing anything, that a Triton lets itself be controlled.

    Raises:
        ConfigError: Its repository, its mode or its restricted protocols stand against it; says what and the remedy.
        ServerUnavailableError: It can't be reached; it may be starting.
    """
    names = [model.name for model in control.repository_models()]
    client = control.client
    try:
        index = await client.index()
        with contextlib.suppress(ModelNotFoundError):  # what 2.51 leaves out, a later Triton may well say
            await client.unload_model(PROBE)
        with contextlib.suppress(ModelNotFoundError):  # as it should be: the name is looked up after the key
            await client.model_config(PROBE)
    except PermanentError as exc:
        raise _explain(exc, control) from exc
    missing = sorted(set(names) - {entry.name for entry in index})
    if missing:
        raise ConfigError(
            f"Triton at {client.address} knows no model {', '.join(missing)} of {control.repository.path}; "
            "set the server's 'repository' to the folder that this Triton serves"
        )


def _explain(error: PermanentError, control: TritonControl) -> ConfigError:
    address = control.client.address
    if NOT_EXPLICIT in str(error):
        return ConfigError(
            f"Triton at {address} lets no one load or unload; start it with --model-control-mode=explicit"
        )
    if RESTRICTED not in str(error):
        return ConfigError(f"this Triton refuses to be controlled: {error}")
    found = re.search(f"'{HEADER_PREFIX}([^']*)'", str(error))
    wanted = found.group(1) if found else "?"
    key = None if control.protocol_key is None else control.protocol_key[0]
    if key is None:
        problem = "no key was given"
    elif key != wanted:
        problem = f"the key given is {key!r}"
    else:
        problem = f"the value given for {key!r} is not Triton's"
    return ConfigError(
        f"Triton at {address} restricts its control protocols to the key {wanted!r}, and {problem}; set the server's "
        f"protocol_key_file to a file with '{wanted}=VALUE' as in Triton's --grpc-restricted-protocol"
    )


def group_versions(index: Iterable[IndexEntry]) -> dict[str, tuple[IndexEntry, ...]]:
    """Return the versions of each model of a repository index that is ordered by name."""
    return {name: tuple(versions) for name, versions in groupby(index, key=lambda entry: entry.name)}


def judge_versions(versions: Sequence[IndexEntry]) -> tuple[ModelStatus, str]:
    """Return where a model stands by what the index says of its versions, and why when it failed."""
    states = {version.state for version in versions}
    for status in _PRECEDENCE:
        if status.name in states:
            return status, ""
    failed = [v.reason for v in versions if v.state == "UNAVAILABLE" and v.reason not in ("", UNLOADED)]
    return (ModelStatus.FAILED, " ".join("; ".join(failed).split())) if failed else (ModelStatus.ABSENT, "")


def describe_running(entry: RepositoryEntry, running: ModelConfig) -> LoadedModel:
    """Return a READY model by the config it runs with."""
    found = encode_config(running)
    return LoadedModel(
        name=entry.model.name,
        status=ModelStatus.READY,
        instances=sum(group.count for group in running.instance_group),
        batching=parse_batching(found.get("dynamic_batching", {}), running.max_batch_size),
        nonce=running.parameters[NONCE].string_value if NONCE in running.parameters else "",
        is_canonical=is_canonical(found, entry.config),
        is_python_based=running.runtime == PYTHON_RUNTIME,
    )


def is_canonical(running: Mapping[str, Any], canonical: Mapping[str, Any]) -> bool:
    """Return whether a running config has all that the canonical one sets; both as JSON.

    The canonical one has no instance count, no batching parameters and no nonce, see RepositoryEntry.
    """
    keys = running.get("parameters", {}).keys() - {NONCE}
    return keys == canonical.get("parameters", {}).keys() and _contains(running, canonical)


def _contains(found: Any, wanted: Any) -> bool:
    if isinstance(wanted, Mapping):
        return isinstance(found, Mapping) and all(
            key in found and _contains(found[key], value) for key, value in wanted.items()
        )
    if isinstance(wanted, list):
        return (
            isinstance(found, list)
            and len(found) == len(wanted)
            and all(_contains(*pair) for pair in zip(found, wanted, strict=True))
        )
    return bool(found == wanted)
